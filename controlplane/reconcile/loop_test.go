package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/controlplane/replication"
)

var _ Runs = (*replication.Service)(nil)

const ttl = time.Minute

// rows stands for the replication runs: steps to claim, and what became of them.
type rows struct {
	mu       sync.Mutex
	due      []replication.Step
	events   []string
	renewals int
	renew    func(n int) (replication.Renewal, error) // nil: extended
	claimErr error
	looks    int
}

func (r *rows) note(ctx context.Context, format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.events = append(r.events, fmt.Sprintf(format, args...))
	return nil
}

func (r *rows) happened() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *rows) looked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.looks
}

func (r *rows) Schedule(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks++
	return nil
}

func (r *rows) ClaimStep(context.Context, string) (replication.Step, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.claimErr != nil || len(r.due) == 0 {
		return replication.Step{}, false, r.claimErr
	}
	s := r.due[0]
	r.due = r.due[1:]
	return s, true, nil
}

func (r *rows) RenewStep(_ context.Context, _ replication.Lease, percent int) (replication.Renewal, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.renewals++
	if r.renew != nil {
		return r.renew(r.renewals)
	}
	return replication.Renewal{TTL: ttl}, nil
}

func (r *rows) Land(ctx context.Context, l replication.Lease, b replication.Built) error {
	return r.note(ctx, "%s landed as %s", l.Run, b.Image)
}

func (r *rows) Retired(ctx context.Context, l replication.Lease, i replication.ImageRow) error {
	return r.note(ctx, "%s retired", i.Image)
}

func (r *rows) Purged(ctx context.Context, l replication.Lease, _ replication.PurgeRequest, left []string) error {
	return r.note(ctx, "%s purged, left %v", l.Run, left)
}

func (r *rows) Fail(ctx context.Context, l replication.Lease, f replication.Failure) error {
	return r.note(ctx, "%s failed: %s, retry %t", l.Run, f.Message, f.Retry)
}

func (r *rows) Release(ctx context.Context, l replication.Lease) error {
	return r.note(ctx, "%s released", l.Run)
}

// works is a builder, purger and retirer made of functions.
type works struct {
	build  func(ctx context.Context, progress func(int)) error
	purge  func(ctx context.Context) error
	retire func(ctx context.Context) error
}

func (w works) Build(ctx context.Context, r replication.BuildRequest, progress func(int)) (replication.Built, error) {
	if w.build != nil {
		if err := w.build(ctx, progress); err != nil {
			return replication.Built{}, err
		}
	}
	return replication.Built{Image: "image of " + r.Run}, nil
}

func (w works) Purge(ctx context.Context, r replication.PurgeRequest) ([]string, error) {
	if w.purge != nil {
		return nil, w.purge(ctx)
	}
	return []string{"old"}, nil
}

func (w works) Retire(ctx context.Context, _ replication.ImageRow) error {
	if w.retire != nil {
		return w.retire(ctx)
	}
	return nil
}

func buildStep(run string) replication.Step {
	return replication.Step{Lease: replication.Lease{Job: "j", Run: run, Owner: "r", Epoch: 1, TTL: ttl}, Kind: replication.BuildStep,
		Build: replication.BuildRequest{Run: run}}
}

func purgeStep(run string) replication.Step {
	s := buildStep(run)
	s.Kind, s.Retire = replication.PurgeStep, []replication.ImageRow{{Image: "old image"}}
	return s
}

// run drives the loop until the test's work is done and it has ended.
func run(t *testing.T, r *rows, w works, during func(l *Loop, stop func())) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	ctx, stop := context.WithCancel(t.Context())
	l := New(r, Options{Owner: "r", Builder: w, Purger: w, Retirer: w, Log: log})
	ended := make(chan struct{})
	go func() {
		l.Run(ctx)
		close(ended)
	}()
	synctest.Wait()
	during(l, stop)
	stop()
	<-ended
}

func expect(t *testing.T, r *rows, want ...string) {
	t.Helper()
	if got := r.happened(); !slices.Equal(got, want) {
		t.Errorf("happened: %q\nwant: %q", got, want)
	}
}

func TestStepsAreDoneAndRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{due: []replication.Step{buildStep("a"), purgeStep("b")}}
		run(t, r, works{}, func(*Loop, func()) {})
		got := r.happened()
		slices.Sort(got)
		if !slices.Equal(got, []string{"a landed as image of a", "b purged, left [old]", "old image retired"}) {
			t.Errorf("happened: %q", got)
		}
	})
}

func TestLoopLooksWhenWokenAndWithEachTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{}
		run(t, r, works{}, func(l *Loop, _ func()) {
			before := r.looked()
			l.Wake()
			l.Wake()
			synctest.Wait()
			if r.looked() == before {
				t.Error("waking has no effect")
			}
			before = r.looked()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if n := r.looked(); n != before+1 {
				t.Errorf("%d looks within a tick", n-before)
			}
			r.mu.Lock()
			r.claimErr = errors.New("the database is away")
			r.mu.Unlock()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			r.mu.Lock()
			r.claimErr, r.due = nil, []replication.Step{buildStep("a")}
			r.mu.Unlock()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			expect(t, r, "a landed as image of a")
		})
	})
}

func TestLongStepKeepsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{due: []replication.Step{buildStep("a")}}
		run(t, r, works{build: func(ctx context.Context, progress func(int)) error {
			progress(50)
			select {
			case <-time.After(10*time.Minute - time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}, func(*Loop, func()) { time.Sleep(11 * time.Minute) })
		if r.renewals != 29 {
			t.Errorf("%d renewals in 10 minutes", r.renewals)
		}
		expect(t, r, "a landed as image of a")
	})
}

func TestStepWhoseLeaseIsLostEndsAndRecordsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		renew func(n int) (replication.Renewal, error)
		ends  time.Duration
	}{
		"another has it": {func(int) (replication.Renewal, error) {
			return replication.Renewal{}, replication.StaleLease.New(nil, "renew")
		}, ttl / 3},
		"it cannot be renewed": {func(int) (replication.Renewal, error) {
			return replication.Renewal{}, errors.New("the database is away")
		}, ttl - ttl/6},
		"it cannot be renewed again": {func(n int) (replication.Renewal, error) {
			if n == 1 {
				return replication.Renewal{TTL: ttl}, nil
			}
			return replication.Renewal{}, errors.New("the database is away")
		}, ttl/3 + ttl - ttl/6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rows{due: []replication.Step{buildStep("a")}, renew: c.renew}
				begun := time.Now()
				run(t, r, works{build: func(ctx context.Context, _ func(int)) error {
					<-ctx.Done()
					if d := time.Since(begun); d != c.ends {
						t.Errorf("ended after %s, want %s", d, c.ends)
					}
					return ctx.Err()
				}}, func(*Loop, func()) { time.Sleep(2 * ttl) })
				expect(t, r)
			})
		})
	}
}

func TestStepOfADeletedRunIsStoppedAndGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{due: []replication.Step{buildStep("a")}, renew: func(int) (replication.Renewal, error) {
			return replication.Renewal{TTL: 10 * time.Second, Cancel: true}, nil
		}}
		run(t, r, works{build: func(ctx context.Context, _ func(int)) error {
			<-ctx.Done()
			return ctx.Err()
		}}, func(*Loop, func()) { time.Sleep(ttl) })
		expect(t, r, "a failed: the run is to be deleted, retry false")
	})
}

func TestShutdownGivesStepsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{due: []replication.Step{buildStep("a")}}
		run(t, r, works{build: func(ctx context.Context, _ func(int)) error {
			<-ctx.Done()
			return fmt.Errorf("put block 7: %w", ctx.Err())
		}}, func(*Loop, func()) {})
		expect(t, r, "a released")
	})
}

func TestFailedStepsAreRecordedWithWhetherToRepeatThem(t *testing.T) {
	permanent := replication.BaseGone.New(nil, "build")
	for name, c := range map[string]struct {
		step replication.Step
		w    works
		want []string
	}{
		"a build that may work later": {buildStep("a"), works{build: func(context.Context, func(int)) error { return errors.New("throttled") }},
			[]string{"a failed: throttled, retry true"}},
		"a build that never will": {buildStep("a"), works{build: func(context.Context, func(int)) error { return permanent }},
			[]string{"a failed: " + permanent.Error() + ", retry false"}},
		"a retirement": {purgeStep("a"), works{retire: func(context.Context) error { return errors.New("in use") }},
			[]string{"a failed: retire image old image: in use, retry true"}},
		"a purge": {purgeStep("a"), works{purge: func(context.Context) error { return errors.New("access denied") }},
			[]string{"old image retired", "a failed: access denied, retry true"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rows{due: []replication.Step{c.step}}
				run(t, r, c.w, func(*Loop, func()) {})
				expect(t, r, c.want...)
			})
		})
	}
}

func TestNoMoreStepsAreTakenThanThereAreWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rows{due: []replication.Step{buildStep("a"), buildStep("b"), buildStep("c")}}
		free := make(chan struct{})
		run(t, r, works{build: func(context.Context, func(int)) error {
			<-free
			return nil
		}}, func(*Loop, func()) {
			r.mu.Lock()
			if len(r.due) != 1 {
				t.Errorf("%d steps wait with two workers", len(r.due))
			}
			r.mu.Unlock()
			free <- struct{}{}
			synctest.Wait()
			r.mu.Lock()
			if len(r.due) != 0 {
				t.Error("a free worker takes nothing")
			}
			r.mu.Unlock()
			close(free)
			synctest.Wait()
		})
		if len(r.happened()) != 3 {
			t.Errorf("happened: %q", r.happened())
		}
	})
}
