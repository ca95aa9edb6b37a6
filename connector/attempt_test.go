package connector

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"skylift/hypervisor"
	"skylift/internal/problem"
	"skylift/link"
	linkv1 "skylift/link/linkv1"
)

func TestASnapshotThatIsNotRecordedEndsTheRunAndIsLeftToTheJanitor(t *testing.T) {
	refused := &problem.Kind{Code: "run-snapshot-refused", Title: "the run has another snapshot", Hint: "The run ends"}
	synctest.Test(t, func(t *testing.T) {
		plane := &control{record: func() error { return link.Error(connect.CodeFailedPrecondition, refused.New(nil, "record")) }}
		source := &quiet{}
		c := newConnector(t, plane, source)
		c.obey(t.Context(), replicate(1))
		c.runs.wait()
		ends := plane.ends()
		if len(ends) != 1 || len(source.removed) != 0 || plane.made("RecordSnapshot") != 1 {
			t.Fatalf("ends %v, removed %v, %d tries", ends, source.removed, plane.made("RecordSnapshot"))
		}
		if f := ends[0].GetFailure(); f.Code != refused.Code || f.Hint != refused.Hint || f.Retry || f.Release {
			t.Errorf("the failure: %v", f)
		}
	})
}

func TestARecordThatIsNeverAnsweredFailsTheAttemptInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := &control{record: func() error { return errBlip }}
		c := newConnector(t, plane, &quiet{})
		began := time.Now()
		c.obey(t.Context(), replicate(1))
		c.runs.wait()
		if took := time.Since(began); took != recordWithin || plane.made("RecordSnapshot") > 30 {
			t.Errorf("%d tries in %s", plane.made("RecordSnapshot"), took)
		}
		if ends := plane.ends(); len(ends) != 1 || !ends[0].GetFailure().GetRetry() {
			t.Errorf("ends: %v", ends)
		}
	})
}

func TestAShutdownDuringTheFirstRenewalHandsTheRunBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := &control{renew: func(ctx context.Context) (*linkv1.RenewResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		c := newConnector(t, plane, &quiet{})
		ctx, cancel := context.WithCancel(t.Context())
		c.obey(ctx, replicate(1))
		synctest.Wait()
		cancel()
		c.runs.wait()
		if ends := plane.ends(); len(ends) != 1 || !ends[0].GetFailure().GetRelease() {
			t.Errorf("ends: %v", ends)
		}
	})
}

func TestAStaleLeaseEndsWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := &control{record: func() error { return errStale }}
		source := &quiet{}
		c := newConnector(t, plane, source)
		c.obey(t.Context(), replicate(1))
		c.runs.wait()
		if len(plane.ends()) != 0 || len(source.removed) != 0 {
			t.Errorf("told %v, removed %v", plane.ends(), source.removed)
		}
	})
}

func TestTheJanitorRemovesOnlyWhatItFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live := hypervisor.SnapshotRef{Server: "uuid-1", Run: "sms-run-1", ID: "snapshot-1", Created: time.Now()}
		dead := hypervisor.SnapshotRef{Server: "uuid-2", Run: "sms-run-2", ID: "snapshot-2", Created: time.Now()}
		plane := &control{judge: func(*linkv1.JudgeRequest) *linkv1.JudgeResponse {
			replaced := toSnapshot(live)
			replaced.Id = "snapshot-0"
			return &linkv1.JudgeResponse{DeadSnapshots: []*linkv1.SnapshotRef{replaced, toSnapshot(dead)}}
		}}
		source := &quiet{held: []hypervisor.SnapshotRef{live, dead}}
		c := newConnector(t, plane, source)
		if err := c.watches["vc-1"].clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(source.removed) != 1 || source.removed[0] != dead {
			t.Errorf("removed: %v", source.removed)
		}
	})
}

func TestAbandonedSnapshotsOfRunsUnderWayHereStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnector(t, &control{}, &quiet{})
		w := c.watches["vc-1"]
		old := hypervisor.SnapshotRef{Run: "sms-run-1", ID: "a", Created: time.Now()}
		time.Sleep(8 * 24 * time.Hour)
		refs := []hypervisor.SnapshotRef{old, {Run: "sms-run-2", ID: "b", Created: old.Created}, {Run: "sms-run-3", ID: "of unknown age"}}
		done := make(chan struct{})
		c.runs.start(t.Context(), &linkv1.Lease{Run: "sms-run-1"}, func(context.Context) { <-done })
		if got := w.abandoned(refs); len(got) != 1 || got[0].ID != "b" {
			t.Errorf("abandoned: %v", got)
		}
		close(done)
		c.runs.wait()
	})
}

func TestARunWhoseSnapshotMustNotStayIsGivenUpWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := &control{}
		source := &quiet{snapshot: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		c := newConnector(t, plane, source)
		c.obey(t.Context(), replicate(1))
		synctest.Wait()
		run := hypervisor.RunID(replicate(1).GetReplicate().Lease.Run)
		source.held = []hypervisor.SnapshotRef{{Server: "uuid-1", Run: run, ID: "snapshot-1", Urgent: "datastore ds1 has 1 of 100 GiB free"}}
		if err := c.watches["vc-1"].clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.runs.wait()
		ends := plane.ends()
		if len(ends) != 1 {
			t.Fatalf("the run ended %d times", len(ends))
		}
		if f := ends[0].GetFailure(); f.GetCode() != SnapshotUrgent.Code || f.Retry || f.Release || !strings.Contains(f.Message, "1 of 100 GiB free") {
			t.Errorf("the failure: %v", f)
		}
		if got := c.watches["vc-1"].abandoned(source.held); len(got) != 0 {
			t.Errorf("removed although the control plane answers: %v", got)
		}
		time.Sleep(2 * time.Hour)
		if got := c.watches["vc-1"].abandoned(source.held); len(got) != 1 {
			t.Error("nobody answers, and the snapshot stays until it is old")
		}
	})
}

func TestAListingIsNotRepeatedBecauseAReportGotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports, lasts, listings int
		plane := &control{report: func(r *linkv1.ReportInventoryRequest) error {
			if r.Last {
				if lasts++; lasts == 1 {
					return errBlip
				}
				return nil
			}
			if reports++; reports <= 3 {
				return errBlip
			}
			return nil
		}}
		source := &quiet{watch: func(ctx context.Context, emit func(hypervisor.Change) error) error {
			listings++
			for range reportServers {
				if err := emit(hypervisor.Change{Server: &hypervisor.Server{ID: "s"}}); err != nil {
					return err
				}
			}
			if err := emit(hypervisor.Change{Synced: true}); err != nil {
				return err
			}
			<-ctx.Done()
			return errors.Join(ctx.Err())
		}}
		stop := work(t, newConnector(t, plane, source))
		time.Sleep(time.Minute)
		stop()
		// The end of a listing is not sent twice: a new listing takes its place.
		if reports != 5 || lasts != 2 || listings != 2 {
			t.Errorf("%d reports, %d ends, %d listings", reports, lasts, listings)
		}
	})
}

func TestSnapshotsInTheMakingAreLimitedAndOnePlaceIsTheJanitors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var making atomic.Int32
		var waiting sync.Map
		plane := &control{renewed: func(r *linkv1.RenewRequest) { waiting.Store(r.Run, r.GetProgress().GetWaitingFor()) }}
		source := &quiet{snapshot: func(ctx context.Context) error {
			making.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}}
		c := newConnector(t, plane, source)
		ctx, cancel := context.WithCancel(t.Context())
		for _, run := range []string{"sms-run-1", "sms-run-2"} {
			command := replicate(1)
			command.GetReplicate().Lease.Run = run
			c.obey(ctx, command)
		}
		time.Sleep(20 * time.Second)
		one, _ := waiting.Load("sms-run-1")
		two, _ := waiting.Load("sms-run-2")
		want := "waiting: source vcenter-1 has 1 of 1 snapshots made or removed at once"
		if making.Load() != 1 || (one != want) == (two != want) {
			t.Errorf("%d in the making; the runs say %q and %q", making.Load(), one, two)
		}
		cancel()
		c.runs.wait()
	})
}
