package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"skylift/controlplane/replication"
	"skylift/internal/problem"
)

var (
	// errCanceled ends a step whose run is to be deleted.
	errCanceled = errors.New("the run is to be deleted")
	// errLeaseEnds ends a step before somebody else can hold its row.
	errLeaseEnds = errors.New("the lease could not be renewed in time")
)

// recordLimit is how long recording an outcome may take once the step's own
// context has ended.
const recordLimit = 10 * time.Second

// do does a claimed step and records its outcome.
func (l *Loop) do(ctx context.Context, step replication.Step, asked time.Time) {
	err := l.hold(ctx, step.Lease, asked, func(ctx context.Context, percent *atomic.Int64) error {
		if step.Kind == replication.BuildStep {
			return l.build(ctx, step, percent)
		}
		return l.purge(ctx, step)
	})
	if err == nil {
		return
	}
	log := l.options.Log.WithError(err).WithFields(map[string]any{"job": step.Job, "run": step.Run, "step": step.Kind})
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	switch {
	case problem.Has(err, replication.StaleLease) || errors.Is(err, errLeaseEnds):
		log.Warn("a step was abandoned; whoever holds the lease next does it again")
		return
	case ctx.Err() != nil:
		err = l.runs.Release(record, step.Lease)
	case errors.Is(err, errCanceled):
		err = l.runs.Fail(record, step.Lease, replication.Failure{Message: errCanceled.Error()})
	default:
		log.Warn("a step failed")
		err = l.runs.Fail(record, step.Lease, replication.FailureOf(err))
	}
	if err != nil && !problem.Has(err, replication.StaleLease) {
		log.WithField("recording", err).Error("the outcome of a step could not be recorded; its lease ends by itself")
	}
}

func (l *Loop) build(ctx context.Context, step replication.Step, percent *atomic.Int64) error {
	built, err := l.options.Builder.Build(ctx, step.Build, func(p int) { percent.Store(int64(p)) })
	if err != nil {
		return err
	}
	return l.runs.Land(ctx, step.Lease, built)
}

func (l *Loop) purge(ctx context.Context, step replication.Step) error {
	for _, image := range step.Retire {
		if err := l.options.Retirer.Retire(ctx, image); err != nil {
			return fmt.Errorf("retire image %s: %w", image.Image, err)
		}
		if err := l.runs.Retired(ctx, step.Lease, image); err != nil {
			return err
		}
	}
	left, err := l.options.Purger.Purge(ctx, step.Purge)
	if err != nil {
		return err
	}
	return l.runs.Purged(ctx, step.Lease, step.Purge, left)
}

// hold runs work while it keeps the lease. work's context ends when the run
// is to be deleted, when the lease is lost, and at a local deadline a sixth of the
// lease before its end, counted monotonically from before it was asked for. hold
// returns after work has returned, with the reason for which it was ended.
func (l *Loop) hold(ctx context.Context, lease replication.Lease, asked time.Time, work func(context.Context, *atomic.Int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var percent atomic.Int64
	var keeping sync.WaitGroup
	done := make(chan struct{})
	keeping.Go(func() { cancel(l.keep(ctx, done, lease, asked, &percent)) })
	err := work(ctx, &percent)
	cause := context.Cause(ctx)
	close(done)
	keeping.Wait()
	if err != nil && cause != nil {
		return errors.Join(cause, err)
	}
	return err
}

// keep renews the lease until done is closed, and returns why the work must end otherwise.
func (l *Loop) keep(ctx context.Context, done <-chan struct{}, lease replication.Lease, asked time.Time, percent *atomic.Int64) error {
	deadline := localDeadline(asked, lease.TTL)
	pause := lease.TTL / 3
	for {
		next := time.NewTimer(min(pause, time.Until(deadline)))
		select {
		case <-next.C:
		case <-done:
			next.Stop()
			return nil
		case <-ctx.Done():
			next.Stop()
			return ctx.Err()
		}
		now := time.Now()
		if !now.Before(deadline) {
			return errLeaseEnds
		}
		renewal, err := l.renew(ctx, lease, deadline, percent)
		switch {
		case problem.Has(err, replication.StaleLease):
			return err
		case err != nil:
			pause = lease.TTL / 12 // try again, until the deadline
		case renewal.Cancel:
			return errCanceled
		default:
			deadline, pause = localDeadline(now, renewal.TTL), renewal.TTL/3
		}
	}
}

func (l *Loop) renew(ctx context.Context, lease replication.Lease, deadline time.Time, percent *atomic.Int64) (replication.Renewal, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return l.runs.RenewStep(ctx, lease, int(percent.Load()))
}

// localDeadline is when work under a lease asked for at asked must have ended.
func localDeadline(asked time.Time, ttl time.Duration) time.Time { return asked.Add(ttl - ttl/6) }
