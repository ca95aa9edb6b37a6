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
	stop        context.CancelCauseFunc
	deadline    *time.Timer
	ttl         time.Duration
}

// hold confirms the lease and keeps it until release is called. The context
// it returns ends with errLeaseLost, errLeaseExpired or errCancelled as its
// cause, or with ctx.
func (l *lease) hold(ctx context.Context, granted *linkv1.Lease) (held context.Context, release func(), err error) {
	held, l.stop = context.WithCancelCause(ctx)
	// How long the command was on its way is not known: only a renewal, whose
	// time of asking is, tells how long the lease holds.
	l.ttl = time.Duration(granted.TtlMs) * time.Millisecond
	l.deadline = time.AfterFunc(l.ttl, func() { l.stop(errLeaseExpired) })
	if err := l.renew(held); err != nil {
		l.deadline.Stop()
		l.stop(err)
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keep(held)
	}()
	return held, func() {
		l.stop(nil)
		l.deadline.Stop()
		<-done
	}, nil
}

// keep renews until the context ends.
func (l *lease) keep(ctx context.Context) {
	for {
		if sleep(ctx, min(l.every, l.ttl/4)) != nil {
			return
		}
		switch err := l.renew(ctx); {
		case err == nil || ctx.Err() != nil:
		case link.Stale(err):
			l.stop(errLeaseLost)
		}
		// Any other error may pass; the deadline decides.
	}
}

// renew asks once. The lease is counted from before the question was sent.
func (l *lease) renew(ctx context.Context) error {
	asked := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, l.ttl/2)
	defer cancel()
	answer, err := l.calls.Renew(callCtx, connect.NewRequest(&linkv1.RenewRequest{Run: l.run, Epoch: l.epoch, Progress: l.report()}))
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
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
