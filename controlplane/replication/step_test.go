package replication_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"skylift/controlplane/replication"
)

func TestOnlyWhatWasSealedLands(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	b.transfer(connector, "one")
	s := b.step()
	missing, wrong := builtOf(s), builtOf(s)
	missing.Disks = nil
	wrong.Disks[0].Digest = hash("other")
	b.refused(b.Land(ctx, s.Lease, missing), replication.BuildRefused)
	b.refused(b.Land(ctx, s.Lease, wrong), replication.BuildRefused)
	if r := b.run(s.Run); r.Image != "" {
		t.Errorf("run: %+v", r)
	}
	b.ok(b.Land(ctx, s.Lease, builtOf(s)))
	b.refused(b.Land(ctx, s.Lease, builtOf(s)), replication.StaleLease)
}

func TestReconcilerThatFellSilentLandsNothing(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	b.transfer(connector, "one")
	old := b.step()
	b.pass(2 * time.Minute)
	b.refused(b.Land(ctx, old.Lease, builtOf(old)), replication.StaleLease)
	s := b.step()
	if s.Build.Attempt <= old.Build.Attempt {
		t.Errorf("attempt %d after %d", s.Build.Attempt, old.Build.Attempt)
	}
	b.refused(b.Land(ctx, old.Lease, builtOf(old)), replication.StaleLease)
	b.ok(b.Land(ctx, s.Lease, builtOf(s)))
}

func TestLongBuildKeepsItsLeaseAndShowsItsPercent(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	b.transfer(connector, "one")
	s := b.step()
	for _, percent := range []int{30, 10} {
		b.pass(50 * time.Second)
		if _, err := b.RenewStep(ctx, s.Lease, percent); err != nil {
			t.Fatal(err)
		}
	}
	if r := b.run(s.Run); r.Stage != "Converting" || r.Progress != 30 {
		t.Errorf("run: %+v", r)
	}
	b.ok(b.Delete(ctx, j.ID))
	renewal, err := b.RenewStep(ctx, s.Lease, 40)
	b.ok(err)
	if !renewal.Cancel {
		t.Error("the builder of a deleted job's run is not told to stop")
	}
	b.refused(b.Land(ctx, s.Lease, builtOf(s)), replication.StaleLease)
}

func TestFailedBuildIsRepeatedAndItsMessageGoesWhenItWorks(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	b.transfer(connector, "one")
	s := b.step()
	b.ok(b.Fail(ctx, s.Lease, replication.Failure{Message: "throttled", Retry: true}))
	if m := b.run(s.Run).Message; !strings.Contains(m, "throttled") {
		t.Errorf("message %q", m)
	}
	b.idle()
	b.pass(time.Minute)
	b.build()
	b.purge()
	if r := b.run(s.Run); r.State != replication.RunCompleted || r.Message != "" {
		t.Errorf("run: %+v", r)
	}
}

func TestRunAfterALostBaseImageIsFull(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	b.whole(connector, "one")
	_, err := b.StartOnDemand(ctx, j.ID, "")
	b.ok(err)
	b.transfer(connector, "two")
	s := b.step()
	b.ok(b.Fail(ctx, s.Lease, replication.FailureOf(replication.BaseGone.New(nil, "build"))))
	b.purge()
	if r := b.run(s.Run); r.State != replication.RunFailed || !strings.Contains(r.Message, "base is gone") {
		t.Errorf("run: %+v", r)
	}
	_, err = b.StartOnDemand(ctx, j.ID, "")
	b.ok(err)
	if a := b.claim(connector); len(a.Bases) != 0 {
		t.Errorf("bases: %+v", a.Bases)
	}
}

func TestStagingKeepsTheStateOfBasesAndImagesAndNothingElse(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{KeepImages: 2})
	var runs []string
	next := func(content string) replication.Step {
		t.Helper()
		if len(runs) > 0 {
			b.pass(time.Minute)
			_, err := b.StartOnDemand(ctx, j.ID, "")
			b.ok(err)
		}
		runs = append(runs, b.transfer(connector, content).Run)
		b.build()
		return b.purge()
	}
	data := func(n int) replication.DeadRun { return replication.DeadRun{Run: runs[n], Data: true} }
	whole := func(n int) replication.DeadRun { return replication.DeadRun{Run: runs[n], Data: true, State: true} }
	live := func(s replication.Step) (runs []string) {
		for _, l := range s.Purge.Live {
			runs = append(runs, l.Run)
		}
		slices.Sort(runs)
		return runs
	}
	expect := func(s replication.Step, retired int, alive []int, dead ...replication.DeadRun) {
		t.Helper()
		var want []string
		for _, n := range alive {
			want = append(want, runs[n])
		}
		slices.Sort(want)
		if len(s.Retire) != retired || !slices.Equal(live(s), want) || !slices.Equal(s.Purge.Dead, dead) {
			t.Errorf("retired %d, live %v, dead %+v; want %d, %v, %+v", len(s.Retire), live(s), s.Purge.Dead, retired, want, dead)
		}
	}
	expect(next("one"), 0, []int{0}, data(0))
	expect(next("two"), 0, []int{0, 1}, data(0), data(1))
	third := next("three")
	expect(third, 1, []int{1, 2}, whole(0), data(1), data(2))
	if third.Retire[0].Run != runs[0] {
		t.Errorf("retired %+v", third.Retire)
	}
	// What is cleared is not named again.
	expect(next("four"), 1, []int{2, 3}, whole(1), data(2), data(3))
}

func TestBaseIsKeptHoweverFewImagesAreAndAShardInUseKeepsItsRunOnTheList(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{KeepImages: 1})
	// The first run has two disks, later ones only the first: the second disk's base stays.
	a := b.claim(connector)
	b.ok(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "snap"}))
	two := append(sealOf(a, "one"), replication.SealedDisk{Disk: "d2", Key: "d2", Size: 100, ManifestSHA256: hash("m"), Digest: hash("second disk")})
	b.ok(b.Seal(ctx, a.Lease, two))
	b.ok(b.Settled(ctx, a.Lease, nil))
	b.build()
	b.purge()
	b.pass(time.Minute)
	_, err := b.StartOnDemand(ctx, j.ID, "")
	b.ok(err)
	second := b.transfer(connector, "two")
	b.build()
	s := b.step()
	if len(s.Retire) != 0 {
		t.Errorf("the image that holds a disk's base is retired: %+v", s.Retire)
	}
	b.ok(b.Purged(ctx, s.Lease, s.Purge, nil))

	b.pass(time.Minute)
	_, err = b.StartOnDemand(ctx, j.ID, "")
	b.ok(err)
	b.transfer(connector, "three")
	b.build()
	s = b.step()
	if len(s.Retire) != 1 || s.Retire[0].Run != second.Run {
		t.Fatalf("retired: %+v", s.Retire)
	}
	b.ok(b.Retired(ctx, s.Lease, s.Retire[0]))
	b.ok(b.Purged(ctx, s.Lease, s.Purge, []string{second.Run})) // shards of it are in use
	b.pass(time.Minute)
	_, err = b.StartOnDemand(ctx, j.ID, "")
	b.ok(err)
	b.transfer(connector, "four")
	b.build()
	if s := b.step(); !slices.Contains(s.Purge.Dead, replication.DeadRun{Run: second.Run, Data: true, State: true}) {
		t.Errorf("purge: %+v", s.Purge.Dead)
	}
}

func TestKeptStagingStaysForRunsWhoseImageIsKept(t *testing.T) {
	b := newBench(t, replication.Limits{})
	connector, _ := b.one(replication.NewJob{KeepStaging: true})
	b.transfer(connector, "one")
	b.build()
	if s := b.purge(); len(s.Purge.Dead) != 0 {
		t.Errorf("purge: %+v", s.Purge)
	}
}

func TestPurgeThatDoesNotWorkDoesNotFailARunThatLanded(t *testing.T) {
	b := newBench(t, replication.Limits{Attempts: 2})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	run := b.transfer(connector, "one").Run
	b.build()
	for range 2 {
		b.ok(b.Fail(ctx, b.step().Lease, replication.Failure{Message: "access denied", Retry: true}))
		b.pass(time.Hour)
	}
	if r := b.run(run); r.State != replication.RunCompleted || !strings.Contains(r.Message, "access denied") {
		t.Errorf("run: %+v", r)
	}
}
