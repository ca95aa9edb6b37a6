package connector

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	linkv1 "skylift/link/linkv1"
)

func host(name string, limit int) hypervisor.Share {
	return hypervisor.Share{Kind: "host", Name: name, Of: "disks", Limit: limit}
}

// taking is somebody who takes shares in a bubble.
type taking struct {
	leave func()
	err   error
	done  bool
}

func take(ctx context.Context, s *shares, wants ...hypervisor.Share) *taking {
	t := &taking{}
	go func() {
		t.leave, t.err = s.take(ctx, wants...)
		t.done = true
	}()
	synctest.Wait()
	return t
}

func TestTheReasonToWaitStaysAsLongAsSomethingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a := newShares(), &attempt{}
		ctx, cancel := context.WithCancel(hypervisor.WithWaits(t.Context(), a.waitFor))
		first := take(ctx, s, host("esx-1", 0)) // a limit below one stands for one
		if !first.done || a.report().WaitingFor != "" {
			t.Fatalf("%+v, %q", first, a.report().WaitingFor)
		}
		second, third := take(ctx, s, host("esx-1", 0)), take(ctx, s, host("esx-1", 0))
		first.leave()
		synctest.Wait()
		if got := a.report().WaitingFor; got != "waiting: host esx-1 has 1 of 1 disks" || !second.done || third.done {
			t.Errorf("one has its place, one waits: %q", got)
		}
		cancel()
		synctest.Wait()
		if !errors.Is(third.err, context.Canceled) || a.report().WaitingFor != "" {
			t.Errorf("nothing waits: %v, %q", third.err, a.report().WaitingFor)
		}
		second.leave()
		if len(s.used) != 0 || len(s.waiting) != 0 {
			t.Errorf("left behind: %v, %d waiting", s.used, len(s.waiting))
		}
	})
}

func TestSharesAreTakenTogetherAndInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newShares(), t.Context()
		one := take(ctx, s, host("a", 1))
		both := take(ctx, s, host("a", 1), host("b", 1))
		if both.done {
			t.Fatal("one of the two shares is taken")
		}
		// b is free, and yet the next of it must not overtake who waits for both.
		late := take(ctx, s, host("b", 1))
		other := take(ctx, s, host("c", 1))
		if late.done || !other.done {
			t.Errorf("the one that came later has b: %v; one that needs neither has its share: %v", late.done, other.done)
		}
		one.leave()
		synctest.Wait()
		if !both.done || late.done {
			t.Errorf("both %v, late %v", both.done, late.done)
		}
		both.leave()
		synctest.Wait()
		if !late.done {
			t.Error("b is free, and nobody got it")
		}
	})
}

func TestWhoeverGivesUpLetsOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShares()
		one := take(t.Context(), s, host("a", 1))
		ctx, cancel := context.WithCancel(t.Context())
		take(ctx, s, host("a", 1), host("b", 1))
		late := take(t.Context(), s, host("b", 1))
		cancel()
		synctest.Wait()
		if !late.done || late.err != nil {
			t.Error("b was kept for one who is gone")
		}
		one.leave()
		late.leave()
		if len(s.used) != 0 {
			t.Errorf("still in use: %v", s.used)
		}
	})
}

func TestSharesNeverExceedTheirLimits(t *testing.T) {
	s := newShares()
	var inUse [3]atomic.Int32
	var group sync.WaitGroup
	for n := range 60 {
		group.Go(func() {
			wants := []int{n % 3, (n * 7) % 3, n % 2}
			var shares []hypervisor.Share
			for _, w := range wants {
				shares = append(shares, host(string(rune('a'+w)), w+1))
			}
			leave, err := s.take(t.Context(), shares...)
			if err != nil {
				t.Error(err)
				return
			}
			defer leave() // after the counters went down: they never say too much
			slices.Sort(wants)
			for _, w := range slices.Compact(wants) {
				if inUse[w].Add(1) > int32(w+1) {
					t.Errorf("more than %d use %c", w+1, 'a'+w)
				}
				defer inUse[w].Add(-1)
			}
		})
	}
	group.Wait()
}

func TestSnapshotsOnADatastoreAreLimitedUntilTheirRunsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var making atomic.Int32
		var said sync.Map
		plane := &control{renewed: func(r *linkv1.RenewRequest) { said.Store(r.Run, r.GetProgress().GetWaitingFor()) }}
		source := &quiet{
			shares: []hypervisor.Share{{Kind: "datastore", Name: "ds1", Of: "snapshots", Limit: 1}},
			snapshot: func(ctx context.Context) error {
				making.Add(1)
				<-ctx.Done()
				return ctx.Err()
			},
		}
		c := newConnector(t, plane, source)
		ctx, cancel := context.WithCancel(t.Context())
		for _, run := range []string{"sms-run-1", "sms-run-2"} {
			command := replicate(1)
			command.GetReplicate().Lease.Run = run
			c.obey(ctx, command)
			synctest.Wait()
		}
		time.Sleep(20 * time.Second)
		if got, _ := said.Load("sms-run-2"); making.Load() != 1 || got != "waiting: datastore ds1 has 1 of 1 snapshots" {
			t.Errorf("%d in the making; the second run says %q", making.Load(), got)
		}
		cancel()
		c.runs.wait()
	})
}

func TestNoSnapshotIsTakenWhileNothingMayBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, err := bandwidth.Parse("shut", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		limiter := bandwidth.New(table, nil)
		var said atomic.Value
		plane := &control{renewed: func(r *linkv1.RenewRequest) { said.Store(r.GetProgress().GetWaitingFor()) }}
		taken := make(chan struct{}, 1)
		source := &quiet{bandwidth: limiter, snapshot: func(ctx context.Context) error {
			taken <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}}
		c := newConnector(t, plane, source)
		ctx, cancel := context.WithCancel(t.Context())
		c.obey(ctx, replicate(1))
		time.Sleep(time.Minute)
		if len(taken) > 0 || !strings.Contains(said.Load().(string), "shut") {
			t.Errorf("%d snapshots, and the run says %q", len(taken), said.Load())
		}
		limiter.Set(bandwidth.Timetable{})
		synctest.Wait()
		if len(taken) != 1 {
			t.Error("the timetable opened, and no snapshot is taken")
		}
		cancel()
		c.runs.wait()
	})
}

func TestARunWhosePlaceCannotBeFoundSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane, source := &control{}, &quiet{sharesErr: errors.New("no answer")}
		c := newConnector(t, plane, source)
		c.obey(t.Context(), replicate(1))
		c.runs.wait()
		ends := plane.ends()
		if len(ends) != 1 || ends[0].GetFailure().GetMessage() != "see where a snapshot would be kept: no answer" {
			t.Errorf("the run ended with %v", ends)
		}
	})
}
