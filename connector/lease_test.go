package connector

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"skylift/link"
	linkv1 "skylift/link/linkv1"
)

func newLease(t *testing.T, plane *control) *lease {
	c := newConnector(t, plane, &quiet{})
	return &lease{calls: c.link, run: "sms-run-1", epoch: 1, every: 5 * time.Second, report: func() *linkv1.Progress { return nil }}
}

var (
	errStale = link.Error(connect.CodeAborted, errors.New("another holder has the run"))
	errBlip  = connect.NewError(connect.CodeUnavailable, errors.New("a blip"))
)

func TestALeaseIsCountedFromBeforeItWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Value
		var dead atomic.Bool
		l := newLease(t, &control{renew: func(ctx context.Context) (*linkv1.RenewResponse, error) {
			if dead.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			asked.Store(time.Now())
			return granted(60_000), sleep(ctx, 10*time.Second)
		}})
		held, release, err := l.hold(t.Context(), &linkv1.Lease{TtlMs: 60_000})
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		time.Sleep(time.Hour)
		if held.Err() != nil {
			t.Fatal("a lease that is renewed was lost")
		}
		dead.Store(true)
		<-held.Done()
		if left := time.Since(asked.Load().(time.Time)); left != time.Minute {
			t.Errorf("work went on for %s after the last answered renewal was asked for", left)
		}
		if cause := context.Cause(held); !errors.Is(cause, errLeaseExpired) || !strings.Contains(cause.Error(), "renew the lease: ") {
			t.Errorf("the cause hides why: %v", cause)
		}
	})
}

func TestTheFirstRenewalIsTriedUntilTheDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		answers []error // nil grants; the last one goes on
		want    error   // nil: the lease is had
		after   time.Duration
	}{
		"at once":             {[]error{nil}, nil, 0},
		"after two blips":     {[]error{errBlip, errBlip, nil}, nil, 2 * time.Second},
		"refused":             {[]error{errStale}, errLeaseLost, 0},
		"a blip, and refused": {[]error{errBlip, errStale}, errLeaseLost, time.Second},
		"never":               {[]error{errBlip}, errLeaseExpired, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				l := newLease(t, &control{renew: func(context.Context) (*linkv1.RenewResponse, error) {
					n++
					return granted(60_000), c.answers[min(n, len(c.answers))-1]
				}})
				began := time.Now()
				_, release, err := l.hold(t.Context(), &linkv1.Lease{TtlMs: 60_000})
				if !errors.Is(err, c.want) || time.Since(began) != c.after {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				if err == nil {
					release()
				}
			})
		})
	}
}

func TestALeaseEndsWithItsReason(t *testing.T) {
	for name, c := range map[string]struct {
		answer *linkv1.RenewResponse
		err    error
		want   error
	}{
		"cancelled": {&linkv1.RenewResponse{Cancel: true, Lease: granted(5000).Lease}, nil, errCancelled},
		"lost":      {nil, errStale, errLeaseLost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				plane := &control{renew: func(context.Context) (*linkv1.RenewResponse, error) {
					if first {
						first = false
						return granted(60_000), nil
					}
					return c.answer, c.err
				}}
				held, release, err := newLease(t, plane).hold(t.Context(), &linkv1.Lease{TtlMs: 60_000})
				if err != nil {
					t.Fatal(err)
				}
				<-held.Done()
				release()
				if !errors.Is(context.Cause(held), c.want) || plane.made("Renew") != 2 {
					t.Errorf("%v after %d renewals", context.Cause(held), plane.made("Renew"))
				}
			})
		})
	}
}

func TestARunTakenUpAgainUnderANewLeaseEndsTheOldWorkFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRunSet()
		var causes []error
		for epoch := range int64(3) {
			s.start(t.Context(), &linkv1.Lease{Run: "r", Epoch: epoch}, func(ctx context.Context) {
				if len(causes) < int(epoch) {
					t.Error("work began before the older one had ended")
				}
				if epoch < 2 {
					<-ctx.Done()
				}
				causes = append(causes, context.Cause(ctx))
			})
		}
		s.wait()
		if len(causes) != 3 || !errors.Is(causes[0], errLeaseLost) || !errors.Is(causes[1], errLeaseLost) || causes[2] != nil {
			t.Errorf("the work ended with %v", causes)
		}
		if s.has("r") {
			t.Error("a run that has ended is there still")
		}
	})
}
