package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"skylift/internal/secret"
)

// dialer opens TCP connections, through the proxy where one is due.
type dialer struct {
	proxy    *url.URL // without user info; nil: none
	user     string
	password secret.Text
	excepted func(addr string) bool
	roots    *x509.CertPool // for an https:// proxy
	timeout  time.Duration  // of each step
	tcp      dialFunc
}

// newDialer takes settings whose defaults are filled in.
func newDialer(s Settings, roots *x509.CertPool) (*dialer, error) {
	proxy, err := s.Proxy.parse()
	if err != nil {
		return nil, err
	}
	tcp := (&net.Dialer{Timeout: s.ConnectTimeout}).DialContext
	if s.Wrap != nil {
		tcp = wrapped(tcp, s.Wrap)
	}
	return &dialer{
		proxy:    proxy,
		user:     s.Proxy.User,
		password: s.Proxy.Password,
		excepted: exceptions(s.Proxy.Except),
		roots:    roots,
		timeout:  s.ConnectTimeout,
		tcp:      tcp,
	}, nil
}

// dialFunc is net.Dialer's DialContext.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

func wrapped(dial dialFunc, wrap func(net.Conn) net.Conn) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}
}

// dial connects to addr, host:port. It fails with problems, or with the
// context's cause.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.proxy == nil || d.excepted(addr) {
		return d.dialDirect(ctx, network, addr)
	}
	return d.dialProxy(ctx, addr)
}

func (d *dialer) dialDirect(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.tcp(ctx, network, addr)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	kind := Unreachable
	if noName := (*net.DNSError)(nil); errors.As(err, &noName) {
		kind = Unresolved
	}
	return nil, kind.New(err, "connect to %s", addr)
}

// dialProxy connects to the proxy and has it connect to addr.
func (d *dialer) dialProxy(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.tcp(ctx, "tcp", d.proxy.Host)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, ProxyUnreachable.New(err, "connect to proxy %s", d.proxy)
	}
	tunnel, err := d.tunnel(ctx, conn, addr)
	if err != nil {
		_ = conn.Close() // the tunnel's error says it all
		return nil, err
	}
	return tunnel, nil
}

func (d *dialer) tunnel(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	if d.proxy.Scheme == "https" {
		secured := tls.Client(conn, &tls.Config{ServerName: d.proxy.Hostname(), RootCAs: d.roots, MinVersion: tls.VersionTLS12})
		err := d.within(ctx, conn, func() error { return secured.HandshakeContext(ctx) })
		if err != nil {
			return nil, classify(ctx, err, "proxy "+d.proxy.Host)
		}
		conn = secured
	}
	var tunnel net.Conn
	err := d.within(ctx, conn, func() (err error) {
		if strings.HasPrefix(d.proxy.Scheme, "socks5") {
			tunnel, err = conn, d.socks(conn, addr)
		} else {
			tunnel, err = d.connect(conn, addr)
		}
		return err
	})
	return tunnel, err
}

// within runs a dialog with the proxy that ends at the time-out or with the
// context, both by way of the connection's deadline. The context's cause wins
// over the error which that provokes. After an error conn is good for closing only.
func (d *dialer) within(ctx context.Context, conn net.Conn, dialog func() error) error {
	if err := conn.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		return Lost.New(err, "talk to proxy %s", d.proxy)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := dialog()
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return Lost.New(err, "talk to proxy %s", d.proxy)
	}
	return nil
}

// exceptions returns the matcher of a NO_PROXY list. httpproxy excepts
// loopback destinations always; here the list decides on them too, since it
// was an operator, not an environment, who named the proxy.
func exceptions(list string) func(addr string) bool {
	proxyFor := (&httpproxy.Config{HTTPSProxy: "http://proxy", NoProxy: list}).ProxyFunc()
	return func(addr string) bool {
		if host, _, err := net.SplitHostPort(addr); err == nil && isLoopback(host) {
			return listsLoopback(list, host, addr)
		}
		via, err := proxyFor(&url.URL{Scheme: "https", Host: addr})
		return err == nil && via == nil
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func listsLoopback(list, host, addr string) bool {
	ip, _ := netip.ParseAddr(host)
	for _, entry := range strings.Split(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if entry == "*" || entry == host || entry == addr {
			return true
		}
		if prefix, err := netip.ParsePrefix(entry); err == nil && prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// timedOut reports whether err is a deadline that passed.
func timedOut(err error) bool {
	timeout := net.Error(nil)
	return errors.As(err, &timeout) && timeout.Timeout()
}
