package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"skylift/hypervisor"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// lying has the disk name only the first extents of what it should.
func lying(d *fakeDisk, extents int) {
	honest := d.changed
	d.changed = func(since hypervisor.ChangeID) ([]hypervisor.Extent, error) {
		all, err := honest(since)
		return all[:extents], err
	}
}

// onBothKinds runs a test with a disk of random access and one that is a stream.
func onBothKinds(t *testing.T, test func(t *testing.T, stream bool)) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream=%v", stream), func(t *testing.T) { test(t, stream) })
	}
}

func TestTrackingThatLiesTurnsTheRunIntoAComparingPass(t *testing.T) {
	onBothKinds(t, func(t *testing.T, stream bool) {
		g := newGuest(t, 64*staging.BlockSize, 3)
		g.stream, g.raw = stream, true
		g.writeAt(0, 64*staging.BlockSize, 0)
		store, mover := newStore(), newMover(t, Config{})
		runOnce(t, g, mover, store)
		g.writeAt(10*staging.BlockSize, 100, 0)
		g.writeAt(20*staging.BlockSize, 100, 0)
		d := g.freeze()
		lying(d, 1)
		p := new(Progress)
		task := g.task(d, store, p)
		sealed, err := mover.Move(t.Context(), task)
		if err != nil {
			t.Fatal(err)
		}
		if mode, reason := p.Mode(); mode != staging.Comparing || !strings.Contains(reason, "block 20") {
			t.Errorf("the run is %s because %q", mode, reason)
		}
		plan, sum, err := staging.ReadPlan(t.Context(), store, sealed.Manifest.Place())
		if err != nil || plan.Mode != staging.Comparing || sum != sealed.Manifest.Plan {
			t.Errorf("the plan in staging is %s, and the manifest is of another: %v", plan.Mode, err)
		}
		if p.Changed.Load() != 2*staging.BlockSize || p.Done.Load() != p.Planned.Load() || p.Planned.Load() != 64*staging.BlockSize {
			t.Errorf("changed %d, done %d of %d bytes", p.Changed.Load(), p.Done.Load(), p.Planned.Load())
		}
		g.land(d, store, sealed)
	})
}

func TestASourceThatLiesAboutWhatIsAllocatedIsReadWhole(t *testing.T) {
	onBothKinds(t, func(t *testing.T, stream bool) {
		g := newGuest(t, 64*staging.BlockSize, 12)
		g.stream, g.raw = stream, true
		g.writeAt(0, 40*staging.BlockSize, 0)
		d := g.freeze()
		lying(d, 20)
		store, p := newStore(), new(Progress)
		sealed, err := newMover(t, Config{}).Move(t.Context(), g.task(d, store, p))
		if err != nil {
			t.Fatal(err)
		}
		if mode, reason := p.Mode(); mode != staging.Full || !strings.Contains(reason, "lied about what is allocated") {
			t.Errorf("the run is %s because %q", mode, reason)
		}
		g.land(d, store, sealed)
	})
}

func TestAStreamIsReadOnceAndHasItsSampleInIt(t *testing.T) {
	g := newGuest(t, 70*mib, 2)
	g.stream, g.raw = true, true
	g.writeAt(0, 70*mib, 1)
	store, mover := newStore(), newMover(t, Config{})
	runOnce(t, g, mover, store)
	g.writeAt(30*mib, 3*staging.BlockSize, 0)
	g.writeAt(40*mib, 2*staging.BlockSize, 0)
	d, p := g.freeze(), new(Progress)
	sealed, err := mover.Move(t.Context(), g.task(d, store, p))
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(5+sampleMinimum) * staging.BlockSize; d.opened != 1 || p.Read.Load() != want {
		t.Errorf("read %d times, %d bytes, want once and %d", d.opened, p.Read.Load(), want)
	}
	if mode, _ := p.Mode(); mode != staging.Incremental || p.Changed.Load() != 5*staging.BlockSize {
		t.Errorf("the run is %s and changed %d bytes", mode, p.Changed.Load())
	}
	g.land(d, store, sealed)
}

func TestAStreamThatIsContinuedIsSampledAgain(t *testing.T) {
	g := newGuest(t, 64*staging.BlockSize, 4)
	g.stream, g.raw = true, true
	g.writeAt(0, 64*staging.BlockSize, 0)
	store, mover := newStore(), newMover(t, Config{})
	runOnce(t, g, mover, store)
	g.writeAt(10*staging.BlockSize, 100, 0)
	g.writeAt(20*staging.BlockSize, 100, 0)
	d := g.freeze()
	lying(d, 1)
	// The first attempt's sample happens to miss block 20: it is told the old bytes.
	now := d.bytes
	d.bytes = append([]byte(nil), now...)
	copy(d.bytes[20*staging.BlockSize:21*staging.BlockSize], g.image[20*staging.BlockSize:])
	store.SetFault(func(op stagingtest.Op, key string) error {
		if op == stagingtest.Create && strings.HasSuffix(key, "/manifest") {
			return errKilled
		}
		return nil
	})
	if _, err := mover.Move(t.Context(), g.task(d, store, nil)); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	store.SetFault(nil)
	d.bytes = now
	p := new(Progress)
	sealed, err := mover.Move(t.Context(), g.task(d, store, p))
	if err != nil {
		t.Fatal(err)
	}
	if mode, _ := p.Mode(); mode != staging.Comparing {
		t.Errorf("the run is %s", mode)
	}
	g.land(d, store, sealed)
}

func TestALieThatIsFoundInTheMiddleOfAStreamSurvivesAKill(t *testing.T) {
	mover := newMover(t, Config{Parallel: 2})
	// Every call at first, then ever fewer: the later ones are alike.
	for kill := 1; ; kill += 1 + kill/2 {
		g := newGuest(t, 12*mib, 6)
		g.stream, g.raw = true, true
		store := newStore()
		runOnce(t, g, mover, store)
		g.writeAt(0, 9*mib, 0)
		g.writeAt(11*mib, 1*mib, 0)
		d := g.freeze()
		lying(d, 18) // the first 9 MiB
		var calls atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		store.SetFault(func(stagingtest.Op, string) error {
			if calls.Add(1) >= int64(kill) {
				cancel()
				return errKilled
			}
			return nil
		})
		_, err := mover.Move(ctx, g.task(d, store, nil))
		cancel()
		store.SetFault(nil)
		p := new(Progress)
		sealed, again := mover.Move(t.Context(), g.task(d, store, p))
		if again != nil {
			t.Fatalf("killed at call %d: %v", kill, again)
		}
		if mode, reason := p.Mode(); mode != staging.Comparing || !strings.Contains(reason, "lied") {
			t.Errorf("killed at call %d: the run is %s because %q", kill, mode, reason)
		}
		g.land(d, store, sealed)
		if err == nil {
			break // the kill came after the last call
		}
	}
}
