package transfer

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"skylift/internal/bandwidth"
	"skylift/staging"
)

// discard is a connection that takes everything at once.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// world plays segments of text, which shrink to a third, through a compressor
// with two cores of 100 MiB/s and eight senders at the end of a line.
type world struct {
	t    *testing.T
	c    *compressor
	now  time.Time
	line float64 // bytes a second
	wire float64 // bytes a second that one connection gets at most
	load float64 // how many times slower the cores are than they were
}

func newWorld(t *testing.T, line float64, limit bandwidth.Limit) *world {
	w := &world{t: t, now: time.Unix(0, 0), line: line, wire: 200 * mib, load: 1}
	w.c = newCompressor(2, 8, func() bandwidth.Limit { return limit })
	w.c.now = func() time.Time { return w.now }
	return w
}

// play runs so many rounds of eight segments that are begun together, and
// tells how many segments were compressed.
func (w *world) play(rounds int) (compressed int) {
	const size = 8 * mib
	for range rounds {
		type segment struct {
			began      time.Time
			bytes      int64
			compressed bool
		}
		var all []segment
		total, encoding := 0.0, 0.0
		for range 8 {
			s := segment{bytes: size, compressed: w.c.choose(Auto)}
			if s.compressed {
				compressed++
				s.bytes = size / 3
				took := size * w.load / (100 * mib)
				w.c.encoded(size, time.Duration(took*float64(time.Second)))
				encoding += took / 2
			}
			total += float64(s.bytes)
			all = append(all, s)
		}
		w.now = w.now.Add(time.Duration(encoding * float64(time.Second)))
		for i := range all {
			all[i].began = w.c.sending(all[i].compressed)
		}
		rate := min(w.line, 8*w.wire)
		w.now = w.now.Add(time.Duration(total / rate * float64(time.Second)))
		for _, s := range all {
			w.c.sent(s.began, s.bytes, s.compressed, true)
		}
	}
	return compressed
}

func TestAutoCompressesOnALineThatIsSlowerThanTheCores(t *testing.T) {
	w := newWorld(t, 50*mib, bandwidth.Unlimited)
	if n := w.play(200); n != 1600 {
		t.Errorf("%d of 1,600 segments were compressed", n)
	}
}

func TestAutoDoesNotCompressOnALineThatIsFasterThanTheCores(t *testing.T) {
	w := newWorld(t, 1000*mib, bandwidth.Unlimited)
	w.play(3) // it has to see that
	if n := w.play(200); n > 16 {
		t.Errorf("%d of 1,600 segments were compressed", n)
	}
}

func TestAutoCompressesWhereTheLimitIsBelowTheCores(t *testing.T) {
	w := newWorld(t, 1000*mib, 100*mib)
	if n := w.play(200); n != 1600 {
		t.Errorf("%d of 1,600 segments were compressed", n)
	}
}

func TestAutoFollowsALimitThatIsSetLater(t *testing.T) {
	w := newWorld(t, 1000*mib, bandwidth.Unlimited)
	w.play(20)
	w.c.limit = func() bandwidth.Limit { return 10 * mib }
	if n := w.play(10); n != 80 {
		t.Errorf("with a limit %d of 80 segments were compressed", n)
	}
	w.c.limit = func() bandwidth.Limit { return bandwidth.Unlimited }
	w.play(3)
	if n := w.play(10); n > 8 {
		t.Errorf("without it %d of 80 segments were compressed", n)
	}
}

func TestAutoFollowsALineThatSlowsDown(t *testing.T) {
	w := newWorld(t, 1000*mib, bandwidth.Unlimited)
	w.play(20)
	w.line = 20 * mib
	w.play(5)
	if n := w.play(100); n != 800 {
		t.Errorf("on a slow line %d of 800 segments were compressed", n)
	}
}

func TestAutoMeasuresCoresThatOthersUseAnew(t *testing.T) {
	// The line is faster than the two cores together, at first by little.
	w := newWorld(t, 300*mib, bandwidth.Unlimited)
	w.play(20)
	w.load = 0.3 // what used the cores at first has ended
	w.play(800)  // not quite three minutes
	if n := w.play(100); n < 700 {
		t.Errorf("with faster cores %d of 800 segments were compressed", n)
	}
}

func TestAutoDoesNotGoBackAndForthOnALineLikeTheCores(t *testing.T) {
	for _, line := range []float64{150, 180, 200, 220, 260} {
		w := newWorld(t, line*mib, bandwidth.Unlimited)
		changes, last := 0, false
		for range 2000 { // more than ten minutes
			w.play(1)
			if w.c.off != last {
				changes, last = changes+1, w.c.off
			}
		}
		if minutes := w.now.Sub(time.Unix(0, 0)).Minutes(); float64(changes) > 2+minutes {
			t.Errorf("at %.0f MiB/s it changed %d times in %.0f minutes", line, changes, minutes)
		}
	}
}

func TestZstdAndOffAreNotDecidedAbout(t *testing.T) {
	for _, line := range []float64{mib, 10_000 * mib} {
		w := newWorld(t, line, bandwidth.Unlimited)
		w.play(20)
		if !w.c.choose(Zstd) || w.c.choose(Off) {
			t.Errorf("at %.0f bytes/s zstd or off was not kept to", line)
		}
	}
}

// textDisk has as many slices of compressible text as wanted.
func textDisk(slices int) *loopDisk {
	var text bytes.Buffer
	for i := 0; text.Len() < staging.SegmentBlocks*staging.BlockSize; i++ {
		fmt.Fprintf(&text, "%08d server-%d answered %d in %d ms\n", i, i%50, i%5*100, i*7919%1000)
	}
	return &loopDisk{int64(slices) * staging.SegmentBlocks * staging.BlockSize, text.Bytes()[:staging.SegmentBlocks*staging.BlockSize]}
}

func TestARunInAutoTakesTheStoresSpeedIntoAccount(t *testing.T) {
	const slices = 18
	whole := int64(slices * staging.SegmentBlocks * staging.BlockSize)
	run := func(ctx context.Context, m *Mover, store staging.Store) *Progress {
		d, p := textDisk(slices), new(Progress)
		if _, err := m.Move(ctx, taskOf(d, store, p)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	// In a bubble computing takes no time, and sending does.
	var all int64
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Memory: newStore(), speed: mib}
		p := run(t.Context(), newMover(t, Config{Parallel: 2}), store)
		if all = p.Stored.Load(); all > whole/2 || !p.Compressing.Load() {
			t.Errorf("over a slow line %d of %d bytes were stored", all, whole)
		}
	})
	// Memory is faster than any compressor, though a busy machine may see that late.
	if p := run(t.Context(), newMover(t, Config{Parallel: 2}), newStore()); p.Stored.Load() < all+10*mib {
		t.Errorf("into memory %d of %d bytes were stored, and %d if all is compressed", p.Stored.Load(), whole, all)
	}
}
