package dial

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"time"
)

// idleConns is how many unused connections are kept to each host where
// Settings.MaxConnsPerHost does not say, and idleConnsFor how long.
const (
	idleConns    = 64
	idleConnsFor = 60 * time.Second
)

// Transport is an [http.RoundTripper] that reaches the outside as its Settings
// say, gives up stalled requests and types its errors. Safe for concurrent use.
type Transport struct {
	base   *http.Transport
	dialer *dialer
	idle   time.Duration
}

// NewTransport makes a Transport, or fails as Settings.Validate does.
func NewTransport(s Settings) (*Transport, error) { return Over(new(http.Transport), s) }

// Over puts the settings into base, a transport that somebody else made and
// that has not been used yet, and returns the Transport above it. Dialing,
// proxy, TLS, protocols and connection limits are replaced. base must not have
// the deprecated Dial and DialTLS set.
func Over(base *http.Transport, s Settings) (*Transport, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	s = s.withDefaults()
	tlsConfig, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	d, err := newDialer(s, tlsConfig.RootCAs)
	if err != nil {
		return nil, err
	}
	base.Proxy = nil
	base.DialContext = d.dial
	base.DialTLSContext = nil
	base.TLSClientConfig = tlsConfig
	base.TLSHandshakeTimeout = s.ConnectTimeout
	base.ExpectContinueTimeout = time.Second
	base.IdleConnTimeout = idleConnsFor
	base.MaxIdleConns = 0
	base.MaxConnsPerHost = s.MaxConnsPerHost
	base.MaxIdleConnsPerHost = s.MaxConnsPerHost
	if s.MaxConnsPerHost == 0 {
		base.MaxIdleConnsPerHost = idleConns
	}
	base.Protocols = new(http.Protocols)
	base.Protocols.SetHTTP1(true)
	base.Protocols.SetHTTP2(s.HTTP2)
	// A dead connection is found by a ping, so that requests to come do not
	// pile up on it after the watchdog has ended those under way.
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: s.IdleTimeout / 2, PingTimeout: s.ConnectTimeout}
	return &Transport{base: base, dialer: d, idle: s.IdleTimeout}, nil
}

// DialContext opens a TCP connection to addr (host:port), through the proxy
// where one is due. The connection has no watchdog.
func (t *Transport) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return t.dialer.dial(ctx, network, addr)
}

// Client returns an HTTP client for programs that talk to services: it follows
// only redirects that keep the method and body (307 and 308), and hands other
// ones to the caller, as the AWS SDK's own client does.
func (t *Transport) Client() *http.Client {
	return &http.Client{Transport: t, CheckRedirect: keepMethod}
}

func keepMethod(req *http.Request, via []*http.Request) error {
	status := req.Response.StatusCode
	if status != http.StatusTemporaryRedirect && status != http.StatusPermanentRedirect {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() { t.base.CloseIdleConnections() }

// RoundTrip sends a request, under the watchdog from the moment it has a
// connection until its response's body is read to the end or closed.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := newWatchdog(t.idle, func() { cancel(os.ErrDeadlineExceeded) })
	out := req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { w.resume() },
	}))
	guardUpload(out, w)

	resp, err := t.base.RoundTrip(out)
	w.answered()
	if err != nil {
		cancel(nil)
		return nil, t.failure(req, w, err)
	}
	resp.Body = &download{
		body:    resp.Body,
		w:       w,
		end:     func() { cancel(nil) },
		failure: func(err error) error { return t.failure(req, w, err) },
	}
	return resp, nil
}

// failure types an error of a request under way.
func (t *Transport) failure(req *http.Request, w *watchdog, err error) error {
	if w.fired.Load() && req.Context().Err() == nil {
		return Stalled.New(os.ErrDeadlineExceeded, "no byte from or to %s for %s", req.URL.Host, t.idle)
	}
	return classify(req.Context(), err, req.URL.Host)
}
