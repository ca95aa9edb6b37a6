package hypervisor

import "context"

type waitsKey struct{}

// WithWaits has sources tell notify what they wait for while they work under
// the context: one clause for people, beginning with what is in the way
// ("another task of web-01 is under way"). notify returns what is called when
// that wait is over. It is called from any goroutine, and must not block.
func WithWaits(ctx context.Context, notify func(what string) (over func())) context.Context {
	return context.WithValue(ctx, waitsKey{}, notify)
}

// Waiting tells whoever is responsible for ctx what is waited for, until over
// is called. Where nobody wants to know it does nothing.
func Waiting(ctx context.Context, what string) (over func()) {
	if notify, ok := ctx.Value(waitsKey{}).(func(string) func()); ok {
		return notify(what)
	}
	return func() {}
}
