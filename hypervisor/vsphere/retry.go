package vsphere

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// budget bounds the retries of one operation: attempts in a row without any
// progress, and the time they may take together.
type budget struct {
	pause    *backoff.ExponentialBackOff
	tries    int
	left     int
	limit    time.Duration
	failedAt time.Time
	renewed  bool // a session was renewed on this budget
}

func newBudget(tries int, limit time.Duration) *budget {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 200*time.Millisecond, 15*time.Second
	return &budget{pause: pause, tries: tries, left: tries, limit: limit}
}

// refill restores the budget: what was asked for has come nearer.
func (b *budget) refill() {
	b.left, b.failedAt, b.renewed = b.tries, time.Time{}, false
	b.pause.Reset()
}

// spend waits before the next attempt. It reports false when the budget is
// used up or ctx has ended.
func (b *budget) spend(ctx context.Context) bool {
	now := time.Now()
	if b.failedAt.IsZero() {
		b.failedAt = now
	}
	b.left--
	next := b.pause.NextBackOff()
	if b.left <= 0 || now.Add(next).Sub(b.failedAt) > b.limit {
		return false
	}
	return sleep(ctx, next) == nil
}

// sleep waits for d or for ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
