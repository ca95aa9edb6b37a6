package connector

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/cenkalti/backoff/v5"

	"skylift/link"
)

// callWithin bounds one try of a call.
const callWithin = 30 * time.Second

// persist makes a call that can be repeated until the control plane has
// answered it: what got lost on the way is sent again until ctx ends, which is
// the call's budget. The error is the last try's.
func persist(ctx context.Context, call func(context.Context) error) error {
	wait := newBackOff()
	for {
		err := try(ctx, call)
		if err == nil || answered(err) || sleep(ctx, wait.NextBackOff()) != nil {
			return err
		}
	}
}

func try(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	return call(ctx)
}

// answered reports whether err is the control plane's own word, which it would
// give again.
func answered(err error) bool {
	code, _ := link.Problem(err)
	return code != "" || link.Stale(err) || connect.CodeOf(err) == connect.CodeInvalidArgument
}

// newBackOff waits half a second first and up to a minute later.
func newBackOff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 500*time.Millisecond, time.Minute
	return b
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
