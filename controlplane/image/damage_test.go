package image

import (
	"crypto/sha256"
	"errors"
	"testing"

	"skylift/controlplane/replication"
	"skylift/internal/problem"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// damaged makes a guest with two runs, of which the second writes blocks 2 and
// 17, makes 3 zero, and covers at least one block that did not change.
func damaged(t *testing.T) (*guest, *staged1) {
	g := newGuest(t, stagingtest.NewMemory(), "disk", 20*blockSize-100, 11)
	for b := range int64(10) {
		g.write(b)
	}
	g.stage()
	g.write(2)
	g.zero(3)
	g.write(17)
	g.stage()
	return g, g.last()
}

// reseal changes the manifest as only its writer could.
func (g *guest) reseal(run *staged1, change func(m *staging.Manifest)) {
	m := *run.m
	change(&m)
	var err error
	m.Digest, err = m.ComputeDigest()
	g.check(err)
	run.m = &m
	g.seal(run)
}

// remap changes the block map as only its writer could.
func (g *guest) remap(run *staged1, block int64, sum staging.Hash) {
	run.hashes[block] = sum
	var shard staging.Shard
	for b, h := range run.hashes {
		shard[b] = h
	}
	g.put(run.m.Place().Map(0, shard.Sum()), shard.Encode(0))
	g.reseal(run, func(m *staging.Manifest) {
		m.Shards = nil
		m.AddShard(0, shard.Sum(), m.Run)
	})
}

// resegment writes segment 0 anew with what change makes of its blocks.
func (g *guest) resegment(run *staged1, id staging.SegmentID, change func(blocks map[int64][]byte)) {
	blocks := map[int64][]byte{2: run.blocks[2], 3: nil, 17: run.blocks[17]}
	change(blocks)
	w := g.writer()
	for b := range int64(20) {
		if p, ok := blocks[b]; ok {
			var sum staging.Hash
			if p != nil {
				sum = sha256.Sum256(p)
			}
			g.check(w.Add(b, sum, p))
		}
	}
	g.put(run.m.Place().Segment(0), w.Bytes(id))
}

func (g *guest) plan(run *staged1) *staging.Plan {
	plan, _, err := staging.ReadPlan(g.t.Context(), g.store, run.m.Place())
	g.check(err)
	return plan
}

// planned tells whether the plan of a run covers a block.
func (g *guest) planned(run *staged1, block int64) bool {
	for _, r := range g.plan(run).Ranges {
		if block >= r.First && block < r.First+r.Count {
			return true
		}
	}
	return false
}

// find returns the first block from 4 on that is planned, or is not.
func (g *guest) find(run *staged1, planned bool) int64 {
	for b := int64(4); b < 17; b++ {
		if g.planned(run, b) == planned {
			return b
		}
	}
	g.t.Fatal("there is no such block; choose another seed")
	return 0
}

type damage struct {
	harm           func(g *guest, run *staged1)
	want           error
	segment, block int64
}

var damages = map[string]damage{
	"the plan is gone": {func(g *guest, run *staged1) { g.drop(run.m.Place().Plan()) }, staging.ErrNotFound, -1, -1},
	"the plan is another": {func(g *guest, run *staged1) {
		plan := g.plan(run)
		plan.Reason = "another"
		g.put(plan.Place().Plan(), g.encode(plan))
	}, ErrPlan, -1, -1},
	"the plan is cut": {func(g *guest, run *staged1) {
		p := g.get(run.m.Place().Plan())
		g.put(run.m.Place().Plan(), p[:len(p)/2])
	}, staging.ErrTruncated, -1, -1},
	"the manifest is gone":        {func(g *guest, run *staged1) { g.drop(run.m.Place().Manifest()) }, staging.ErrNotFound, -1, -1},
	"a segment is gone":           {func(g *guest, run *staged1) { g.drop(run.m.Place().Segment(0)) }, staging.ErrNotFound, 0, 2},
	"a segment's header is wrong": {func(g *guest, run *staged1) { g.spoil(run.m.Place().Segment(0), 0) }, staging.ErrMalformed, 0, 2},
	"a segment's index is wrong":  {func(g *guest, run *staged1) { g.spoil(run.m.Place().Segment(0), 100) }, staging.ErrChecksum, 0, 2},
	"a segment's block is wrong":  {func(g *guest, run *staged1) { g.spoil(run.m.Place().Segment(0), -5) }, staging.ErrChecksum, 0, 17},
	"a segment ends early": {func(g *guest, run *staged1) {
		p := g.get(run.m.Place().Segment(0))
		g.put(run.m.Place().Segment(0), p[:len(p)-1])
	}, staging.ErrTruncated, 0, 17},
	"a segment is too long": {func(g *guest, run *staged1) {
		g.put(run.m.Place().Segment(0), append(g.get(run.m.Place().Segment(0)), 0))
	}, staging.ErrTrailing, 0, -1},
	"a segment is of another plan": {func(g *guest, run *staged1) {
		g.resegment(run, staging.SegmentID{Plan: staging.Hash{1}}, func(map[int64][]byte) {})
	}, staging.ErrMismatch, 0, 2},
	"a segment is another slice": {func(g *guest, run *staged1) {
		g.resegment(run, run.m.SegmentID(1), func(map[int64][]byte) {})
	}, staging.ErrMismatch, 0, 2},
	"a block's entry is missing": {func(g *guest, run *staged1) {
		g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { delete(blocks, 2) })
	}, ErrNoEntry, 0, 2},
	"a zero's entry is missing": {func(g *guest, run *staged1) {
		g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { delete(blocks, 3) })
	}, ErrNoEntry, 0, 3},
	"an entry is another block": {func(g *guest, run *staged1) {
		g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { blocks[2] = run.blocks[17] })
	}, ErrOtherHash, 0, 2},
	"an entry says zero": {func(g *guest, run *staged1) {
		g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { blocks[2] = nil })
	}, ErrOtherHash, 0, 2},
	"an entry says that a block changed which the map has as it was": {func(g *guest, run *staged1) {
		b := g.find(run, true)
		g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { blocks[b] = run.blocks[17] })
	}, ErrOtherHash, 0, -2},
	"an entry is not of the slice": {func(g *guest, run *staged1) {
		b := g.find(run, false)
		g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { blocks[b] = run.blocks[17] })
	}, ErrNotOfSlice, 0, -2},
	"the manifest leaves the segment out": {func(g *guest, run *staged1) {
		g.reseal(run, func(m *staging.Manifest) { m.Segments = nil })
	}, ErrNoSegment, 0, 2},
	"the manifest names a segment that the plan has not": {func(g *guest, run *staged1) {
		g.reseal(run, func(m *staging.Manifest) { m.Segments = []staging.Range{{First: 0, Count: 3}} })
	}, ErrNoSuchSlice, 2, -1},
	"a block that the plan does not cover changed in the map": {func(g *guest, run *staged1) {
		g.remap(run, g.find(run, false), staging.Hash{1})
	}, ErrUnplanned, -1, -2},
	"a planned block changed in the map": {func(g *guest, run *staged1) {
		g.remap(run, g.find(run, true), staging.Hash{1})
	}, ErrNoEntry, 0, -2},
	"the run's shard of the map is gone": {func(g *guest, run *staged1) {
		g.drop(run.m.Place().Map(0, run.m.Shards[0].Sum))
	}, staging.ErrNotFound, -1, 0},
	"the run's shard of the map is wrong": {func(g *guest, run *staged1) {
		g.spoil(run.m.Place().Map(0, run.m.Shards[0].Sum), 2000)
	}, staging.ErrChecksum, -1, 0},
}

func TestADamagedRunIsNotBuilt(t *testing.T) {
	t.Parallel()
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, run := damaged(t)
			dir := t.TempDir()
			// Without reading back, so that the blocks' own checks have to find it.
			l := newLocal(t, dir, g.store, Options{VerifyLimit: -1})
			build(t, l, g.runs[0])
			d.harm(g, run)
			_, err := l.Build(t.Context(), request(*run), nil)
			if !problem.Has(err, replication.BuildRefused) || !errors.Is(err, d.want) {
				t.Fatalf("the build ends with %v", err)
			}
			if replication.FailureOf(err).Retry {
				t.Error("it would be tried again")
			}
			if fault := (*Fault)(nil); errors.As(err, &fault) {
				wrongPlace(t, d, fault, name)
			}
			clean(t, dir)
			if got := images(t, dir); len(got) != 1 {
				t.Errorf("there are the images %v", got)
			}
		})
	}
}

// wrongPlace errs when a fault is not where the damage is; -2 stands for any block.
func wrongPlace(t *testing.T, d damage, f *Fault, name string) {
	t.Helper()
	known := f.Block == d.block || d.block == -2 && f.Block >= 0 || d.block == -1
	if f.Segment != d.segment || !known {
		t.Errorf("%s: the fault is said to be at segment %d, block %d", name, f.Segment, f.Block)
	}
}

func TestVerifyStagedNamesTheDamage(t *testing.T) {
	t.Parallel()
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, run := damaged(t)
			place := run.m.Place()
			d.harm(g, run)
			result, err := VerifyStaged(t.Context(), g.store, place)
			if err != nil {
				t.Fatal(err)
			}
			if result.OK() || !errors.Is(result.Faults[0], d.want) {
				t.Fatalf("it finds %v", result.Faults)
			}
		})
	}
}

func TestVerifyStagedHoldsTheBaseAgainstItsManifest(t *testing.T) {
	t.Parallel()
	g, run := damaged(t)
	g.reseal(run, func(m *staging.Manifest) {
		base := *m.Base
		base.Digest = staging.Hash{1}
		m.Base = &base
	})
	result, err := VerifyStaged(t.Context(), g.store, run.m.Place())
	if err != nil || result.OK() || !errors.Is(result.Faults[0], ErrBase) {
		t.Errorf("it finds %v: %v", result.Faults, err)
	}
}

func TestVerifyStagedPassesWhatCanBeBuilt(t *testing.T) {
	t.Parallel()
	g, run := damaged(t)
	// An entry that equals the base's block, and a stray segment, do no harm.
	b := g.find(run, true)
	g.resegment(run, run.m.SegmentID(0), func(blocks map[int64][]byte) { blocks[b] = run.blocks[b] })
	g.put(run.m.Place().Segment(5), []byte("of an attempt that made another plan"))
	result, err := VerifyStaged(t.Context(), g.store, run.m.Place())
	if err != nil || !result.OK() {
		t.Fatalf("it finds %v: %v", result.Faults, err)
	}
	if result.Manifest != run.sum || result.Segments != 1 || result.Blocks != 4 || result.Bytes < 2*blockSize {
		t.Errorf("it tells %+v", result)
	}
	l := newLocal(t, t.TempDir(), g.store, Options{VerifyLimit: -1})
	build(t, l, g.runs[0])
	build(t, l, *run)
}

func TestVerifyStagedListsAllFaultsOfARun(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 40*blockSize, 12)
	for b := range int64(40) {
		g.write(b)
	}
	run := g.stage()
	g.spoil(run.m.Place().Segment(0), -1)
	g.drop(run.m.Place().Segment(2))
	result, err := VerifyStaged(t.Context(), g.store, run.m.Place())
	if err != nil || len(result.Faults) != 2 || result.Segments != 1 {
		t.Fatalf("it finds %v: %v", result.Faults, err)
	}
	none := errors.New("no answer")
	g.store.SetFault(func(op stagingtest.Op, key string) error {
		if key == run.m.Place().Segment(1) {
			return none
		}
		return nil
	})
	if _, err := VerifyStaged(t.Context(), g.store, run.m.Place()); !errors.Is(err, none) {
		t.Errorf("a store that does not answer is taken for %v", err)
	}
}

func TestVerifyStagedBoundsItsList(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 900*blockSize, 13)
	run := g.stage()
	for b := range int64(150) {
		run.hashes[b] = staging.Hash{1}
	}
	g.remap(&run, 150, staging.Hash{1})
	result, err := VerifyStaged(t.Context(), g.store, run.m.Place())
	if err != nil || len(result.Faults) != maxFaults || result.More != 151-maxFaults {
		t.Errorf("%d faults are listed and %d more counted: %v", len(result.Faults), result.More, err)
	}
}

func TestASealThatTheManifestDoesNotBearOutIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(d *replication.BuildDisk){
		"another digest":      func(d *replication.BuildDisk) { d.Digest = make([]byte, 32) },
		"another size":        func(d *replication.BuildDisk) { d.Size++ },
		"another disk":        func(d *replication.BuildDisk) { d.Disk = "other" },
		"another base":        func(d *replication.BuildDisk) { d.BaseRun = "sms-run-9" },
		"no base":             func(d *replication.BuildDisk) { d.BaseRun, d.BaseDigest = "", nil },
		"another base digest": func(d *replication.BuildDisk) { d.BaseDigest = make([]byte, 32) },
		"no manifest's hash":  func(d *replication.BuildDisk) { d.ManifestSHA256 = nil },
		"another manifest":    func(d *replication.BuildDisk) { d.ManifestSHA256 = make([]byte, 32) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, run := damaged(t)
			l := newLocal(t, t.TempDir(), g.store, Options{})
			build(t, l, g.runs[0])
			r := request(*run)
			change(&r.Disks[0])
			if _, err := l.Build(t.Context(), r, nil); !problem.Has(err, replication.BuildRefused) {
				t.Errorf("the build ends with %v", err)
			}
		})
	}
}

func TestBytesBehindTheDisksEndAreRefused(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 2*blockSize-100, 14)
	g.write(0)
	g.write(1)
	g.blocks[1][blockSize-1] = 1
	run := g.stage()
	l := newLocal(t, t.TempDir(), g.store, Options{VerifyLimit: -1})
	if _, err := l.Build(t.Context(), request(run), nil); !problem.Has(err, replication.BuildRefused) || !errors.Is(err, errPadding) {
		t.Errorf("the build ends with %v", err)
	}
}
