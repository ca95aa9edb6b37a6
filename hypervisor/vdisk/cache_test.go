package vdisk

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// wide is a COWD file whose tables are all there, one after the other: the
// disk is as large as makes so many.
func wide(tables int64) []byte {
	d := delta{tables * cowdEntries * 512, 512, nil}
	f := d.cowd(seeded(1))
	for n := range tables {
		f.put32(2048+4*n, f.grow(cowdEntries*4))
	}
	return f
}

func TestTablesAreReadOnceAndABoundedNumberIsKept(t *testing.T) {
	const tables = 3 * cached
	f := &counted{File: fileOf(wide(tables))}
	l := link(t, OpenCOWD, f).Layout
	f.reads.Store(0)
	at := func(n int64) { mustPieces(t, l, n*cowdEntries*512, 512) }
	for range 3 {
		for n := range int64(10) {
			at(n)
		}
	}
	if n := f.reads.Load(); n != 11 {
		t.Errorf("10 tables of one page took %d reads", n)
	}
	for n := range int64(tables) {
		at(n)
		at(0)
	}
	if n := f.reads.Load(); n != tables+1 {
		t.Errorf("%d tables, one used all the time, took %d reads", tables, n)
	}
	g := l.(*grains)
	if n := len(g.cache.held); n != cached {
		t.Errorf("%d tables are kept, expected %d", n, cached)
	}
	at(1)
	if n := f.reads.Load(); n != tables+2 {
		t.Errorf("a table that was dropped took %d reads", n-tables-1)
	}
}

func TestManyWhoWantATableReadItOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counted{File: fileOf(wide(2))}
		l := link(t, OpenCOWD, f).Layout
		f.reads.Store(0)
		var all sync.WaitGroup
		gate := make(chan struct{})
		f.fail = func() error { <-gate; return nil }
		for range 20 {
			all.Go(func() { mustPieces(t, l, 0, l.Size()) })
		}
		synctest.Wait()
		if n := f.reads.Load(); n != 1 {
			t.Errorf("%d read the directory at once", n)
		}
		close(gate)
		all.Wait()
		if n := f.reads.Load(); n != 3 {
			t.Errorf("a directory and two tables took %d reads", n)
		}
	})
}

func TestATableThatIsBeingReadIsNotDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counted{File: fileOf(wide(2 * cached))}
		l := link(t, OpenCOWD, f).Layout
		mustPieces(t, l, cowdEntries*512, 512) // the directory
		gate := make(chan struct{})
		f.fail = func() error { <-gate; return nil }
		var all sync.WaitGroup
		all.Go(func() { mustPieces(t, l, 0, 512) })
		synctest.Wait()
		f.fail = nil
		for n := range int64(2*cached - 1) {
			mustPieces(t, l, (n+1)*cowdEntries*512, 512)
		}
		before := f.reads.Load()
		all.Go(func() { mustPieces(t, l, 0, 512) })
		synctest.Wait()
		if f.reads.Load() != before {
			t.Error("it was read twice at once")
		}
		close(gate)
		all.Wait()
	})
}

func TestWhoGivesUpDoesNotFailThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counted{File: fileOf(wide(1))}
		l := link(t, OpenCOWD, f).Layout
		first, giveUp := context.WithCancel(context.Background())
		entered := make(chan struct{})
		var once sync.Once
		f.fail = func() (err error) {
			once.Do(func() {
				close(entered)
				<-first.Done()
				err = first.Err()
			})
			return err
		}
		var all sync.WaitGroup
		all.Go(func() {
			if err := l.Pieces(first, 0, 512, func(Piece) error { return nil }); !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up got %v", err)
			}
		})
		<-entered
		for range 5 {
			all.Go(func() { mustPieces(t, l, 0, 512) })
		}
		impatient, leave := context.WithCancel(context.Background())
		all.Go(func() {
			if err := l.Pieces(impatient, 0, 512, func(Piece) error { return nil }); !errors.Is(err, context.Canceled) {
				t.Errorf("who left while waiting got %v", err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		giveUp()
		all.Wait()
	})
}

func TestATableThatCannotBeReadIsTriedAgain(t *testing.T) {
	broken := errors.New("connection reset")
	f := &counted{File: fileOf(wide(1))}
	l := link(t, OpenCOWD, f).Layout
	f.fail = func() error { return broken }
	if _, err := pieces(l, 0, 512); !errors.Is(err, broken) || isFormatError(err) {
		t.Fatalf("error %v", err)
	}
	f.fail = nil
	mustPieces(t, l, 0, 512)
}

// The largest disks: their directories are not read to find one grain.
func TestOneGrainOfTheLargestDiskTakesTwoReads(t *testing.T) {
	const size = 64 << 40
	header := delta{size: 1 << 20, grain: 4096}.sesparse(seeded(1), 0)[:2*SectorSize]
	const entries = size / (4096 * seEntries)
	binary.LittleEndian.PutUint64(header[16:], size/SectorSize)
	for i, v := range []uint64{2048, entries * 8 / SectorSize, 1 << 20, 1 << 30} {
		binary.LittleEndian.PutUint64(header[(16+i)*8:], v)
	}
	binary.LittleEndian.PutUint64(header[24*8:], 1<<31)
	f := &counted{File: &hollow{size: 1 << 41, parts: map[int64][]byte{
		0:                         header,
		1<<20 + (entries-1)*8:     binary.LittleEndian.AppendUint64(nil, 1<<60|7),
		1<<29 + 7*32<<10 + 4095*8: binary.LittleEndian.AppendUint64(nil, 3<<60|5<<48|1),
	}}}
	l := link(t, OpenSESparse, f).Layout
	f.reads.Store(0)
	got := mustPieces(t, l, size-10, 10)
	if want := (Piece{size - 10, 10, 1<<40 + (4096+5)*4096 + 4086, Data}); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := f.reads.Load(); n != 2 {
		t.Errorf("%d reads", n)
	}
	if got := mustPieces(t, l, 1<<40, 1<<40); len(got) != 1 || got[0].Kind != Parent {
		t.Errorf("1 TiB of nothing: %d pieces", len(got))
	}
	if n := len(l.(*grains).cache.held); n > cached {
		t.Errorf("%d tables are kept", n)
	}
}

// hollow is a file of zeros with some parts.
type hollow struct {
	size  int64
	parts map[int64][]byte
}

func (h *hollow) Size() int64 { return h.size }

func (h *hollow) ReadAt(_ context.Context, p []byte, off int64) error {
	clear(p)
	for at, part := range h.parts {
		for i, b := range part {
			if to := at + int64(i) - off; to >= 0 && to < int64(len(p)) {
				p[to] = b
			}
		}
	}
	return nil
}
