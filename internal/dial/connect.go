package dial

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxAnswer bounds the header of a proxy's answer to CONNECT.
const maxAnswer = 64 << 10

// connect asks an HTTP proxy for a tunnel to addr (RFC 9110, section 9.3.6).
// Basic credentials are sent at once: a proxy that wants them has then no
// reason to close the connection first.
func (d *dialer) connect(conn net.Conn, addr string) (net.Conn, error) {
	header := http.Header{"User-Agent": {"skylift"}}
	if d.user != "" {
		credentials := d.user + ":" + d.password.Reveal()
		header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(credentials)))
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: header}
	if err := req.Write(conn); err != nil {
		return nil, ProxyProtocol.New(err, "ask proxy %s for %s", d.proxy, addr)
	}
	in := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	resp, err := http.ReadResponse(in, req)
	switch {
	case timedOut(err):
		return nil, ProxyDestination.New(err, "no answer from proxy %s for %s", d.proxy, addr)
	case err != nil && isLost(err):
		return nil, ProxyProtocol.New(err, "ask proxy %s for %s", d.proxy, addr)
	case err != nil:
		// The error repeats what was read, however long.
		cause := fmt.Errorf("its answer is not HTTP: %.100q", err.Error())
		return nil, ProxyProtocol.New(cause, "ask proxy %s for %s", d.proxy, addr)
	case resp.StatusCode/100 != 2:
		return nil, d.refusal(resp, addr)
	}
	// What the destination said already lies behind the header.
	early, err := in.Peek(in.Buffered())
	if err != nil {
		return nil, ProxyProtocol.New(err, "ask proxy %s for %s", d.proxy, addr)
	}
	if len(early) == 0 {
		return conn, nil
	}
	return &tunneled{Conn: conn, early: early}, nil
}

// tunneled is a connection whose first bytes were read with the proxy's answer.
type tunneled struct {
	net.Conn
	early []byte
}

func (c *tunneled) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}

// refusal types a proxy's answer other than success.
func (d *dialer) refusal(resp *http.Response, addr string) error {
	// The body of such an answer is a page for a browser; the connection is
	// closed without reading it.
	switch resp.StatusCode {
	case http.StatusProxyAuthRequired:
		return d.unauthorized(resp, addr)
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return ProxyDestination.New(answer(resp), "ask proxy %s for %s", d.proxy, addr)
	}
	return ProxyRefused.New(answer(resp), "ask proxy %s for %s", d.proxy, addr)
}

// answer tells what the proxy said, with the reason that Squid adds.
func answer(resp *http.Response) error {
	if reason := resp.Header.Get("X-Squid-Error"); reason != "" {
		return fmt.Errorf("it answered %.80q (%.80q)", resp.Status, reason)
	}
	return fmt.Errorf("it answered %.80q", resp.Status)
}

// unauthorized tells wrong credentials from missing ones and from a proxy that
// does not take Basic.
func (d *dialer) unauthorized(resp *http.Response, addr string) error {
	offered := authSchemes(resp.Header.Values("Proxy-Authenticate"))
	basic := slices.ContainsFunc(offered, func(s string) bool { return strings.EqualFold(s, "Basic") })
	switch {
	case len(offered) > 0 && !basic:
		cause := fmt.Errorf("it offers %s; Basic is needed", strings.Join(offered, ", "))
		return ProxyAuthUnsupported.New(cause, "ask proxy %s for %s", d.proxy, addr)
	case d.user == "":
		return ProxyAuthRequired.New(answer(resp), "ask proxy %s for %s", d.proxy, addr)
	}
	return ProxyAuthRejected.New(answer(resp), "ask proxy %s for %s as user %q", d.proxy, addr, d.user)
}

// authSchemes lists the schemes in the values of Proxy-Authenticate, of which
// each may hold several challenges with their parameters (RFC 9110, section
// 11.6.1): a part between commas opens a challenge unless it is name=value.
func authSchemes(values []string) []string {
	var schemes []string
	for _, value := range values {
		for _, part := range splitUnquoted(value) {
			end := strings.IndexFunc(part, func(r rune) bool { return !isTokenRune(r) })
			if end < 0 {
				end = len(part)
			}
			scheme, rest := part[:end], strings.TrimLeft(part[end:], " \t")
			isParameter := strings.HasPrefix(rest, "=")
			if scheme != "" && len(scheme) <= 32 && !isParameter && !slices.Contains(schemes, scheme) {
				schemes = append(schemes, scheme)
			}
		}
	}
	return schemes
}

// splitUnquoted splits at commas outside of quoted strings and trims the parts.
func splitUnquoted(value string) []string {
	var parts []string
	start, quoted, escaped := 0, false, false
	for i := range len(value) {
		switch c := value[i]; {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			parts = append(parts, strings.TrimSpace(value[start:i]))
			start = i + 1
		}
	}
	return append(parts, strings.TrimSpace(value[start:]))
}

// isTokenRune is RFC 9110's tchar.
func isTokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
