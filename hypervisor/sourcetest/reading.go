package sourcetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

func readsFrozen(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small, larger)
	want := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	if len(sn.Disks()) != 2 {
		t.Fatalf("the snapshot has %d disks", len(sn.Disks()))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		random := rand.New(rand.NewPCG(2, 2))
		for {
			select {
			case <-stop:
				return
			default:
				g.scribble(t, random, random.IntN(2))
			}
		}
	}()
	for i, d := range sn.Disks() {
		if info := d.Info(); info.Size != int64(len(want[i])) || info.Name == "" || info.Transport == "" || info.Why == "" || info.Position != i {
			t.Errorf("disk %d is %+v", i, info)
		}
		for range 3 {
			mustRead(t, d, want[i])
		}
	}
	close(stop)
	<-stopped
	if err := sn.Verify(newContext(t)); err != nil {
		t.Errorf("verify: %v", err)
	}
	settle(t, s, ref)
}

func readsConcurrently(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", larger)
	want := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	d := sn.Disks()[0]
	readers := 24
	if !d.Info().RandomAccess {
		readers = 1
	}
	const b = hypervisor.BlockSize
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			// Every reader takes other blocks, some of them touching.
			first := int64(i % 4)
			in := []hypervisor.Extent{{Offset: first * b, Length: b}, {Offset: (first + 1) * b, Length: b}, {Offset: (first + 4) * b, Length: 2 * b}}
			got, err := readExtents(newContext(t), d, in)
			if err != nil {
				t.Errorf("reader %d: %v", i, err)
				return
			}
			for _, e := range in {
				if string(got[e.Offset:e.End()]) != string(want[0][e.Offset:e.End()]) {
					t.Errorf("reader %d: other bytes in %v", i, e)
				}
			}
		})
	}
	all.Wait()
	settle(t, s, ref)
}

func readStops(t testing.TB, p Platform) {
	s, stop := p.Source(t)
	g := addGuest(t, p, "one", larger)
	ref, sn := take(t, s, runID(1), g)
	d := sn.Disks()[0]
	whole := []hypervisor.Extent{{Length: larger}}

	enough := errors.New("enough")
	if err := d.Read(newContext(t), whole, func(int64, []byte, int64) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("read ended with %v, want the receiver's error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := d.Read(ctx, whole, func(int64, []byte, int64) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("read ended with %v, want the context's error", err)
	}
	if err := d.Read(newContext(t), nil, func(int64, []byte, int64) error { return enough }); err != nil {
		t.Errorf("reading nothing: %v", err)
	}
	settle(t, s, ref)
	stop()
	eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
}

func readRefuses(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", larger)
	ref, sn := take(t, s, runID(1), g)
	const b = hypervisor.BlockSize
	for _, in := range [][]hypervisor.Extent{
		{{Offset: 512, Length: b}},
		{{Offset: 0, Length: 512}},
		{{Offset: 0, Length: larger + b}},
		{{Offset: b, Length: b}, {Offset: 0, Length: b}},
		{{Offset: 0, Length: 2 * b}, {Offset: b, Length: b}},
		{{Offset: -b, Length: b}},
	} {
		if _, err := readExtents(newContext(t), sn.Disks()[0], in); err == nil {
			t.Errorf("%v was read", in)
		}
	}
	settle(t, s, ref)
}

// readHeldUp blocks emit for longer than the source's patience.
func readHeldUp(t testing.TB, p Platform) {
	s, stop := p.Source(t)
	g := addGuest(t, p, "one", larger)
	want := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	d := sn.Disks()[0]
	if patience := d.Info().Patience; patience > 0 && patience < time.Minute {
		got, held := make([]byte, larger), false
		err := d.Read(newContext(t), []hypervisor.Extent{{Length: larger}}, func(off int64, b []byte, n int64) error {
			if !held {
				held = true
				<-time.After(patience + patience/2)
			}
			copy(got[off:off+n], b)
			return nil
		})
		if err == nil {
			mustEqual(t, "held up", got, want[0])
		}
		mustRead(t, d, want[0]) // what is given up can be begun again
	}
	settle(t, s, ref)
	stop()
	eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
}

// unreadable spoils one of two disks.
func unreadable(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small, larger)
	want := g.frozen()
	p.SpoilDisk(t, g.id, 0)
	ref, sn := take(t, s, runID(1), g)
	if len(sn.Disks()) != 2 {
		t.Fatalf("the snapshot has %d disks", len(sn.Disks()))
	}
	spoiled, sound := sn.Disks()[0], sn.Disks()[1]
	if info := spoiled.Info(); info.ID == "" || info.Why == "" || info.Size != small {
		t.Errorf("the spoiled disk is %+v", info)
	}
	if _, err := readWhole(newContext(t), spoiled); problem.Of(err) == nil {
		t.Errorf("reading the spoiled disk: %v, want a problem that says what to do", err)
	}
	mustRead(t, sound, want[1])
	settle(t, s, ref)
}
