package replication_test

import (
	"testing"

	"skylift/controlplane/replication"
)

func TestRunHasOneSnapshotForLife(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	a := b.claim(connector)
	snap := replication.Snapshot{Run: a.Run, ID: "snap-1", Consistency: "crash", Note: "the guest did not come to rest in time"}
	b.refused(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run}), replication.SnapshotRefused)
	b.refused(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: "sms-run-other", ID: "snap-1"}), replication.SnapshotRefused)
	b.ok(b.RecordSnapshot(ctx, a.Lease, snap))
	b.ok(b.RecordSnapshot(ctx, a.Lease, snap)) // the answer may have been lost
	b.refused(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap-2"}), replication.SnapshotRefused)
	b.ok(b.Release(ctx, a.Lease))
	a = b.claim(connector)
	b.refused(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap-2"}), replication.SnapshotRefused)
	if r := b.run(a.Run); r.Consistency != "crash" || r.Message != snap.Note {
		t.Errorf("run: %+v", r)
	}
}

func TestSealIsRecordedOnce(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	a := b.claim(connector)
	b.refused(b.Seal(ctx, a.Lease, sealOf(a, "one")), replication.SealRefused) // no snapshot
	b.refused(b.Settled(ctx, a.Lease, nil), replication.StaleLease)            // not sealed
	b.seal(a, "one")
	b.ok(b.Seal(ctx, a.Lease, sealOf(a, "one")))
	b.refused(b.Seal(ctx, a.Lease, sealOf(a, "other")), replication.SealRefused)
	b.ok(b.Release(ctx, a.Lease))
	a = b.claim(connector)
	if !a.Sealed {
		t.Error("the next holder is not told that the run is sealed")
	}
	b.refused(b.Seal(ctx, a.Lease, sealOf(a, "other")), replication.SealRefused)
	b.ok(b.Settled(ctx, a.Lease, nil))
	if got := b.step().Build.Disks[0].Digest; string(got) != string(hash("one")) {
		t.Errorf("digest %x", got)
	}
}

func TestSealOfNonsenseIsRefused(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	a := b.claim(connector)
	b.ok(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap"}))
	for name, change := range map[string]func(d *[]replication.SealedDisk){
		"no disk":                    func(d *[]replication.SealedDisk) { *d = nil },
		"a disk twice":               func(d *[]replication.SealedDisk) { *d = append(*d, (*d)[0]) },
		"a key twice":                func(d *[]replication.SealedDisk) { x := (*d)[0]; x.Disk = "d2"; *d = append(*d, x) },
		"a disk without identity":    func(d *[]replication.SealedDisk) { (*d)[0].Disk = "" },
		"a key that leads elsewhere": func(d *[]replication.SealedDisk) { (*d)[0].Key = "../other" },
		"no size":                    func(d *[]replication.SealedDisk) { (*d)[0].Size = 0 },
		"a short manifest hash":      func(d *[]replication.SealedDisk) { (*d)[0].ManifestSHA256 = []byte{1} },
		"no digest":                  func(d *[]replication.SealedDisk) { (*d)[0].Digest = nil },
		"a base without digest":      func(d *[]replication.SealedDisk) { (*d)[0].BaseRun = "sms-run-1" },
		"a digest without base":      func(d *[]replication.SealedDisk) { (*d)[0].BaseDigest = hash("x") },
	} {
		t.Run(name, func(t *testing.T) {
			disks := sealOf(a, "one")
			change(&disks)
			b.refused(b.Seal(ctx, a.Lease, disks), replication.SealRefused)
		})
	}
}

func TestBaseIsTheLastLandedRunOfTheDisk(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	first := b.whole(connector, "one")
	start := func() replication.Assignment {
		t.Helper()
		_, err := b.StartOnDemand(ctx, j.ID, "")
		b.ok(err)
		return b.claim(connector)
	}

	a := start()
	if len(a.Bases) != 1 || a.Bases[0].Run != first || string(a.Bases[0].Digest) != string(hash("one")) {
		t.Fatalf("bases: %+v", a.Bases)
	}
	b.ok(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap"}))
	for name, change := range map[string]func(d *replication.SealedDisk){
		"another run":     func(d *replication.SealedDisk) { d.BaseRun = a.Run },
		"another digest":  func(d *replication.SealedDisk) { d.BaseDigest = hash("zero") },
		"another disk":    func(d *replication.SealedDisk) { d.Disk = "d2" },
		"a shrunken disk": func(d *replication.SealedDisk) { d.Size = 99 },
	} {
		t.Run(name+" is refused as the base", func(t *testing.T) {
			disks := sealOf(a, "two")
			change(&disks[0])
			b.refused(b.Seal(ctx, a.Lease, disks), replication.BaseChanged)
		})
	}
	// A failed run is never a base.
	b.ok(b.Seal(ctx, a.Lease, sealOf(a, "two")))
	b.ok(b.Settled(ctx, a.Lease, nil))
	b.ok(b.Fail(ctx, b.step().Lease, replication.Failure{Message: "refused"}))
	b.purge()
	a = start()
	if len(a.Bases) != 1 || a.Bases[0].Run != first {
		t.Fatalf("bases after a failed run: %+v", a.Bases)
	}
	// A grown disk keeps its base; a full run may replace it.
	grown := sealOf(a, "three")
	grown[0].Size = 200
	b.ok(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap"}))
	b.ok(b.Seal(ctx, a.Lease, grown))
	b.ok(b.Settled(ctx, a.Lease, nil))
	if s := b.build(); s.Build.Disks[0].BaseImage != "d1-"+first {
		t.Errorf("build: %+v", s.Build)
	}
	b.purge()
	a = start()
	full := sealOf(a, "four")
	full[0].BaseRun, full[0].BaseDigest = "", nil
	b.ok(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap"}))
	b.ok(b.Seal(ctx, a.Lease, full))
	b.ok(b.Settled(ctx, a.Lease, nil))
	if s := b.build(); s.Build.Disks[0].BaseImage != "" || len(s.Build.Images) != 2 {
		t.Errorf("build: %+v", s.Build)
	}
}

func TestSnapshotThatCannotBeSettledDoesNotHoldUpTheImage(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	a := b.claim(connector)
	b.seal(a, "one")
	b.ok(b.Fail(ctx, a.Lease, replication.Failure{Message: "consolidation failed"}))
	if r := b.run(a.Run); r.Stage != "Converting" || r.Message == "" {
		t.Errorf("run: %+v", r)
	}
	dead, _, err := b.Judge(ctx, []replication.Snapshot{{Run: a.Run, ID: "snap-" + a.Run}}, nil)
	b.ok(err)
	if len(dead) != 1 {
		t.Error("the janitor is not told to remove the snapshot")
	}
	b.build()
	b.purge()
	if r := b.run(a.Run); r.State != replication.RunCompleted || r.Message == "" {
		t.Errorf("run: %+v", r)
	}
}

func TestJanitorIsToldWhatIsDead(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	run := b.runs(j.ID)[0].ID
	snapshot := func(run, id string) bool {
		t.Helper()
		dead, _, err := b.Judge(ctx, []replication.Snapshot{{Run: run, ID: id}}, nil)
		b.ok(err)
		return len(dead) == 0
	}
	anchor := func(run, id string) bool {
		t.Helper()
		_, dead, err := b.Judge(ctx, nil, []replication.Anchor{{Run: run, ID: id}})
		b.ok(err)
		return len(dead) == 0
	}
	expect := func(when string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: alive is %t", when, got)
		}
	}
	expect("a snapshot of an unknown run", snapshot("sms-run-none", "x"), false)
	expect("an anchor of an unknown run", anchor("sms-run-none", "x"), false)
	expect("any snapshot of a run before one is recorded", snapshot(run, "x"), true)
	a := b.claim(connector)
	b.ok(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: run, ID: "snap"}))
	expect("the recorded snapshot", snapshot(run, "snap"), true)
	expect("another snapshot of the run", snapshot(run, "x"), false)
	b.ok(b.Seal(ctx, a.Lease, sealOf(a, "one")))
	expect("the snapshot of a sealed run", snapshot(run, "snap"), true)
	expect("the anchor that settling makes", anchor(run, "anchor"), true)
	b.ok(b.Settled(ctx, a.Lease, &replication.Anchor{Run: run, ID: "anchor"}))
	expect("the snapshot of a settled run", snapshot(run, "snap"), false)
	expect("the recorded anchor", anchor(run, "anchor"), true)
	expect("another anchor of the run", anchor(run, "x"), false)
	b.build()
	b.purge()
	expect("the anchor of the base", anchor(run, "anchor"), true)

	_, err := b.StartOnDemand(ctx, j.ID, "")
	b.ok(err)
	second := b.claim(connector)
	b.seal(second, "two")
	b.ok(b.Settled(ctx, second.Lease, &replication.Anchor{Run: second.Run, ID: "anchor-2"}))
	expect("the anchor of the base before the next run has landed", anchor(run, "anchor"), true)
	b.build()
	expect("the anchor of the base after the next run has landed", anchor(run, "anchor"), false)
	expect("the next anchor", anchor(second.Run, "anchor-2"), true)
	b.ok(b.Delete(ctx, j.ID))
	b.purge()
	b.purge()
	expect("the anchor of a deleted job", anchor(second.Run, "anchor-2"), false)
}
