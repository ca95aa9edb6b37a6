package api

import (
	"context"
	"errors"

	"skylift/internal/secret"
)

// Role is what a key's owner may do. A role that is none of these may do nothing.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"
	Operator Role = "operator"
	Admin    Role = "admin"
)

// may reports whether the role may read or, with changes, also change.
func (r Role) may(changes bool) bool {
	return r == Operator || r == Admin || r == Viewer && !changes
}

// Key is an access key.
type Key struct {
	ID     string
	Secret secret.Text
	Role   Role
}

// Keys finds access keys.
type Keys interface {
	// Lookup returns ErrNoKey for a key that does not exist or was revoked.
	Lookup(ctx context.Context, accessKeyID string) (Key, error)
}

// ErrNoKey says that there is no such access key.
var ErrNoKey = errors.New("no such access key")

// Caller is who made a request.
type Caller struct {
	KeyID  string
	Role   Role
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
