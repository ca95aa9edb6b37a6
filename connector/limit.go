package connector

import "context"

// limit bounds how many do something at once, and says why others wait.
type limit struct {
	places chan struct{}
	reason string
}

// newLimit makes a limit of n places; fewer than one stands for one.
func newLimit(n int, reason string) *limit {
	return &limit{make(chan struct{}, max(n, 1)), reason}
}

// enter waits for a place; waiting is told the reason, and "" when it is over.
func (l *limit) enter(ctx context.Context, waiting func(string)) (leave func(), err error) {
	leave = func() { <-l.places }
	select {
	case l.places <- struct{}{}:
		return leave, nil
	default:
	}
	waiting("waiting: " + l.reason)
	defer waiting("")
	select {
	case l.places <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
