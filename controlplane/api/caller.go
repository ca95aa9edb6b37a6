package api

import (
	"context"

	"skylift/controlplane/access"
)

// Keys finds access keys; package access has them.
type Keys interface {
	// Lookup returns the key with its secret; access.KeyNotFound for one that
	// does not exist or was revoked.
	Lookup(ctx context.Context, accessKeyID string) (access.Key, error)
}

// Caller is who made a request.
type Caller struct {
	KeyID  string
	Role   access.Role
	Region string // of the signature's scope: it selects the target
}

type callerKey struct{}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns who made the request that ctx belongs to.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}
