package vsphere

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// newTransport makes an HTTP transport that dials with a context and takes
// trust and proxies from the configuration alone. Its read buffer is left
// small: a read larger than the buffer bypasses it, and TLS gives a record of
// 16 KiB at most, so a larger buffer would only have bytes copied once more.
func newTransport(c Config, connections int) *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	trust := c.TLS.Clone()
	if trust == nil {
		trust = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t := &http.Transport{
		Proxy:               c.Proxy,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: 30 * time.Second,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: one stream per connection
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
	if c.Customize != nil {
		c.Customize(t)
	}
	return t
}

// noRedirect hands a redirect to the caller: neither a datastore nor a host
// sends us elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
