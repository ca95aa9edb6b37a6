package transfer

import (
	"context"
	"errors"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	"skylift/staging"
)

// gated is a store that sends only while the bandwidth timetable allows it.
// What only asks for something is never held up: next to nothing is sent for
// it, and a request that waits grows old.
type gated struct {
	staging.Store
	limiter *bandwidth.Limiter
}

// Put and Create are for what is small: they wait with the object in memory.

func (g gated) Put(ctx context.Context, key string, p []byte) error {
	return g.whenOpen(ctx, g.Store.Put, key, p)
}

// Create may find what an attempt of its own that was broken off has written
// (ErrExists): whoever creates something looks at what is there.
func (g gated) Create(ctx context.Context, key string, p []byte) error {
	return g.whenOpen(ctx, g.Store.Create, key, p)
}

// putOnce is Put that does not wait: bandwidth.ErrShut when the timetable is
// shut, or shuts before all is sent. Whoever holds much memory lets it go then.
func (g gated) putOnce(ctx context.Context, key string, p []byte) error {
	return g.send(ctx, g.Store.Put, key, p)
}

// write is Put or Create of a store.
type write func(ctx context.Context, key string, p []byte) error

func (g gated) whenOpen(ctx context.Context, w write, key string, p []byte) error {
	for {
		if err := g.open(ctx); err != nil {
			return err
		}
		if err := g.send(ctx, w, key, p); !errors.Is(err, bandwidth.ErrShut) {
			return err
		}
	}
}

// open waits until something may be sent.
func (g gated) open(ctx context.Context) error {
	return g.limiter.Open(ctx, func(what string) func() { return hypervisor.Waiting(ctx, what) })
}

func (g gated) send(ctx context.Context, w write, key string, p []byte) error {
	sending := g.limiter.Sending(ctx)
	defer sending.Done()
	if limit, slowed := g.limiter.Slowed(); slowed {
		defer hypervisor.Waiting(ctx, "the bandwidth is set to "+limit.String())()
	}
	err := w(sending.Context(), key, p)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(sending.Context()), bandwidth.ErrShut) {
		return bandwidth.ErrShut
	}
	return err
}
