package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"testing/synctest"
	"time"

	"skylift/internal/problem"
	"skylift/internal/secret"
)

const wanted = "destination.test:443"

// dialerTo is a dialer whose proxy is played by a goroutine at the other end
// of a pipe.
func dialerTo(t testing.TB, s Settings, proxy func(conn net.Conn)) *dialer {
	t.Helper()
	d, err := newDialer(s.withDefaults(), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.tcp = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			proxy(far)
		}()
		return lenient{near}, nil
	}
	return d
}

// lenient takes a deadline after the other end has closed, as TCP does and a
// pipe does not.
type lenient struct{ net.Conn }

func (l lenient) SetDeadline(at time.Time) error {
	if err := l.Conn.SetDeadline(at); err != io.ErrClosedPipe {
		return err
	}
	return nil
}

func httpProxy(user, password string) Settings {
	return Settings{Proxy: Proxy{URL: "http://proxy.test:3128", User: user, Password: secret.New(password)}}
}

// answering is an HTTP proxy that always says the same.
func answering(text string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, text)
		}
	}
}

// credentials are any that HTTP Basic can carry.
type credentials struct{ User, Password string }

func (credentials) Generate(r *rand.Rand, size int) reflect.Value {
	text := func() string {
		runes := make([]rune, r.Intn(size+1))
		for i := range runes {
			runes[i] = []rune{rune(r.Intn(0x80)), rune(r.Intn(0xd800)), rune(0xe000 + r.Intn(0x10ffff-0xe000))}[r.Intn(3)]
		}
		return string(runes)
	}
	return reflect.ValueOf(credentials{"u" + strings.ReplaceAll(text(), ":", ""), text()})
}

func TestAnyUserAndPasswordReachAnHTTPProxyUnchanged(t *testing.T) {
	arrive := func(c credentials) bool {
		var user, password string
		d := dialerTo(t, httpProxy(c.User, c.Password), func(conn net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			req.Header.Set("Authorization", req.Header.Get("Proxy-Authorization"))
			user, password, _ = req.BasicAuth()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		})
		conn, err := d.dial(t.Context(), "tcp", wanted)
		if err != nil {
			t.Log(err)
			return false
		}
		conn.Close()
		return user == c.User && password == c.Password
	}
	if err := quick.Check(arrive, &quick.Config{MaxCount: 500}); err != nil {
		t.Error(err)
	}
}

func TestAnswersToCONNECTAreTyped(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   *problem.Kind
		words  []string
	}{
		"forbidden":            {"HTTP/1.1 403 Forbidden\r\n\r\n", ProxyRefused, []string{"403 Forbidden"}},
		"method not allowed":   {"HTTP/1.1 405 Method Not Allowed\r\n\r\n", ProxyRefused, []string{"405"}},
		"bad gateway":          {"HTTP/1.1 502 Bad Gateway\r\n\r\n", ProxyDestination, []string{"502 Bad Gateway"}},
		"unavailable":          {"HTTP/1.1 503 Service Unavailable\r\n\r\n", ProxyDestination, []string{"503"}},
		"gateway time-out":     {"HTTP/1.0 504 Gateway Timeout\r\n\r\n", ProxyDestination, []string{"504"}},
		"a redirect":           {"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n", ProxyRefused, []string{"302"}},
		"407 without schemes":  {"HTTP/1.1 407 No\r\n\r\n", ProxyAuthRejected, []string{"407", `user "u"`}},
		"407 with basic":       {"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: basic realm=\"x\"\r\n\r\n", ProxyAuthRejected, nil},
		"407 with two schemes": {"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, NTLM\r\n\r\n", ProxyAuthUnsupported, []string{"Negotiate, NTLM"}},
		"control characters":   {"HTTP/1.1 403 \x1b[2J\r\n\r\n", ProxyRefused, []string{`\x1b`}},
		"not HTTP":             {"SSH-2.0-OpenSSH\r\n", ProxyProtocol, nil},
		"nothing":              {"", ProxyProtocol, []string{"EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := dialerTo(t, httpProxy("u", "hidden-word"), answering(c.answer))
			_, err := d.dial(t.Context(), "tcp", wanted)
			wantProblem(t, err, c.want, append(c.words, "proxy.test:3128", wanted)...)
			wantNoSecret(t, err, Proxy{User: "u", Password: secret.New("hidden-word")})
		})
	}
}

func TestAnEndlessAnswerToCONNECTIsCutShort(t *testing.T) {
	sent := make(chan int)
	d := dialerTo(t, httpProxy("", ""), func(conn net.Conn) {
		answering("HTTP/1.1 200 OK\r\nX: ")(conn)
		n, _ := io.CopyN(conn, zeros{}, 100*maxAnswer)
		sent <- int(n)
	})
	_, err := d.dial(t.Context(), "tcp", wanted)
	wantProblem(t, err, ProxyProtocol, "not HTTP")
	if len(err.Error()) > 1000 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
	if n := <-sent; n > 2*maxAnswer {
		t.Errorf("%d bytes were read", n)
	}
}

func TestNothingIsLostBehindTheProxysAnswer(t *testing.T) {
	for _, status := range []string{"200 Connection established", "201 Created"} {
		d := dialerTo(t, httpProxy("", ""), answering("HTTP/1.1 "+status+"\r\nVia: x\r\n\r\nthe server speaks first"))
		conn, err := d.dial(t.Context(), "tcp", wanted)
		if err != nil {
			t.Fatal(err)
		}
		wantRead(t, conn, "the server")
		wantRead(t, conn, " speaks first")
		conn.Close()
	}
}

func TestASilentProxyIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		url  string
		want *problem.Kind
	}{
		"HTTP":   {"http://proxy.test:3128", ProxyDestination},
		"SOCKS5": {"socks5://proxy.test:1080", ProxyProtocol},
		"TLS":    {"https://proxy.test:443", Stalled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dialerTo(t, Settings{Proxy: Proxy{URL: c.url}}, hang)
				start := time.Now()
				_, err := d.dial(t.Context(), "tcp", wanted)
				wantProblem(t, err, c.want, "proxy.test")
				if took := time.Since(start); took != DefaultConnectTimeout {
					t.Errorf("it took %s", took)
				}

				cause := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(cause) })
				if _, err := d.dial(ctx, "tcp", wanted); problem.Of(err) != nil || !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
					t.Errorf("the caller's end came back as %v", err)
				}
			})
		})
	}
}

func TestATunnelOutlivesTheConnectTimeout(t *testing.T) {
	for name, url := range map[string]string{"HTTP": "http://proxy.test:3128", "SOCKS5": "socks5://proxy.test:1080"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dialerTo(t, Settings{Proxy: Proxy{URL: url}}, func(conn net.Conn) {
					if name == "HTTP" {
						answering("HTTP/1.1 200 OK\r\n\r\n")(conn)
					} else {
						_, _ = io.ReadFull(conn, make([]byte, 3))
						_, _ = io.WriteString(conn, "\x05\x00")
						_, _ = conn.Read(make([]byte, 100))
						_, _ = io.WriteString(conn, "\x05\x00\x00\x01abcd\x01\x02")
					}
					time.Sleep(10 * DefaultConnectTimeout)
					_, _ = io.WriteString(conn, "late")
				})
				conn, err := d.dial(t.Context(), "tcp", wanted)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				wantRead(t, conn, "late")
			})
		})
	}
}

func TestDirectDialingIsTyped(t *testing.T) {
	transport, err := NewTransport(Settings{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = transport.DialContext(t.Context(), "tcp", "127.0.0.1:1")
	wantProblem(t, err, Unreachable, "127.0.0.1:1", "refused")
	_, err = transport.DialContext(t.Context(), "tcp", "name.invalid:443")
	wantProblem(t, err, Unresolved, "name.invalid")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = transport.DialContext(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.Canceled) || problem.Of(err) != nil {
		t.Errorf("the caller's end came back as %v", err)
	}
}

func TestChallengesAreTakenApart(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   []string
	}{
		{nil, nil},
		{[]string{"NTLM", "Negotiate"}, []string{"NTLM", "Negotiate"}},
		{[]string{`Basic realm="a, b", charset="UTF-8", NTLM`}, []string{"Basic", "NTLM"}},
		{[]string{`Digest realm="say \"hi\", ok", nonce = "x", Negotiate abc==`}, []string{"Digest", "Negotiate"}},
		{[]string{`Basic realm="an open \" quote, Digest", NTLM`}, []string{"Basic", "NTLM"}},
		{[]string{"NTLM, NTLM, ,"}, []string{"NTLM"}},
		{[]string{`="`}, nil},
	} {
		if got := authSchemes(c.values); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.values, got, c.want)
		}
	}
}

func FuzzCONNECTAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nearly"))
	f.Add([]byte("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\", NTLM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := dialerTo(t, httpProxy("u", "hidden-word"), answering(string(text)))
		conn, err := d.dial(t.Context(), "tcp", wanted)
		if err == nil {
			conn.Close()
		} else if problem.Of(err) == nil || len(err.Error()) > 2000 {
			t.Errorf("no problem, or a long one: %v", err)
		}
	})
}

// TestOverReplacesWhatATransportHad has a transport as govmomi makes it.
func TestOverReplacesWhatATransportHad(t *testing.T) {
	fail := errors.New("the old way was taken")
	old := func(context.Context, string, string) (net.Conn, error) { return nil, fail }
	base := &http.Transport{
		Proxy:           func(*http.Request) (*url.URL, error) { return nil, fail },
		DialContext:     old,
		DialTLSContext:  old,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	d := newDestination(t, nil, nil)
	transport, err := Over(base, Settings{CA: d.ca.pem})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.Client().Get(d.url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if transport, err = Over(&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Settings{}); err != nil {
		t.Fatal(err)
	}
	_, err = transport.Client().Get(d.url)
	wantProblem(t, err, Untrusted)
}

func TestClientsFollowOnlyWhatKeepsTheMethod(t *testing.T) {
	d := newDestination(t, nil, nil)
	d.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var status int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err == nil {
			http.Redirect(w, r, "/", status)
			return
		}
		fmt.Fprint(w, r.Method)
	})
	transport, err := NewTransport(Settings{CA: d.ca.pem})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	for status, want := range map[int]int{302: 302, 303: 303, 307: 200, 308: 200} {
		target, _ := url.JoinPath(d.url, fmt.Sprint(status))
		resp, err := transport.Client().Post(target, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || want == 200 && string(body) != "POST" {
			t.Errorf("%d ended with %s and %q", status, resp.Status, body)
		}
	}
}
