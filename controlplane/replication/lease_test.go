package replication_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/replication"
)

func TestRunIsClaimedOnlyByAConnectorThatReachesItsSource(t *testing.T) {
	b := newBench(t, replication.Limits{})
	here, elsewhere := b.connector("vc-1"), b.connector("vc-2")
	j := b.job(replication.NewJob{Server: b.server(here, "vc-1", "web-01"), Quiesce: "require", SkipDisks: []string{"d9"}})
	if a, ok, err := b.Claim(t.Context(), elsewhere, 4); ok || err != nil {
		t.Fatalf("claimed %+v, error %v", a, err)
	}
	a := b.claim(here)
	if a.Job != j.ID || a.Source != "vc-1" || a.VM != "web-01" || a.Quiesce != "require" || a.SkipDisks[0] != "d9" || a.Epoch != 1 || a.TTL != time.Minute {
		t.Errorf("assignment: %+v", a)
	}
}

func TestConnectorHoldsNoMoreRunsThanItHasSlots(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector := b.connector("vc-1")
	for n := range 3 {
		b.job(replication.NewJob{Server: b.server(connector, "vc-1", fmt.Sprint("web-", n))})
	}
	first, ok, err := b.Claim(ctx, connector, 2)
	if !ok || err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := b.Claim(ctx, connector, 2); !ok {
		t.Fatal("the second slot was not used")
	}
	if _, ok, _ := b.Claim(ctx, connector, 2); ok {
		t.Fatal("a third run was claimed with two slots")
	}
	b.ok(b.Release(ctx, first.Lease))
	if _, ok, _ := b.Claim(ctx, connector, 2); !ok {
		t.Fatal("the slot of a released run stays taken")
	}
}

func TestManyClaimsAtOnceGiveEachRunToOne(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connectors := []string{b.connector("vc-1"), b.connector("vc-1")}
	const runs = 12
	for n := range runs {
		b.job(replication.NewJob{Server: b.server(connectors[0], "vc-1", fmt.Sprint("web-", n))})
	}
	var mu sync.Mutex
	claimed := map[string]int{}
	var claims sync.WaitGroup
	for n := range 6 {
		claims.Go(func() {
			for {
				a, ok, err := b.Claim(ctx, connectors[n%2], 6)
				if err != nil {
					t.Error(err)
				}
				if !ok {
					return
				}
				mu.Lock()
				claimed[a.Run]++
				mu.Unlock()
			}
		})
	}
	claims.Wait()
	if len(claimed) != runs {
		t.Errorf("%d runs were claimed", len(claimed))
	}
	for run, n := range claimed {
		if n != 1 {
			t.Errorf("run %s was claimed %d times", run, n)
		}
	}
}

func TestRunsAreClaimedInRotation(t *testing.T) {
	b := newBench(t, replication.Limits{})
	connector := b.connector("vc-1")
	var jobs []string
	for n := range 3 {
		jobs = append(jobs, b.job(replication.NewJob{Server: b.server(connector, "vc-1", fmt.Sprint("web-", n))}).ID)
		b.pass(time.Second)
	}
	for round := range 2 {
		for n, job := range jobs {
			a := b.claim(connector)
			if a.Job != job {
				t.Errorf("round %d: job %d did not have its turn", round, n)
			}
			b.pass(time.Second)
			b.ok(b.Release(t.Context(), a.Lease))
			b.pass(time.Second)
		}
	}
}

func TestLeaseLastsAsLongAsItIsRenewedAndThenGoesToAnother(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	first, j := b.one(replication.NewJob{})
	second := b.connector("vc-1")
	old := b.claim(first)
	b.ok(b.RecordSnapshot(ctx, old.Lease, replication.Snapshot{Run: old.Run, ID: "snap-" + old.Run}))
	for range 3 {
		b.pass(50 * time.Second)
		renewal, err := b.Renew(ctx, old.Lease, replication.Progress{})
		b.ok(err)
		if renewal.TTL != time.Minute || renewal.Cancel || renewal.Job != j.ID {
			t.Fatalf("renewal: %+v", renewal)
		}
	}
	if _, ok, _ := b.Claim(ctx, second, 1); ok {
		t.Fatal("a held run was claimed")
	}
	b.pass(time.Minute)
	_, err := b.Renew(ctx, old.Lease, replication.Progress{})
	b.refused(err, replication.StaleLease)
	now := b.claim(second)
	if now.Run != old.Run || now.Epoch != old.Epoch+1 || now.Snapshot == nil || now.Snapshot.ID != "snap-"+old.Run {
		t.Fatalf("assignment: %+v", now)
	}
	for name, err := range map[string]error{
		"renew":   errorOf(b.Renew(ctx, old.Lease, replication.Progress{})),
		"record":  b.RecordSnapshot(ctx, old.Lease, replication.Snapshot{Run: old.Run, ID: "snap"}),
		"seal":    b.Seal(ctx, old.Lease, sealOf(old, "one")),
		"settled": b.Settled(ctx, old.Lease, nil),
		"fail":    b.Fail(ctx, old.Lease, replication.Failure{Message: "x"}),
		"release": b.Release(ctx, old.Lease),
	} {
		t.Run(name+" of an old epoch is refused", func(t *testing.T) { b.refused(err, replication.StaleLease) })
	}
	// The same connector, started again, is a holder like any other.
	b.pass(2 * time.Minute)
	again := b.claim(second)
	b.refused(b.Seal(ctx, now.Lease, sealOf(now, "one")), replication.StaleLease)
	b.seal(again, "one")
}

func errorOf[T any](_ T, err error) error { return err }

func TestRunWhoseHoldersKeepDyingFails(t *testing.T) {
	b := newBench(t, replication.Limits{Expiries: 3})
	connector, _ := b.one(replication.NewJob{})
	var run string
	for range 3 {
		run = b.claim(connector).Run
		b.pass(2 * time.Minute)
	}
	if a, ok, err := b.Claim(t.Context(), connector, 1); ok || err != nil {
		t.Fatalf("claimed %+v, error %v", a, err)
	}
	b.purge()
	if r := b.run(run); r.State != replication.RunFailed || !strings.Contains(r.Message, "not heard of any more. See whether") {
		t.Errorf("run: %+v", r)
	}
}

func TestFailedAttemptIsRepeatedAfterALongerPauseEachTimeUntilTheBudgetIsSpent(t *testing.T) {
	b := newBench(t, replication.Limits{Attempts: 3, Backoff: time.Minute})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	var run string
	for attempt, pause := range []time.Duration{time.Minute, 2 * time.Minute} {
		a := b.claim(connector)
		run = a.Run
		b.ok(b.Fail(ctx, a.Lease, replication.Failure{Message: "the host is away", Retry: true}))
		if r := b.run(run); r.State != replication.RunActive || !strings.Contains(r.Message, fmt.Sprintf("Attempt %d of 3 failed", attempt+1)) ||
			!strings.Contains(r.Message, "the host is away") {
			t.Errorf("run: %+v", r)
		}
		b.pass(pause - time.Second)
		if _, ok, _ := b.Claim(ctx, connector, 1); ok {
			t.Fatalf("attempt %d was repeated within %s", attempt+1, pause)
		}
		b.pass(time.Second)
	}
	b.ok(b.Fail(ctx, b.claim(connector).Lease, replication.Failure{Message: "the host is away", Retry: true}))
	b.purge()
	if r := b.run(run); r.State != replication.RunFailed || r.Message != "the host is away" {
		t.Errorf("run: %+v", r)
	}
}

func TestReleaseCountsAsNoAttempt(t *testing.T) {
	b := newBench(t, replication.Limits{Attempts: 2, Expiries: 2})
	connector, _ := b.one(replication.NewJob{})
	for range 5 {
		b.ok(b.Release(t.Context(), b.claim(connector).Lease))
	}
	b.whole(connector, "one")
}

func TestWaitingRunSaysWhatItWaitsFor(t *testing.T) {
	b := newBench(t, replication.Limits{})
	connector, j := b.one(replication.NewJob{})
	if m := b.runs(j.ID)[0].Message; m != "waiting: the connectors that reach source vc-1.example have not taken it yet; they may be busy with other runs" {
		t.Errorf("message %q", m)
	}
	b.pass(3 * time.Minute)
	if m := b.runs(j.ID)[0].Message; m != "waiting: no connector that reaches source vc-1.example is connected" {
		t.Errorf("message %q", m)
	}
	a := b.claim(connector)
	_, err := b.Renew(t.Context(), a.Lease, replication.Progress{WaitingFor: "waiting for a snapshot slot of datastore ds-1"})
	b.ok(err)
	if m := b.run(a.Run).Message; m != "waiting for a snapshot slot of datastore ds-1" {
		t.Errorf("message %q", m)
	}
}

func TestProgressNeverGoesBackAndCountersAddUpOverEpochs(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	report := func(a replication.Assignment, uploading bool, planned, done, read int64) replication.Run {
		t.Helper()
		_, err := b.Renew(ctx, a.Lease, replication.Progress{Uploading: uploading, Disks: []replication.DiskProgress{
			{RunDisk: replication.RunDisk{ID: "d1", Kind: "full", Planned: planned, Read: read, Sent: read, Stored: read / 2}, Done: done},
		}})
		b.ok(err)
		return b.run(a.Run)
	}
	a := b.claim(connector)
	if r := b.run(a.Run); r.Stage != "Preparing" || r.State != replication.RunActive {
		t.Fatalf("run: %+v", r)
	}
	if r := report(a, false, 0, 0, 0); r.Stage != "Preparing" {
		t.Errorf("run: %+v", r)
	}
	if r := report(a, true, 0, 0, 0); r.Stage != "Uploading" || r.Progress != 0 {
		t.Errorf("run: %+v", r)
	}
	if r := report(a, true, 200, 100, 100); r.Progress != 50 {
		t.Errorf("run: %+v", r)
	}
	b.ok(b.Release(ctx, a.Lease))
	a = b.claim(connector)
	if r := report(a, false, 0, 0, 0); r.Stage != "Uploading" || r.Progress != 50 {
		t.Errorf("a resumed run goes back: %+v", r)
	}
	if r := report(a, true, 200, 60, 10); r.Progress != 50 || r.Disks[0].Read != 110 || r.Disks[0].Stored != 55 || len(r.Disks) != 1 {
		t.Errorf("run: %+v", r)
	}
	if r := report(a, true, 200, 999, 20); r.Progress != 100 || r.Disks[0].Read != 120 {
		t.Errorf("run: %+v", r)
	}
}

func TestRunThatGetsOnHasItsBudgetsBack(t *testing.T) {
	b := newBench(t, replication.Limits{Attempts: 2, Expiries: 2})
	ctx := t.Context()
	connector, _ := b.one(replication.NewJob{})
	for percent := range int64(5) {
		a := b.claim(connector)
		_, err := b.Renew(ctx, a.Lease, replication.Progress{Uploading: true, Disks: []replication.DiskProgress{
			{RunDisk: replication.RunDisk{ID: "d1", Planned: 100}, Done: percent},
		}})
		b.ok(err)
		if percent%2 == 0 {
			b.ok(b.Fail(ctx, a.Lease, replication.Failure{Message: "the line broke", Retry: true}))
		}
		b.pass(time.Hour) // the lease ends, or the pause
	}
	// Without getting on, the next failure is the last.
	a := b.claim(connector)
	b.ok(b.Fail(ctx, a.Lease, replication.Failure{Message: "the line broke", Retry: true}))
	b.purge()
	if r := b.run(a.Run); r.State != replication.RunFailed {
		t.Errorf("run: %+v", r)
	}
}
