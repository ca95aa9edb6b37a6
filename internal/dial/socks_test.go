package dial

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"skylift/internal/problem"
	"skylift/internal/secret"
)

func socksProxy(user, password string) Settings {
	return Settings{Proxy: Proxy{URL: "socks5://proxy.test:1080", User: user, Password: secret.New(password)}}
}

// reciting is a SOCKS5 proxy that says its part whatever it hears. It listens
// in the background, since a pipe has no buffer.
func reciting(text []byte) func(net.Conn) {
	return func(conn net.Conn) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, _ = conn.Write(text)
		conn.Close()
		<-done
	}
}

func TestAnswersOfSOCKS5AreTyped(t *testing.T) {
	open, login := "\x05\x00", "\x05\x02\x01\x00"
	for name, c := range map[string]struct {
		user, answer string
		want         *problem.Kind
		words        string
	}{
		"an HTTP server":            {"", "HTTP/1.1 400 Bad Request\r\n", ProxyProtocol, "0x48"},
		"closing at once":           {"", "", ProxyProtocol, "EOF"},
		"no method, no user":        {"", "\x05\xff", ProxyAuthRequired, "does not serve"},
		"no method, user":           {"u", "\x05\xff", ProxyAuthUnsupported, "neither"},
		"GSSAPI insisted on":        {"u", "\x05\x01", ProxyProtocol, "method 1"},
		"a password insisted on":    {"", "\x05\x02", ProxyProtocol, "method 2"},
		"wrong password":            {"u", "\x05\x02\x01\x01", ProxyAuthRejected, "status 1"},
		"wrong password, closing":   {"u", "\x05\x02", ProxyAuthRejected, "log in"},
		"closing on the request":    {"u", login, ProxyDestination, "no answer"},
		"general failure":           {"", open + "\x05\x01\x00\x01", ProxyDestination, "general failure"},
		"not allowed":               {"", open + "\x05\x02\x00\x01", ProxyRefused, "not allowed"},
		"network unreachable":       {"", open + "\x05\x03\x00\x01", ProxyDestination, "network unreachable"},
		"host unreachable":          {"", open + "\x05\x04\x00\x01", ProxyDestination, "host unreachable"},
		"connection refused":        {"", open + "\x05\x05\x00\x01", ProxyDestination, "connection refused"},
		"time to live":              {"", open + "\x05\x06\x00\x01", ProxyDestination, "time to live"},
		"no such command":           {"", open + "\x05\x07\x00\x01", ProxyRefused, "command"},
		"no such family":            {"", open + "\x05\x08\x00\x01", ProxyRefused, "address type"},
		"an unknown code":           {"", open + "\x05\x63\x00\x01", ProxyDestination, "unknown"},
		"another version":           {"", open + "\x04\x00\x00\x01", ProxyProtocol, "version 5"},
		"an unknown address":        {"", open + "\x05\x00\x00\x09", ProxyProtocol, "unknown type 9"},
		"half an address":           {"", open + "\x05\x00\x00\x01\x7f\x00", ProxyProtocol, "EOF"},
		"a name without its length": {"", open + "\x05\x00\x00\x03", ProxyProtocol, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			password := ""
			if c.user != "" {
				password = "hidden-word"
			}
			_, err := dialerTo(t, socksProxy(c.user, password), reciting([]byte(c.answer))).dial(t.Context(), "tcp", wanted)
			wantProblem(t, err, c.want, c.words, "proxy.test:1080")
			wantNoSecret(t, err, Proxy{User: c.user, Password: secret.New(password)})
		})
	}
}

func TestNothingIsLostBehindSOCKS5sAnswer(t *testing.T) {
	for name, address := range map[string]string{
		"IPv4": "\x01abcd", "IPv6": "\x04abcdefghijklmnop", "a name": "\x03\x05proxy", "an empty name": "\x03\x00",
	} {
		t.Run(name, func(t *testing.T) {
			d := dialerTo(t, socksProxy("", ""), reciting([]byte("\x05\x00\x05\x00\x00"+address+"\x01\x02the server speaks first")))
			conn, err := d.dial(t.Context(), "tcp", wanted)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			wantRead(t, conn, "the server speaks first")
		})
	}
}

func TestSOCKS5RequestsFollowRFC1928(t *testing.T) {
	for addr, want := range map[string]string{
		"destination.test:443":            "\x05\x01\x00\x03\x10destination.test\x01\xbb",
		"192.0.2.1:8443":                  "\x05\x01\x00\x01\xc0\x00\x02\x01\x20\xfb",
		"[::ffff:192.0.2.1]:443":          "\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb",
		"[2001:db8::1]:443":               "\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb",
		"destination.test":                "",
		"destination.test:65536":          "",
		strings.Repeat("x", 256) + ":443": "",
		":443":                            "",
	} {
		got, err := socksRequest(addr)
		if !bytes.Equal(got, []byte(want)) || (err == nil) != (want != "") {
			t.Errorf("%s: %q and %v", addr, got, err)
		}
	}
}

// TestAnyUserAndPasswordReachASOCKS5ProxyUnchanged reads RFC 1929 from the other end.
func TestAnyUserAndPasswordReachASOCKS5ProxyUnchanged(t *testing.T) {
	for _, c := range []credentials{{"u", "p"}, {"a:b@c", ":@/%"}, {strings.Repeat("x", 255), strings.Repeat("ü", 127)}} {
		heard := make(chan []byte, 1)
		d := dialerTo(t, socksProxy(c.User, c.Password), func(conn net.Conn) {
			login := make([]byte, 3+len(c.User)+len(c.Password))
			_, _ = io.ReadFull(conn, make([]byte, 4))
			_, _ = io.WriteString(conn, "\x05\x02")
			_, _ = io.ReadFull(conn, login)
			heard <- login
			_, _ = io.WriteString(conn, "\x01\x01")
		})
		_, err := d.dial(t.Context(), "tcp", wanted)
		wantProblem(t, err, ProxyAuthRejected)
		want := "\x01" + string([]byte{byte(len(c.User))}) + c.User + string([]byte{byte(len(c.Password))}) + c.Password
		if got := <-heard; string(got) != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

func FuzzSOCKS5Answer(f *testing.F) {
	f.Add("", []byte("\x05\x00\x05\x00\x00\x01abcd\x01\x02"))
	f.Add("u", []byte("\x05\x02\x01\x00\x05\x00\x00\x03\x01a\x01\x02"))
	f.Fuzz(func(t *testing.T, user string, answer []byte) {
		s := socksProxy(user, "")
		if user != "" {
			s = socksProxy("u", "hidden-word")
		}
		conn, err := dialerTo(t, s, reciting(answer)).dial(t.Context(), "tcp", wanted)
		if err == nil {
			conn.Close()
		} else if problem.Of(err) == nil {
			t.Errorf("no problem: %v", err)
		}
	})
}
