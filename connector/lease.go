package connector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"skylift/link"
	linkv1 "skylift/link/linkv1"
	"skylift/link/linkv1/linkv1connect"
)

// Why work under a lease was stopped.
var (
	errLeaseLost    = errors.New("the lease went to another connector")
	errLeaseExpired = errors.New("the lease could not be renewed in time")
	errCancelled    = errors.New("the run was cancelled")
)

// lease is the right to work on a run. Its context ends when the right does.
type lease struct {
	calls linkv1connect.LinkServiceClient
	run   string
	epoch int64
	every time.Duration
	// report gives the progress that goes with each renewal.
	report func() *linkv1.Progress

	credentials atomic.Pointer[linkv1.Credentials]
	trouble     atomic.Pointer[error] // why the last renewal failed
	stop        context.CancelCauseFunc
	deadline    *time.Timer
	ttl         time.Duration
}

// hold confirms the lease and keeps it until release is called. The context
// it returns ends with errLeaseLost, errLeaseExpired or errCancelled as its
// cause, or with ctx; so does hold itself when the lease cannot be had.
func (l *lease) hold(ctx context.Context, granted *linkv1.Lease) (held context.Context, release func(), err error) {
	held, l.stop = context.WithCancelCause(ctx)
	l.ttl = time.Duration(granted.TtlMs) * time.Millisecond
	l.deadline = time.AfterFunc(l.ttl, l.expire)
	if err := l.confirm(held); err != nil {
		l.deadline.Stop()
		l.stop(nil)
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keep(held)
	}()
	return held, func() {
		l.stop(nil)
		<-done
		l.deadline.Stop()
	}, nil
}

// confirm renews for the first time, as often as it takes. How long the
// command was on its way is not known: only a renewal, whose time of asking
// is, tells how long the lease holds, and nothing is done before it.
func (l *lease) confirm(ctx context.Context) error {
	for {
		err := l.renew(ctx)
		if err == nil {
			return nil
		}
		if link.Stale(err) {
			return fmt.Errorf("%w: %w", errLeaseLost, err)
		}
		if sleep(ctx, l.pause()) != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// keep renews until the context ends.
func (l *lease) keep(ctx context.Context) {
	for sleep(ctx, l.pause()) == nil {
		if err := l.renew(ctx); link.Stale(err) {
			l.stop(fmt.Errorf("%w: %w", errLeaseLost, err))
		}
		// Any other error may pass; the deadline decides.
	}
}

// pause is how long until the next renewal: shorter behind one that failed.
func (l *lease) pause() time.Duration {
	d := min(l.every, l.ttl/4)
	if l.trouble.Load() != nil {
		d = min(d, time.Second)
	}
	return d
}

// renew asks once. The lease is counted from before the question was sent.
func (l *lease) renew(ctx context.Context) error {
	asked := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, l.ttl/2)
	defer cancel()
	answer, err := l.calls.Renew(callCtx, connect.NewRequest(&linkv1.RenewRequest{Run: l.run, Epoch: l.epoch, Progress: l.report()}))
	if err != nil {
		err = fmt.Errorf("renew the lease: %w", err)
		l.trouble.Store(&err)
		return err
	}
	l.trouble.Store(nil)
	if c := answer.Msg.Credentials; c != nil {
		l.credentials.Store(c)
	}
	if answer.Msg.Lease != nil && l.deadline.Stop() {
		l.ttl = time.Duration(answer.Msg.Lease.TtlMs) * time.Millisecond
		l.deadline.Reset(time.Until(asked.Add(l.ttl)))
	}
	if answer.Msg.Cancel {
		l.stop(errCancelled)
	}
	return nil
}

// expire ends all work under the lease, and says why it was not renewed.
func (l *lease) expire() {
	if err := l.trouble.Load(); err != nil {
		l.stop(fmt.Errorf("%w: %w", errLeaseExpired, *err))
		return
	}
	l.stop(errLeaseExpired)
}
