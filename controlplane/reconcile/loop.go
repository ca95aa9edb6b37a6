// Package reconcile is the one loop that drives every row with a state: it
// starts what is due, claims a step, does it, and records the outcome on
// condition of the claim. Steps can be repeated; a crash at any point costs no
// more than the step's time, because the lease ends and somebody claims it again.
package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/controlplane/replication"
)

// Runs is what the loop needs of the replication runs.
type Runs interface {
	Schedule(ctx context.Context) error
	ClaimStep(ctx context.Context, owner string) (replication.Step, bool, error)
	RenewStep(ctx context.Context, l replication.Lease, percent int) (replication.Renewal, error)
	Land(ctx context.Context, l replication.Lease, b replication.Built) error
	Retired(ctx context.Context, l replication.Lease, image replication.ImageRow) error
	Purged(ctx context.Context, l replication.Lease, p replication.PurgeRequest, left []string) error
	Fail(ctx context.Context, l replication.Lease, f replication.Failure) error
	Release(ctx context.Context, l replication.Lease) error
}

// Options set a Loop up.
type Options struct {
	// Owner names this process among those that share the rows. It is not
	// used again after a restart.
	Owner   string
	Builder replication.Builder
	Purger  replication.Purger
	Retirer replication.Retirer
	// Workers is how many steps are done at once; 0 stands for 2.
	Workers int
	// Tick is how often rows are looked at without being woken; 0 stands for 5 seconds.
	Tick time.Duration
	Log  logrus.FieldLogger
}

// Loop drives the rows.
type Loop struct {
	runs    Runs
	options Options
	wake    chan struct{}
}

// New returns a loop over runs.
func New(runs Runs, o Options) *Loop {
	if o.Workers < 1 {
		o.Workers = 2
	}
	if o.Tick <= 0 {
		o.Tick = 5 * time.Second
	}
	return &Loop{runs: runs, options: o, wake: make(chan struct{}, 1)}
}

// Wake makes the loop look at the rows at once. It never blocks.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Run drives the rows until ctx ends, then gives back what it holds and
// returns with nothing left running.
func (l *Loop) Run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	free := make(chan struct{}, l.options.Workers)
	tick := time.NewTicker(l.options.Tick)
	defer tick.Stop()
	for {
		if err := l.runs.Schedule(ctx); err != nil && ctx.Err() == nil {
			l.options.Log.WithError(err).Error("cannot start what is due; trying again")
		}
		for l.claim(ctx, free, &working) {
		}
		select {
		case <-l.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// claim starts one step if a worker is free, and reports whether it did.
func (l *Loop) claim(ctx context.Context, free chan struct{}, working *sync.WaitGroup) bool {
	select {
	case free <- struct{}{}:
	default:
		return false // the worker that ends next wakes the loop
	}
	asked := time.Now()
	step, ok, err := l.runs.ClaimStep(ctx, l.options.Owner)
	if err != nil && ctx.Err() == nil {
		l.options.Log.WithError(err).Error("cannot claim a step; trying again")
	}
	if err != nil || !ok {
		<-free
		return false
	}
	working.Go(func() {
		defer l.Wake()
		defer func() { <-free }()
		l.do(ctx, step, asked)
	})
	return true
}
