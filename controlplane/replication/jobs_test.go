package replication_test

import (
	"strings"
	"testing"
	"time"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
)

func TestJobIsRefusedForWhatCannotBeReplicated(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	_, err := b.Create(ctx, replication.NewJob{Server: "s-1", RunOnce: true})
	b.refused(err, catalog.NoConnectors)
	connector := b.connector("vc-1")
	_, err = b.Create(ctx, replication.NewJob{Server: "s-1", RunOnce: true})
	b.refused(err, catalog.ServerNotFound)

	b.ok(b.catalog.Report(ctx, connector, catalog.Report{Source: "vc-1", Servers: []catalog.Server{{VM: "rdm", Name: "rdm", Disks: []catalog.Disk{
		{ID: "d1", Name: "Hard disk 1"}, {ID: "d2", Name: "Hard disk 2", Skip: "it is a physical RDM"},
	}}}}))
	server := catalog.ServerID("vc-1", "rdm")
	_, err = b.Create(ctx, replication.NewJob{Server: server, RunOnce: true})
	b.refused(err, replication.ServerCannotBeReplicated)
	if !strings.Contains(err.Error(), "Hard disk 2: it is a physical RDM") {
		t.Errorf("the error does not say why: %v", err)
	}
	_, err = b.Create(ctx, replication.NewJob{Server: server, RunOnce: true, SkipDisks: []string{"d1", "d2"}})
	b.refused(err, replication.ServerCannotBeReplicated)
	_, err = b.Create(ctx, replication.NewJob{Server: server, RunOnce: true, SkipDisks: []string{"d2"}})
	b.ok(err)
	_, err = b.Create(ctx, replication.NewJob{Server: server, RunOnce: true, SkipDisks: []string{"d2"}})
	b.refused(err, replication.JobExists)
}

func TestJobSettingsAreChecked(t *testing.T) {
	b := newBench(t, replication.Limits{})
	connector := b.connector("vc-1")
	server := b.server(connector, "vc-1", "web-01")
	for name, n := range map[string]replication.NewJob{
		"neither frequency nor run once": {},
		"both frequency and run once":    {RunOnce: true, Frequency: time.Hour},
		"too frequent":                   {Frequency: time.Minute},
		"too seldom":                     {Frequency: 25 * time.Hour},
		"a seed more than 30 days ahead": {RunOnce: true, Seed: b.now.Add(31 * 24 * time.Hour)},
		"too many images to keep":        {RunOnce: true, KeepImages: 271},
		"a negative number of images":    {RunOnce: true, KeepImages: -1},
		"an unknown license type":        {RunOnce: true, LicenseType: "aws"},
		"an unknown way to quiesce":      {RunOnce: true, Quiesce: "maybe"},
		"a KMS key without encryption":   {RunOnce: true, KMSKeyID: "alias/x"},
	} {
		t.Run(name, func(t *testing.T) {
			n.Server = server
			_, err := b.Create(t.Context(), n)
			b.refused(err, replication.InvalidJob)
		})
	}
}

func TestFirstRunWaitsForTheSeedTimeAndLaterOnesForTheirInterval(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector := b.connector("vc-1")
	seed := b.now.Add(30 * time.Minute)
	j := b.job(replication.NewJob{Server: b.server(connector, "vc-1", "web-01"), Seed: seed, Frequency: time.Hour})
	if got := b.jobNow(j.ID); len(b.runs(j.ID)) != 0 || got.State != replication.JobPending || !got.NextRun.Equal(seed) {
		t.Fatalf("before the seed time: %+v", got)
	}
	b.pass(30 * time.Minute)
	b.ok(b.Schedule(ctx))
	runs := b.runs(j.ID)
	if len(runs) != 1 || runs[0].State != replication.RunPending || runs[0].Trigger != replication.Automatic || !runs[0].Scheduled.Equal(seed) {
		t.Fatalf("at the seed time: %+v", runs)
	}
	if got := b.jobNow(j.ID); got.State != replication.JobActive || !got.NextRun.Equal(seed.Add(time.Hour)) {
		t.Fatalf("after the first run began: %+v", got)
	}
	b.whole(connector, "one")
	b.pass(time.Hour)
	b.ok(b.Schedule(ctx))
	if runs := b.runs(j.ID); len(runs) != 2 || runs[0].State != replication.RunPending {
		t.Fatalf("an interval later: %+v", runs)
	}
}

func TestRunDueWhileAnotherIsActiveIsMissedAndTheNextIntervalTaken(t *testing.T) {
	b := newBench(t, replication.Limits{})
	_, j := b.one(replication.NewJob{Frequency: time.Hour})
	b.pass(3*time.Hour + 10*time.Minute) // as when the control plane was off
	b.ok(b.Schedule(t.Context()))
	runs := b.runs(j.ID)
	if len(runs) != 2 || runs[0].State != replication.RunMissed || runs[0].Message == "" {
		t.Fatalf("runs: %+v", runs)
	}
	if next := b.jobNow(j.ID).NextRun; !next.Equal(j.Seed.Add(4 * time.Hour)) {
		t.Errorf("the next run is due at %s", next)
	}
}

func TestJobThatRunsOnceEndsWithItsRun(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{RunOnce: true})
	b.whole(connector, "one")
	if got := b.jobNow(j.ID); got.State != replication.JobCompleted || !got.NextRun.IsZero() {
		t.Errorf("job: %+v", got)
	}
	_, err := b.StartOnDemand(ctx, j.ID, "")
	b.refused(err, replication.JobNotActive)
	b.refused(b.Update(ctx, j.ID, replication.JobChange{Description: new("x")}), replication.JobNotActive)
	if _, err := b.Create(ctx, replication.NewJob{Server: j.Server, RunOnce: true}); err != nil {
		t.Errorf("the server cannot have a new job: %v", err)
	}
}

func TestFailedRunFailsAJobThatRunsOnceAndLeavesARecurringOneActive(t *testing.T) {
	for _, once := range []bool{true, false} {
		b := newBench(t, replication.Limits{})
		connector, j := b.one(replication.NewJob{RunOnce: once})
		a := b.claim(connector)
		b.ok(b.Fail(t.Context(), a.Lease, replication.Failure{Message: "the datastore is full", Hint: "Free some space."}))
		b.purge()
		want := replication.JobActive
		if once {
			want = replication.JobFailed
		}
		got := b.jobNow(j.ID)
		if got.State != want || !strings.Contains(got.Message, "the datastore is full. Free some space.") {
			t.Errorf("run once %t: job %+v", once, got)
		}
		if r := b.run(a.Run); r.State != replication.RunFailed || r.Completed.IsZero() {
			t.Errorf("run once %t: run %+v", once, r)
		}
	}
}

func TestOnDemandRunIsRefusedWhileOneIsActiveAndBeyondTheDaysLimit(t *testing.T) {
	b := newBench(t, replication.Limits{OnDemandPerDay: 1})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{Frequency: 24 * time.Hour})
	_, err := b.StartOnDemand(ctx, j.ID, "now")
	b.refused(err, replication.RunLimit)
	b.whole(connector, "one")
	run, err := b.StartOnDemand(ctx, j.ID, "now")
	b.ok(err)
	if run.Trigger != replication.OnDemand || run.Description != "now" {
		t.Errorf("run: %+v", run)
	}
	b.whole(connector, "two")
	_, err = b.StartOnDemand(ctx, j.ID, "again")
	b.refused(err, replication.RunLimit)
	b.pass(25 * time.Hour)
	_, err = b.StartOnDemand(ctx, j.ID, "again")
	b.ok(err)
	_, err = b.StartOnDemand(ctx, "sms-job-none", "")
	b.refused(err, replication.JobNotFound)
}

func TestUpdateChangesOnlyWhatIsGiven(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	_, j := b.one(replication.NewJob{Frequency: time.Hour, Description: "first", KeepImages: 3})
	next := b.now.Add(2 * time.Hour)
	b.ok(b.Update(ctx, j.ID, replication.JobChange{NextRun: &next, KeepImages: new(5), SkipDisks: &[]string{"d2"}}))
	got := b.jobNow(j.ID)
	if !got.NextRun.Equal(next) || got.KeepImages != 5 || got.Description != "first" || got.Frequency != time.Hour || got.SkipDisks[0] != "d2" {
		t.Errorf("job: %+v", got)
	}
	b.refused(b.Update(ctx, j.ID, replication.JobChange{Frequency: new(time.Second)}), replication.InvalidJob)
	b.refused(b.Update(ctx, "sms-job-none", replication.JobChange{}), replication.JobNotFound)
}

func TestDeletedJobsHolderIsToldToStopAndStagingGoesWhenItHas(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	a := b.claim(connector)
	b.ok(b.Delete(ctx, j.ID))
	b.ok(b.Delete(ctx, j.ID)) // again is no error
	if r := b.run(a.Run); r.State != replication.RunDeleting || b.jobNow(j.ID).State != replication.JobDeleting {
		t.Fatalf("run: %+v", r)
	}
	b.idle() // staging stays while somebody may write to it
	renewal, err := b.Renew(ctx, a.Lease, replication.Progress{})
	b.ok(err)
	if !renewal.Cancel {
		t.Error("the holder is not told to stop")
	}
	b.refused(b.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Run: a.Run, ID: "x"}), replication.StaleLease)
	b.ok(b.Fail(ctx, a.Lease, replication.Failure{Message: "canceled"}))
	if r := b.run(a.Run); r.State != replication.RunDeleted {
		t.Fatalf("run: %+v", r)
	}
	s := b.purge()
	if len(s.Purge.Dead) != 1 || s.Purge.Dead[0] != (replication.DeadRun{Run: a.Run, Data: true, State: true}) {
		t.Errorf("purge: %+v", s.Purge)
	}
	if got := b.jobNow(j.ID); got.State != replication.JobDeleted {
		t.Errorf("job: %+v", got)
	}
	b.idle()
}

func TestDeletedJobsSilentHolderIsNotWaitedForLongerThanItsLease(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	a := b.claim(connector)
	b.ok(b.Delete(ctx, j.ID))
	b.pass(30 * time.Second)
	if _, err := b.Renew(ctx, a.Lease, replication.Progress{}); err != nil {
		t.Fatal(err)
	}
	b.pass(31 * time.Second) // the renewal has not extended it
	b.ok(b.Schedule(ctx))
	if r := b.run(a.Run); r.State != replication.RunDeleted {
		t.Fatalf("run: %+v", r)
	}
	b.purge()
	if got := b.jobNow(j.ID); got.State != replication.JobDeleted {
		t.Errorf("job: %+v", got)
	}
}

func TestDeletedJobKeepsItsImagesAndLetsALandedRunEnd(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector, j := b.one(replication.NewJob{})
	a := b.transfer(connector, "one")
	b.build()
	b.ok(b.Delete(ctx, j.ID))
	b.purge() // the run's own
	if r := b.run(a.Run); r.State != replication.RunCompleted || r.Image == "" {
		t.Fatalf("run: %+v", r)
	}
	s := b.purge() // the job's
	if len(s.Retire) != 0 || s.Run != "" || len(s.Purge.Dead) != 1 {
		t.Errorf("step: %+v", s)
	}
	if got := b.jobNow(j.ID); got.State != replication.JobDeleted || got.LatestImage == "" {
		t.Errorf("job: %+v", got)
	}
}

func TestDeletionThatCannotClearStagingSaysSoAndIsTriedAgain(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	_, j := b.one(replication.NewJob{})
	b.ok(b.Delete(ctx, j.ID))
	b.ok(b.Schedule(ctx))
	s := b.step()
	b.ok(b.Fail(ctx, s.Lease, replication.Failure{Message: "access denied", Retry: true}))
	if got := b.jobNow(j.ID); got.State != replication.JobDeleting || !strings.Contains(got.Message, "access denied") {
		t.Errorf("job: %+v", got)
	}
	b.idle()
	b.pass(16 * time.Minute)
	b.purge()
	if got := b.jobNow(j.ID); got.State != replication.JobDeleted {
		t.Errorf("job: %+v", got)
	}
}

func TestListsArePaged(t *testing.T) {
	b := newBench(t, replication.Limits{})
	ctx := t.Context()
	connector := b.connector("vc-1")
	for _, vm := range []string{"a", "b", "c"} {
		b.job(replication.NewJob{Server: b.server(connector, "vc-1", vm)})
	}
	seen := map[string]bool{}
	after := ""
	for pages := 1; ; pages++ {
		jobs, next, err := b.Jobs(ctx, "", catalog.Page{After: after, Limit: 2})
		b.ok(err)
		for _, j := range jobs {
			seen[j.ID] = true
		}
		if after = next; next == "" {
			if pages != 2 || len(seen) != 3 {
				t.Errorf("%d pages, jobs %v", pages, seen)
			}
			break
		}
	}
	_, _, err := b.Jobs(ctx, "sms-job-none", catalog.Page{})
	b.refused(err, replication.JobNotFound)

	_, j := connector, b.jobNow(firstKey(seen))
	b.pass(time.Hour)
	b.ok(b.Schedule(ctx)) // missed
	b.pass(time.Hour)
	b.ok(b.Schedule(ctx))
	_, first, next, err := b.Runs(ctx, j.ID, catalog.Page{Limit: 2})
	b.ok(err)
	_, rest, end, err := b.Runs(ctx, j.ID, catalog.Page{After: next, Limit: 2})
	b.ok(err)
	if len(first) != 2 || len(rest) != 1 || end != "" || rest[0].State != replication.RunPending || first[0].State != replication.RunMissed {
		t.Errorf("first %+v, rest %+v, end %q", first, rest, end)
	}
}

func firstKey(m map[string]bool) string {
	for k := range m {
		return k
	}
	return ""
}
