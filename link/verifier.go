package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"skylift/internal/problem"
)

// Keys gives the public keys of connectors. An unknown or revoked connector
// is a problem.
type Keys interface {
	PublicKey(ctx context.Context, connector string) (ed25519.PublicKey, error)
}

// Verifier checks the calls of connectors. It is an interceptor for the
// handler of LinkService; handlers find the caller with Connector.
type Verifier struct {
	installation string
	keys         Keys
	now          func() time.Time
	used         replays
}

var _ connect.Interceptor = (*Verifier)(nil)

// NewVerifier returns the verifier of the installation's connectors.
func NewVerifier(installation string, keys Keys, now func() time.Time) *Verifier {
	return &Verifier{installation: installation, keys: keys, now: now, used: replays{limit: 1 << 16}}
}

type connectorKey struct{}

// Connector returns the ID of the connector whose call is handled under ctx;
// empty outside of a verified call.
func Connector(ctx context.Context) string {
	id, _ := ctx.Value(connectorKey{}).(string)
	return id
}

// WithConnector returns a context of a call by the connector, as the verifier makes it.
func WithConnector(ctx context.Context, connector string) context.Context {
	return context.WithValue(ctx, connectorKey{}, connector)
}

// WrapUnary implements connect.Interceptor.
func (v *Verifier) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := v.admit(ctx, r.Header())
		if err != nil {
			return nil, err
		}
		return next(ctx, r)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (v *Verifier) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, err := v.admit(ctx, conn.RequestHeader())
		if err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// WrapStreamingClient implements connect.Interceptor; a verifier calls nobody.
func (v *Verifier) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// admit checks a call's assertion and notes the caller in the context.
func (v *Verifier) admit(ctx context.Context, header http.Header) (context.Context, error) {
	token, ok := strings.CutPrefix(header.Get(authorization), bearer)
	if !ok {
		return nil, Error(connect.CodeUnauthenticated, AssertionRefused.New(errors.New("the call carries none"), "check an assertion"))
	}
	now := v.now()
	a, err := verify(ctx, token, v.installation, v.keys, now)
	if err != nil {
		if problem.Of(err) == nil { // not the caller's fault: the key could not be looked up
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("the connector's key could not be looked up; try again"))
		}
		return nil, Error(connect.CodeUnauthenticated, err)
	}
	switch v.used.add(a.connector+"\x00"+a.id, a.expires.Add(Skew), now) {
	case seen:
		return nil, Error(connect.CodeUnauthenticated, AssertionRefused.New(errors.New("it was used before"), "check an assertion of connector %s", a.connector))
	case full:
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too many calls within a few minutes; try again"))
	}
	return WithConnector(ctx, a.connector), nil
}

// replays remembers assertions as long as they would be accepted.
type replays struct {
	mu    sync.Mutex
	limit int
	until map[string]time.Time
	sweep time.Time // when to look for expired ones next
}

type replay int

const (
	fresh replay = iota
	seen
	full
)

// add remembers an ID and tells whether it was known. When there is no room
// it is not remembered and the call must be refused: forgetting another one
// would let that be used again.
func (r *replays) add(id string, until, now time.Time) replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[string]time.Time{}
	}
	if len(r.until) >= r.limit || !now.Before(r.sweep) {
		for k, end := range r.until {
			if end.Before(now) {
				delete(r.until, k)
			}
		}
		r.sweep = now.Add(time.Minute)
	}
	if _, ok := r.until[id]; ok {
		return seen
	}
	if len(r.until) >= r.limit {
		return full
	}
	r.until[id] = until
	return fresh
}
