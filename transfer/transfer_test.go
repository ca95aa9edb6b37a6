package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"skylift/hypervisor"
	"skylift/internal/problem"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

const mib = 1 << 20

func TestEveryRunOfAChangingDiskArrives(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream=%v", stream), func(t *testing.T) {
			g := newGuest(t, 17*mib+4096, 1)
			g.stream = stream
			store, mover := newStore(), newMover(t, Config{Parallel: 3})
			for run := range 8 {
				for range 1 + g.rng.IntN(12) {
					g.write()
				}
				if run == 5 {
					g.grow(5*mib + 512)
				}
				d := g.freeze()
				changed, data := g.differing(d)
				p := new(Progress)
				sealed, err := mover.Move(t.Context(), g.task(d, store, p))
				if err != nil {
					t.Fatal(err)
				}
				want := staging.Incremental
				switch run {
				case 0:
					want = staging.Full
				case 5:
					want = staging.Comparing
				}
				if mode, reason := p.Mode(); mode != want || (mode == staging.Incremental) != (reason == "") {
					t.Errorf("run %d is %s (%s), want %s", run, mode, reason, want)
				}
				if p.Changed.Load() != changed || p.Sent.Load() != data {
					t.Errorf("run %d: changed %d and sent %d bytes, want %d and %d", run, p.Changed.Load(), p.Sent.Load(), changed, data)
				}
				if p.Done.Load() != p.Planned.Load() {
					t.Errorf("run %d: done %d of %d planned", run, p.Done.Load(), p.Planned.Load())
				}
				g.land(d, store, sealed)
			}
		})
	}
}

func TestADiskThatAnEarlierAttemptSealedShowsItsWholePlanAsDone(t *testing.T) {
	g := newGuest(t, 20*mib, 12)
	g.writeAt(0, 15*mib, 0)
	store, mover := newStore(), newMover(t, Config{})
	d := g.freeze()
	first, again := new(Progress), new(Progress)
	for _, p := range []*Progress{first, again} {
		if _, err := mover.Move(t.Context(), g.task(d, store, p)); err != nil {
			t.Fatal(err)
		}
	}
	planned := first.Planned.Load()
	if planned < 15*mib || again.Planned.Load() != planned || again.Done.Load() != planned || again.Resumed.Load() != planned || again.Read.Load() != 0 {
		t.Errorf("of %d bytes planned: planned %d, done %d, resumed %d, read %d", planned,
			again.Planned.Load(), again.Done.Load(), again.Resumed.Load(), again.Read.Load())
	}
	if mode, reason := again.Mode(); mode != staging.Full || reason != "first run" {
		t.Errorf("the run is %s because %q", mode, reason)
	}
}

func TestAnIncrementalRunReadsOnlyWhatChangedAndTheSample(t *testing.T) {
	g := newGuest(t, 70*mib, 2)
	g.raw = true
	g.writeAt(0, 70*mib, 1)
	store, mover := newStore(), newMover(t, Config{})
	runOnce(t, g, mover, store)
	g.writeAt(30*mib, 3*staging.BlockSize, 0)
	p := runOnce(t, g, mover, store)
	if want := int64(3+sampleMinimum) * staging.BlockSize; p.Read.Load() != want {
		t.Errorf("read %d bytes, want %d", p.Read.Load(), want)
	}
	if p.Sent.Load() != 3*staging.BlockSize || p.Stored.Load() > 4*staging.BlockSize {
		t.Errorf("sent %d, stored %d bytes for three blocks", p.Sent.Load(), p.Stored.Load())
	}
}

// runOnce makes one run and lands it.
func runOnce(t *testing.T, g *guest, mover *Mover, store staging.Store) *Progress {
	t.Helper()
	p := new(Progress)
	d := g.freeze()
	sealed, err := mover.Move(t.Context(), g.task(d, store, p))
	if err != nil {
		t.Fatal(err)
	}
	g.land(d, store, sealed)
	return p
}

func TestTrackingThatCannotAnswerTurnsTheRunIntoAComparingPass(t *testing.T) {
	g := newGuest(t, 20*mib, 4)
	g.writeAt(0, 20*mib, 0)
	store, mover := newStore(), newMover(t, Config{})
	runOnce(t, g, mover, store)
	g.write()
	d := g.freeze()
	d.changed = func(hypervisor.ChangeID) ([]hypervisor.Extent, error) {
		// What was emitted before must not be used.
		return []hypervisor.Extent{{Offset: 0, Length: 1}}, &hypervisor.TrackingError{Reason: "it was reset"}
	}
	p := new(Progress)
	sealed, err := mover.Move(t.Context(), g.task(d, store, p))
	if err != nil {
		t.Fatal(err)
	}
	if mode, reason := p.Mode(); mode != staging.Comparing || !strings.Contains(reason, "it was reset") {
		t.Errorf("the run is %s because %q", mode, reason)
	}
	g.land(d, store, sealed)
}

func TestALostBaseManifestMakesTheRunFull(t *testing.T) {
	g := newGuest(t, 20*mib, 5)
	g.writeAt(0, 20*mib, 0)
	store, mover := newStore(), newMover(t, Config{})
	runOnce(t, g, mover, store)
	place := staging.Place{Job: "sms-job-1", Run: g.base.Run, Disk: staging.DiskKey("6000C29-test")}
	if err := store.Delete(t.Context(), []string{place.Manifest()}); err != nil {
		t.Fatal(err)
	}
	if mode, reason := runOnce(t, g, mover, store).Mode(); mode != staging.Full || reason == "" {
		t.Errorf("the run is %s because %q", mode, reason)
	}
}

// errKilled stands for the connector's death: nothing is done after it.
var errKilled = errors.New("killed")

func TestAMoveThatIsKilledAnywhereIsContinued(t *testing.T) {
	mover := newMover(t, Config{Parallel: 2, Memory: 2 * slabSize(staging.LargeSegmentBlocks)})
	for _, stream := range []bool{false, true} {
		// Every call at first, then ever fewer: the later ones are alike.
		for kill := 1; ; kill += 1 + kill/4 {
			g := newGuest(t, 18*mib, 6)
			g.stream, g.raw = stream, true
			store := newStore()
			runOnce(t, g, mover, store)
			g.writeAt(0, 17*mib, 0)
			d := g.freeze()
			var calls atomic.Int64
			ctx, cancel := context.WithCancel(t.Context())
			store.SetFault(func(stagingtest.Op, string) error {
				if calls.Add(1) >= int64(kill) {
					cancel()
					return errKilled
				}
				return nil
			})
			before := new(Progress)
			_, err := mover.Move(ctx, g.task(d, store, before))
			cancel()
			store.SetFault(nil)
			after := new(Progress)
			sealed, again := mover.Move(t.Context(), g.task(d, store, after))
			if again != nil {
				t.Fatalf("killed at call %d: %v", kill, again)
			}
			g.land(d, store, sealed)
			// What was stored before the kill is not sent again; a segment or
			// two that were on their way are.
			_, data := int64(0), sealed.Manifest.Counters.Changed
			if sent := before.Sent.Load() + after.Sent.Load(); sent > data+2*2*staging.SegmentBlocks*staging.BlockSize {
				t.Errorf("killed at call %d: %d bytes sent for %d", kill, sent, data)
			}
			if err == nil {
				break // the kill came after the last call
			}
			if !errors.Is(err, errKilled) && !errors.Is(err, context.Canceled) {
				t.Errorf("killed at call %d: %v", kill, err)
			}
		}
	}
}

func TestASegmentOfAnotherPlanIsNotTaken(t *testing.T) {
	g := newGuest(t, 40*mib, 7)
	g.writeAt(0, 40*mib, 0)
	d := g.freeze()
	store, mover := newStore(), newMover(t, Config{})
	task := g.task(d, store, nil)
	// Another attempt of the same run, with a plan of its own, has stored a
	// segment and lost its plan to a store without conditional writes.
	w := staging.NewSegmentWriter(staging.SegmentBlocks, nil, nil)
	block := bytes.Repeat([]byte{7}, staging.BlockSize)
	if err := w.Add(0, staging.HashBlock(block), block); err != nil {
		t.Fatal(err)
	}
	place := staging.Place{Job: task.Job, Run: task.Run, Disk: staging.DiskKey(string(d.info.ID))}
	if err := store.Put(t.Context(), place.Segment(0), w.Bytes(staging.SegmentID{Plan: staging.Hash{9}})); err != nil {
		t.Fatal(err)
	}
	sealed, err := mover.Move(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	g.land(d, store, sealed)
}

func TestARunDoesNotGoOnWithAnotherSnapshot(t *testing.T) {
	g := newGuest(t, 20*mib, 8)
	g.writeAt(0, 20*mib, 0)
	d := g.freeze()
	store, mover := newStore(), newMover(t, Config{})
	d.fault = func(off int64) error {
		if off > 0 {
			return errKilled
		}
		return nil
	}
	if _, err := mover.Move(t.Context(), g.task(d, store, nil)); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	d.fault = nil
	other := g.task(d, store, nil)
	other.Ref.ID = "snapshot-other"
	if _, err := mover.Move(t.Context(), other); !problem.Has(err, PlanMismatch) {
		t.Errorf("got %v", err)
	}
	if sealed, err := mover.Move(t.Context(), g.task(d, store, nil)); err != nil {
		t.Error(err)
	} else {
		g.land(d, store, sealed)
	}
	if _, err := mover.Move(t.Context(), other); !problem.Has(err, PlanMismatch) {
		t.Errorf("after the seal: %v", err)
	}
}

func TestNothingIsSealedWhenTheSnapshotIsGone(t *testing.T) {
	g := newGuest(t, 20*mib, 9)
	g.write()
	d := g.freeze()
	store, mover := newStore(), newMover(t, Config{})
	task := g.task(d, store, nil)
	task.Snapshot = &fakeSnapshot{gone: hypervisor.SnapshotGone.New(nil, "snapshot-1")}
	if _, err := mover.Move(t.Context(), task); !problem.Has(err, hypervisor.SnapshotGone) {
		t.Errorf("got %v", err)
	}
	if err := store.List(t.Context(), "state/", func(o staging.Object) error {
		if strings.HasSuffix(o.Key, "/manifest") {
			return fmt.Errorf("%s was written", o.Key)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestASecondMoveOfASealedDiskFindsTheSeal(t *testing.T) {
	g := newGuest(t, 20*mib, 10)
	g.write()
	d := g.freeze()
	store, mover := newStore(), newMover(t, Config{})
	first, err := mover.Move(t.Context(), g.task(d, store, nil))
	if err != nil {
		t.Fatal(err)
	}
	d.fault = func(int64) error { return errors.New("nothing is to be read") }
	second, err := mover.Move(t.Context(), g.task(d, store, nil))
	if err != nil || second.Sum != first.Sum {
		t.Errorf("second: %v, %v", second.Sum, err)
	}
}

func TestASourceThatBreaksItsContractFailsTheRun(t *testing.T) {
	one := hypervisor.Extent{Offset: 0, Length: 2 * staging.BlockSize}
	for name, read := range map[string]func(emit func(int64, []byte, int64) error) error{
		"ends early": func(emit func(int64, []byte, int64) error) error { return emit(0, make([]byte, 100), 0) },
		"leaves a gap": func(emit func(int64, []byte, int64) error) error {
			return emit(staging.BlockSize, nil, staging.BlockSize)
		},
		"goes too far": func(emit func(int64, []byte, int64) error) error { return emit(0, nil, one.Length+1) },
		"goes on": func(emit func(int64, []byte, int64) error) error {
			return errors.Join(emit(0, nil, one.Length), emit(one.Length, nil, 1))
		},
		"repeats": func(emit func(int64, []byte, int64) error) error {
			return errors.Join(emit(0, nil, 512), emit(0, nil, one.Length))
		},
	} {
		asm := assembler{size: 100 * staging.BlockSize, scratch: make([]byte, staging.BlockSize),
			block: func(int64, []byte) error { return nil }}
		asm.begin([]hypervisor.Extent{one})
		err := read(asm.emit)
		if err == nil {
			err = asm.end()
		}
		if err == nil {
			t.Errorf("a source that %s was believed", name)
		}
	}
}

func TestExtentsPastTheDiskAreRefused(t *testing.T) {
	for _, e := range []hypervisor.Extent{{Offset: -1, Length: 5}, {Offset: 0, Length: 0}, {Offset: 0, Length: 21 * mib}, {Offset: 1 << 62, Length: 1 << 62}} {
		g := newGuest(t, 20*mib, 11)
		d := g.freeze()
		d.changed = func(hypervisor.ChangeID) ([]hypervisor.Extent, error) { return []hypervisor.Extent{e}, nil }
		if _, err := newMover(t, Config{}).Move(t.Context(), g.task(d, newStore(), nil)); err == nil {
			t.Errorf("extent %+v was taken", e)
		}
	}
}

func TestTheSampleIsSpreadOverWhatThePlanLeavesOut(t *testing.T) {
	mover := newMover(t, Config{})
	ranges := []staging.Range{{First: 0, Count: 10}, {First: 500, Count: 1000}, {First: 9_990, Count: 10}}
	mv := &move{mover: mover, base: new(staging.Manifest), facts: staging.Facts{Disk: staging.Disk{Size: 10_000 * staging.BlockSize}}}
	planned := map[int64]bool{}
	for _, r := range ranges {
		for b := r.First; b < r.First+r.Count; b++ {
			planned[b] = true
		}
	}
	seen := map[int64]bool{}
	for range 300 {
		last := int64(-1)
		sample := mv.pickSample(ranges)
		if len(sample) != sampleMinimum {
			t.Fatalf("%d blocks in the sample", len(sample))
		}
		for _, r := range sample {
			if planned[r.First] || r.First <= last || r.First >= 10_000 {
				t.Fatalf("block %d after %d", r.First, last)
			}
			last = r.First
			seen[r.First] = true
		}
	}
	// 19,200 draws of 8,980 blocks: about 88 % of them are drawn at least once.
	if len(seen) < 7_000 {
		t.Errorf("only %d of 8,980 blocks were ever drawn", len(seen))
	}
	mv.facts.Disk.Size = 1 << 40 // two million blocks: a thousandth is more than the minimum
	if n := len(mv.pickSample(ranges)); n < 2000 {
		t.Errorf("%d blocks in the sample of a disk of 1 TiB", n)
	}
	mv.facts.Disk.Size = 64 << 40
	if n := len(mv.pickSample(ranges)); n != sampleMaximum {
		t.Errorf("%d blocks in the sample of a disk of 64 TiB", n)
	}
	mv.facts.Disk.Size = 1_500 * staging.BlockSize
	if n := len(mv.pickSample([]staging.Range{{First: 0, Count: 1_490}})); n != 10 {
		t.Errorf("%d blocks in a sample of 10", n)
	}
}

func TestMemoryStaysInsideThePool(t *testing.T) {
	mover := newMover(t, Config{Memory: slabSize(staging.LargeSegmentBlocks)})
	p := mover.pool
	large, err := p.take(t.Context(), staging.LargeSegmentBlocks)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.take(ctx, staging.SegmentBlocks); err == nil {
		t.Error("a slab was handed out past the limit")
	}
	p.put(staging.LargeSegmentBlocks, large)
	var small []*slab
	for range p.limit / slabSize(staging.SegmentBlocks) {
		s, err := p.take(t.Context(), staging.SegmentBlocks)
		if err != nil {
			t.Fatal(err)
		}
		small = append(small, s)
	}
	if p.used+p.idle > p.limit {
		t.Errorf("%d bytes in use and %d idle, with a limit of %d", p.used, p.idle, p.limit)
	}
	for _, s := range small {
		p.put(staging.SegmentBlocks, s)
	}
	if again, err := p.take(t.Context(), staging.SegmentBlocks); err != nil || again != small[len(small)-1] {
		t.Errorf("a free slab was not used again: %v", err)
	}
}
