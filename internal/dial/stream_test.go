package dial

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skylift/internal/proxytest"
)

const (
	beat  = 20 * time.Second
	beats = 1000
)

// stream opens a server stream as the link does, HTTP/2 over TLS, which beats
// for hours and then is silent on a connection that still answers pings. wrap
// may spoil the client's end of the connection.
func stream(t *testing.T, wrap func(net.Conn) net.Conn) *http.Response {
	t.Helper()
	ca := newAuthority(t, "the CA")
	conns := make(pipes)
	server := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, nil)}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range beats {
				fmt.Fprint(w, r.ProtoMajor)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(beat)
			}
			<-r.Context().Done()
		}),
	}
	served := make(chan error)
	go func() { served <- server.ServeTLS(conns, "", "") }()
	transport := piped(t, Settings{CA: ca.pem, HTTP2: true}, nil)
	transport.dialer.tcp = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		conns <- far
		return wrap(near), nil
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		<-served
		time.Sleep(beats * beat) // until the handler has ended as well
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+proxytest.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// pipes is a listener.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return new(net.TCPAddr) }

func TestAStreamLivesByItsHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp := stream(t, func(conn net.Conn) net.Conn { return conn })
		defer resp.Body.Close()
		start := time.Now()
		got, err := io.ReadAll(resp.Body)
		wantProblem(t, err, Stalled, proxytest.Name)
		if want := (beats-1)*beat + limit; string(got) != strings.Repeat("2", beats) || time.Since(start) != want {
			t.Errorf("%d beats in %s, not %d in %s", len(got), time.Since(start), beats, want)
		}
	})
}

func TestAConnectionThatAnswersNoPingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		resp := stream(t, func(conn net.Conn) net.Conn { return deaf{conn, start.Add(time.Hour)} })
		defer resp.Body.Close()
		_, err := io.ReadAll(resp.Body)
		wantProblem(t, err, Lost, proxytest.Name)
		if took := time.Since(start); took < time.Hour || took > time.Hour+limit {
			t.Errorf("it was noticed after %s", took)
		}
	})
}

// deaf hears nothing from a moment on.
type deaf struct {
	net.Conn
	from time.Time
}

func (d deaf) Read(p []byte) (int, error) {
	for {
		n, err := d.Conn.Read(p)
		if err != nil || time.Now().Before(d.from) {
			return n, err
		}
	}
}
