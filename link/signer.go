package link

import (
	"context"
	"crypto/ed25519"
	"time"

	"connectrpc.com/connect"
)

// Signer signs a connector's calls, streams included. It is an interceptor
// for a connect client.
type Signer struct {
	connector, installation string
	key                     ed25519.PrivateKey
	now                     func() time.Time
}

var _ connect.Interceptor = (*Signer)(nil)

// NewSigner returns the signer of the connector, enrolled with the installation under key's public half.
func NewSigner(connector, installation string, key ed25519.PrivateKey, now func() time.Time) *Signer {
	return &Signer{connector, installation, key, now}
}

const authorization, bearer = "Authorization", "Bearer "

// WrapUnary implements connect.Interceptor.
func (s *Signer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		token, err := sign(s.connector, s.installation, s.key, s.now())
		if err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
		r.Header().Set(authorization, bearer+token)
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (s *Signer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		token, err := sign(s.connector, s.installation, s.key, s.now())
		if err != nil {
			return &unsigned{conn, connect.NewError(connect.CodeInternal, err)}
		}
		conn.RequestHeader().Set(authorization, bearer+token)
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor; a signer handles nothing.
func (s *Signer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// unsigned is a stream that could not be signed and sends nothing.
type unsigned struct {
	connect.StreamingClientConn
	err error
}

func (u *unsigned) Send(any) error { return u.err }
