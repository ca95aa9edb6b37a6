package connector

import (
	"context"
	"fmt"
)

// limit bounds how many do something at once, and says why others wait.
type limit struct {
	places chan struct{}
	reason string
}

// newLimit makes a limit of n places; fewer than one stands for one. format
// says, with the number of places, why others wait.
func newLimit(n int, format string, name string) *limit {
	n = max(n, 1)
	return &limit{make(chan struct{}, n), "waiting: " + fmt.Sprintf(format, name, n)}
}

// enter waits for a place. waiting is told the reason once there is something
// to wait for; what it returns is called when the wait is over.
func (l *limit) enter(ctx context.Context, waiting func(string) (over func())) (leave func(), err error) {
	leave = func() { <-l.places }
	select {
	case l.places <- struct{}{}:
		return leave, nil
	default:
	}
	defer waiting(l.reason)()
	select {
	case l.places <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
