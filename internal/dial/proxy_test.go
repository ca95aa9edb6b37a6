package dial

import (
	"encoding/base64"
	"net"
	"net/url"
	"strings"
	"testing"

	"skylift/internal/problem"
	"skylift/internal/proxytest"
	"skylift/internal/secret"
)

const (
	user     = "skylift"
	password = "p@ss:w/rd% ü€"
)

func hostOf(t testing.TB, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestDestinationsAreReachedThroughRealProxies(t *testing.T) {
	t.Parallel()
	d := newDestination(t, nil, nil)
	open := proxytest.Squid(t)
	basic := proxytest.Squid(t, proxytest.Basic(map[string]string{user: password}))
	socks := proxytest.SOCKS(t, "", "")
	locked := proxytest.SOCKS(t, user, password)
	known := func(url string) Proxy { return Proxy{URL: url, User: user, Password: secret.New(password)} }
	for name, c := range map[string]struct {
		proxy     Proxy
		url, from string
	}{
		"open Squid":                     {Proxy{URL: open}, d.named(), proxytest.Outgoing},
		"open Squid, needless password":  {known(open), d.named(), proxytest.Outgoing},
		"Squid with a password":          {known(basic), d.named(), proxytest.Outgoing},
		"open SOCKS5":                    {Proxy{URL: socks}, d.url, proxytest.Outgoing},
		"open SOCKS5 by socks5h":         {Proxy{URL: strings.Replace(socks, "socks5", "socks5h", 1)}, d.url, proxytest.Outgoing},
		"open SOCKS5, needless password": {known(socks), d.url, proxytest.Outgoing},
		"SOCKS5 with a password":         {known(locked), d.url, proxytest.Outgoing},
		"SOCKS5 resolving a name":        {Proxy{URL: socks}, strings.Replace(d.url, "127.0.0.1", "localhost", 1), proxytest.Outgoing},
		"a destination excepted":         {Proxy{URL: "http://127.0.0.1:1", Except: "127.0.0.0/8"}, d.url, "127.0.0.1"},
		"no proxy":                       {Proxy{}, d.url, "127.0.0.1"},
	} {
		for proto, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
			t.Run(name+" "+proto, func(t *testing.T) {
				body, err := get(t, Settings{Proxy: c.proxy, CA: d.ca.pem, HTTP2: http2}, c.url)
				if want := c.from + " " + proto; err != nil || body != want {
					t.Errorf("got %q and %v, want %q", body, err, want)
				}
			})
		}
	}
}

func TestDanteServes(t *testing.T) {
	t.Parallel()
	d := newDestination(t, nil, nil)
	proxy := proxytest.Dante(t)
	if _, err := get(t, Settings{Proxy: Proxy{URL: proxy}, CA: d.ca.pem}, d.url); err != nil {
		t.Error(err)
	}
	_, err := get(t, Settings{Proxy: Proxy{URL: proxy}}, "https://192.0.2.1/")
	wantProblem(t, err, ProxyRefused, hostOf(t, proxy), "192.0.2.1:443", "not allowed by its rules")
}

func TestSquidIsSpokenToOverTLS(t *testing.T) {
	t.Parallel()
	d := newDestination(t, nil, nil)
	cert := d.ca.leaf(t, nil)
	addr := proxytest.FreeAddr(t)
	proxytest.Squid(t, proxytest.TLS(addr, certAndKey(t, cert)), proxytest.Basic(map[string]string{user: password}))
	proxy := Proxy{URL: "https://" + addr, User: user, Password: secret.New(password)}
	body, err := get(t, Settings{Proxy: proxy, CA: d.ca.pem}, d.named())
	if err != nil || body != proxytest.Outgoing+" HTTP/1.1" {
		t.Errorf("got %q and %v", body, err)
	}
	_, err = get(t, Settings{Proxy: proxy}, d.named())
	wantProblem(t, err, Untrusted, "proxy "+addr, "the server", "the CA", Fingerprint(cert.Leaf))
}

func TestWhatGoesWrongAtAProxyIsNamed(t *testing.T) {
	t.Parallel()
	d := newDestination(t, nil, nil)
	basic := proxytest.Squid(t, proxytest.Basic(map[string]string{user: password}))
	denying := proxytest.Squid(t, proxytest.DenyAll())
	open := proxytest.Squid(t)
	socks := proxytest.SOCKS(t, "", "")
	locked := proxytest.SOCKS(t, user, password)
	nobody := "127.0.0.1:1"
	as := func(url, password string) Proxy { return Proxy{URL: url, User: user, Password: secret.New(password)} }
	for name, c := range map[string]struct {
		proxy Proxy
		url   string
		kind  *problem.Kind
		words []string
	}{
		"wrong password at Squid":              {as(basic, "wrong-password"), d.named(), ProxyAuthRejected, []string{hostOf(t, basic), user, "407"}},
		"no password at Squid":                 {Proxy{URL: basic}, d.named(), ProxyAuthRequired, []string{hostOf(t, basic), "407"}},
		"Squid denies":                         {Proxy{URL: denying}, d.named(), ProxyRefused, []string{hostOf(t, denying), hostOf(t, d.named()), "403", "ERR_ACCESS_DENIED"}},
		"Squid cannot connect":                 {Proxy{URL: open}, "https://" + nobody, ProxyDestination, []string{hostOf(t, open), nobody, "503", "ERR_CONNECT_FAIL"}},
		"wrong password at SOCKS5":             {as(locked, "wrong-password"), d.url, ProxyAuthRejected, []string{hostOf(t, locked), user}},
		"no password at SOCKS5":                {Proxy{URL: locked}, d.url, ProxyAuthRequired, []string{hostOf(t, locked)}},
		"SOCKS5 cannot connect":                {Proxy{URL: socks}, "https://" + nobody, ProxyDestination, []string{hostOf(t, socks), nobody, "connection refused"}},
		"nobody listens at the HTTP proxy":     {as("http://"+nobody, "wrong-password"), d.url, ProxyUnreachable, []string{"http://" + nobody, "refused"}},
		"nobody listens at the SOCKS5 proxy":   {as("socks5://"+nobody, "wrong-password"), d.url, ProxyUnreachable, []string{"socks5://" + nobody, "refused"}},
		"the proxy's name is unknown":          {Proxy{URL: "http://proxy.invalid:3128"}, d.url, ProxyUnreachable, []string{"proxy.invalid:3128"}},
		"HTTP is spoken to a SOCKS5 proxy":     {as("http://"+hostOf(t, socks), "wrong-password"), d.url, ProxyProtocol, []string{hostOf(t, socks)}},
		"the proxy is an HTTPS server, really": {Proxy{URL: "http://" + hostOf(t, d.url)}, d.url, ProxyProtocol, []string{hostOf(t, d.url)}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := get(t, Settings{Proxy: c.proxy, CA: d.ca.pem}, c.url)
			wantProblem(t, err, c.kind, c.words...)
			wantNoSecret(t, err, c.proxy)
		})
	}
}

func TestSchemesWithoutAPlainPasswordAreNamed(t *testing.T) {
	t.Parallel()
	d := newDestination(t, nil, nil)
	for _, scheme := range []string{"NTLM", "Negotiate", "Digest"} {
		t.Run(scheme, func(t *testing.T) {
			url := proxytest.Squid(t, proxytest.Scheme(scheme))
			for name, proxy := range map[string]Proxy{
				"with a password":    {URL: url, User: user, Password: secret.New(password)},
				"without a password": {URL: url},
			} {
				t.Run(name, func(t *testing.T) {
					_, err := get(t, Settings{Proxy: proxy, CA: d.ca.pem}, d.named())
					wantProblem(t, err, ProxyAuthUnsupported, hostOf(t, url), "it offers "+scheme+";", "Basic")
					wantNoSecret(t, err, proxy)
				})
			}
		})
	}
}

// TestPasswordsSurviveOnRealSquid has what tends to break: delimiters of URLs
// and of Basic, quotes, shells, spaces, and bytes beyond ASCII.
func TestPasswordsSurviveOnRealSquid(t *testing.T) {
	t.Parallel()
	users := map[string]string{
		"colon":        "a:b::c:",
		"at":           "user@example.com/path?query#fragment",
		"percent":      "100%41%zz%",
		"quotes":       `"'` + "`" + `\"`,
		"spaces":       " in  and around ",
		"shell":        "$(id);&|<>*~!{}[]",
		"umlauts":      "Grüße, Łódź",
		"cjk":          "密码パスワード",
		"emoji":        "🔑🗝️",
		"combining":    "e\u0301 is not é",
		"long":         strings.Repeat("long and longer ", 12),
		"DOMAIN\\user": "backslash in the user",
		"ü@corp.ex":    "umlaut in the user",
	}
	d := newDestination(t, nil, nil)
	url := proxytest.Squid(t, proxytest.Basic(users))
	for user, password := range users {
		t.Run(user, func(t *testing.T) {
			proxy := Proxy{URL: url, User: user, Password: secret.New(password)}
			if _, err := get(t, Settings{Proxy: proxy, CA: d.ca.pem}, d.named()); err != nil {
				t.Error(err)
			}
			proxy.Password = secret.New(password + "x")
			_, err := get(t, Settings{Proxy: proxy, CA: d.ca.pem}, d.named())
			wantProblem(t, err, ProxyAuthRejected)
		})
	}
}

func TestRawTCPGoesThroughProxiesToo(t *testing.T) {
	t.Parallel()
	greeter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer greeter.Close()
	go func() {
		for {
			conn, err := greeter.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("the server speaks first"))
			conn.Close()
		}
	}()
	for name, url := range map[string]string{"Squid": proxytest.Squid(t), "SOCKS5": proxytest.SOCKS(t, "", ""), "none": ""} {
		t.Run(name, func(t *testing.T) {
			transport, err := NewTransport(Settings{Proxy: Proxy{URL: url}})
			if err != nil {
				t.Fatal(err)
			}
			conn, err := transport.DialContext(t.Context(), "tcp", greeter.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			wantRead(t, conn, "the server speaks first")
		})
	}
}

// wantNoSecret looks for the password in the forms that could leak.
func wantNoSecret(t testing.TB, err error, p Proxy) {
	t.Helper()
	value := p.Password.Reveal()
	if value == "" {
		return
	}
	text := problem.Describe(err)
	for _, form := range []string{value, url.QueryEscape(value), base64.StdEncoding.EncodeToString([]byte(p.User + ":" + value))} {
		if strings.Contains(text, form) {
			t.Errorf("the password leaked as %q in: %s", form, text)
		}
	}
}
