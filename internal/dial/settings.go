package dial

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"skylift/internal/secret"
)

// What a zero time-out in Settings means.
const (
	DefaultConnectTimeout = 20 * time.Second
	DefaultIdleTimeout    = 60 * time.Second
)

// Settings say how to reach the outside. The zero value dials directly and
// trusts the system's roots.
type Settings struct {
	Proxy Proxy
	// CA holds the operator's PEM certificates, trusted besides the system's
	// roots for destinations and for https:// proxies alike.
	CA []byte
	// OnlyCA trusts nothing but CA.
	OnlyCA bool
	// Fingerprint is the SHA-256 of the destination's leaf certificate in hex,
	// in either case, with or without colons. It replaces every other check of
	// that certificate, name and dates among them, so Settings with a
	// fingerprint are for one destination.
	Fingerprint string
	// ConnectTimeout limits each step of connecting by itself: TCP with name
	// resolution, the proxy's handshake, TLS.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a request under way may go without a byte in
	// either direction before it fails with Stalled. The time that the caller
	// takes to supply the request's body or to read the response's does not
	// count; nor does the wait for one of MaxConnsPerHost connections.
	IdleTimeout time.Duration
	// MaxConnsPerHost bounds the connections to one host; 0 is no bound.
	MaxConnsPerHost int
	// Wrap, where it is set, is put around each TCP connection, below TLS and
	// what proxies add: it sees the bytes that cross the network. A Write of
	// its may wait, but for less than IdleTimeout.
	Wrap func(net.Conn) net.Conn
	// HTTP2 offers HTTP/2 besides HTTP/1.1. Bulk data is better off without:
	// it then has a TCP connection per request.
	HTTP2 bool
}

// Proxy is the way out of a closed network. The zero value is none.
type Proxy struct {
	// URL is scheme://host:port without user and password. Schemes: http and
	// https (CONNECT), socks5 and socks5h (the same: the proxy resolves names).
	// The port may be left out where it is the scheme's own: 80, 443, 1080.
	URL string
	// User and Password are sent by HTTP Basic (RFC 7617) or by SOCKS5's
	// user/password method (RFC 1929); an empty User sends none.
	User     string
	Password secret.Text
	// Except lists what is dialed directly, in the syntax of NO_PROXY: names
	// with their subdomains, .subdomains, addresses, CIDR ranges, an optional
	// port, or * for all; separated by commas. A loopback destination is
	// treated as any other.
	Except string
}

// Validate reports everything wrong with the settings, as problems of the
// kinds ProxyInvalid, CAInvalid, FingerprintInvalid and LimitsInvalid. It never
// repeats a secret, not even one misplaced in the proxy's URL.
func (s Settings) Validate() error {
	var errs []error
	if _, err := s.Proxy.parse(); err != nil {
		errs = append(errs, err)
	}
	if _, err := rootsOf(s.CA, s.OnlyCA); err != nil {
		errs = append(errs, err)
	}
	if s.Fingerprint != "" {
		if _, err := parseFingerprint(s.Fingerprint); err != nil {
			errs = append(errs, err)
		}
	}
	if s.ConnectTimeout < 0 || s.IdleTimeout < 0 || s.MaxConnsPerHost < 0 {
		errs = append(errs, LimitsInvalid.New(nil, "a time-out or the number of connections is negative"))
	}
	return errors.Join(errs...)
}

// withDefaults replaces zero time-outs.
func (s Settings) withDefaults() Settings {
	if s.ConnectTimeout == 0 {
		s.ConnectTimeout = DefaultConnectTimeout
	}
	if s.IdleTimeout == 0 {
		s.IdleTimeout = DefaultIdleTimeout
	}
	return s
}

// proxyPorts has the supported schemes and their default ports.
var proxyPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// parse returns the proxy's URL with a port, or nil where there is no proxy.
func (p Proxy) parse() (*url.URL, error) {
	if p.URL == "" {
		if p.User != "" || !p.Password.Empty() {
			return nil, ProxyInvalid.New(nil, "a user or password is given without a proxy")
		}
		return nil, nil
	}
	u, err := parseProxyURL(p.URL)
	if err != nil {
		return nil, ProxyInvalid.New(err, "proxy address")
	}
	if err := p.checkCredentials(u.Scheme); err != nil {
		return nil, ProxyInvalid.New(err, "proxy %s", u)
	}
	if err := checkExceptions(p.Except); err != nil {
		return nil, ProxyInvalid.New(err, "exceptions of proxy %s", u)
	}
	return u, nil
}

// parseProxyURL never puts the text into an error: it may hold a password.
func parseProxyURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	port, known := proxyPorts[u.Scheme]
	switch {
	case u.User != nil || strings.Contains(text, "@"):
		return nil, errors.New("user and password belong into their own fields, not into the URL")
	case !known:
		return nil, errors.New("it does not begin with http://, https://, socks5:// or socks5h://")
	case u.Hostname() == "":
		return nil, errors.New("the host is missing")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("it has more than a scheme, a host and a port")
	}
	if given := u.Port(); given != "" {
		port = given
		if n, err := strconv.ParseUint(given, 10, 16); err != nil || n == 0 {
			return nil, errors.New("the port is not between 1 and 65535")
		}
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), port)}, nil
}

// checkCredentials keeps to what the two methods can carry: Basic ends the
// user at the first colon; SOCKS5 has a length byte before each.
func (p Proxy) checkCredentials(scheme string) error {
	password := p.Password.Reveal()
	if !utf8.ValidString(p.User) || !utf8.ValidString(password) {
		return errors.New("the user or the password is not valid UTF-8")
	}
	if p.User == "" {
		if password != "" {
			return errors.New("a password is given without a user")
		}
		return nil
	}
	if strings.HasPrefix(scheme, "socks5") {
		if len(p.User) > 255 || len(password) > 255 || password == "" {
			return errors.New("SOCKS5 takes a user and a password of 1 to 255 bytes each")
		}
		return nil
	}
	if strings.Contains(p.User, ":") {
		return errors.New("a user name with a colon cannot be sent by HTTP Basic")
	}
	return nil
}

// checkExceptions refuses entries that the matcher would silently skip.
func checkExceptions(list string) error {
	for _, entry := range strings.Split(list, ",") {
		entry = strings.TrimSpace(entry)
		if strings.ContainsFunc(entry, unicode.IsSpace) || strings.ContainsAny(entry, ";@") || strings.Contains(entry, "://") {
			return fmt.Errorf("%q is not a name, an address or a range; entries are separated by commas", entry)
		}
		if strings.Contains(entry, "/") {
			if _, err := netip.ParsePrefix(entry); err != nil {
				return fmt.Errorf("%q is not a CIDR range", entry)
			}
		}
	}
	return nil
}
