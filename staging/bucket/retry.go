package bucket

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"skylift/internal/problem"
	"skylift/staging"
)

// Retry is the budget of one operation. Every failed attempt counts against
// it, whatever the operation was doing.
type Retry struct {
	// Attempts is how often a request is made at most; 20 when zero.
	Attempts int
	// Elapsed ends retries so long after the first failure since the operation
	// last got on; 15 minutes when zero. It does not end an attempt that
	// still gets on, however slowly.
	Elapsed time.Duration
	// First and Longest are the waits between attempts, which double from one
	// to the other and vary by half; 250 milliseconds and 30 seconds when zero.
	First, Longest time.Duration
}

func (r Retry) orDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 20
	}
	if r.Elapsed <= 0 {
		r.Elapsed = 15 * time.Minute
	}
	if r.First <= 0 {
		r.First = 250 * time.Millisecond
	}
	if r.Longest <= 0 {
		r.Longest = 30 * time.Second
	}
	return r
}

// operation is one call of the Store and what is left of its budget.
type operation struct {
	store    *Store
	verb     string
	subject  string
	failures int
	trouble  time.Time // the first failure since it last got on; zero: none
	wait     backoff.ExponentialBackOff

	credentials uint64 // the generation it last used
	renewed     bool
}

func (s *Store) operation(verb, subject string) *operation {
	o := &operation{store: s, verb: verb, subject: subject, credentials: s.credentials.current()}
	o.wait = backoff.ExponentialBackOff{
		InitialInterval: s.retry.First, MaxInterval: s.retry.Longest,
		Multiplier: 2, RandomizationFactor: 0.5,
	}
	o.wait.Reset()
	return o
}

// do makes attempts until one succeeds or none is left.
func (o *operation) do(ctx context.Context, attempt func() error) error {
	for {
		err := attempt()
		if err == nil {
			o.gotOn()
			return nil
		}
		if err := o.failed(ctx, err); err != nil {
			return err
		}
	}
}

// gotOn notes progress: the next failure is a new trouble, though it counts
// against the same attempts.
func (o *operation) gotOn() {
	if !o.trouble.IsZero() {
		o.trouble = time.Time{}
		o.wait.Reset()
	}
}

// failed takes the error of an attempt. It waits and returns nil when there is
// to be another, and else returns the operation's error.
func (o *operation) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", o, context.Cause(ctx))
	}
	if errors.Is(err, staging.ErrNotFound) || errors.Is(err, staging.ErrExists) {
		return fmt.Errorf("%s: %w", o, err)
	}
	o.failures++
	now := time.Now()
	if o.trouble.IsZero() {
		o.trouble = now
	}
	kind, retry := judge(err)
	if kind == KindExpired && !o.renewed {
		o.renewed = true
		o.store.credentials.expired(o.credentials)
		o.credentials = o.store.credentials.current()
		return nil
	}
	if !retry {
		return o.fails(kind, err)
	}
	delay := o.wait.NextBackOff()
	if spent := now.Sub(o.trouble); o.failures >= o.store.retry.Attempts || spent+delay > o.store.retry.Elapsed {
		return o.fails(kind, fmt.Errorf("gave up at attempt %d, %s after the first failure: %w",
			o.failures, spent.Round(time.Millisecond), err))
	}
	o.store.log.WithError(err).WithField("attempt", o.failures).Warnf("S3: %s failed; trying again", o)
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", o, context.Cause(ctx))
	}
}

// fails makes the operation's error. One that is a problem already, from the
// transport for instance, stays what it is.
func (o *operation) fails(kind *problem.Kind, err error) error {
	if problem.Of(err) != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	return kind.New(err, "%s%s", o, detail(kind, err))
}

// String says what is done to what: "put data/1 in bucket b".
func (o *operation) String() string {
	return fmt.Sprintf("%s %s%s in bucket %s", o.verb, o.store.prefix, o.subject, o.store.bucket)
}
