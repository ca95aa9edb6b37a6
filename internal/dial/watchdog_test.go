package dial

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skylift/internal/problem"
)

const (
	limit = time.Minute
	peer  = "destination.test:80"
	page  = "http://" + peer + "/"
)

// piped is a Transport whose connections are pipes, each to a goroutine that
// plays the server until it returns; for use in a bubble.
func piped(t *testing.T, s Settings, server func(conn net.Conn)) *Transport {
	t.Helper()
	s.IdleTimeout = limit
	transport, err := NewTransport(s)
	if err != nil {
		t.Fatal(err)
	}
	transport.dialer.tcp = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			server(far)
		}()
		return near, nil
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// request takes a request's header and body off the connection.
func request(conn net.Conn) bool {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// hang is the silence of a server that keeps the connection.
func hang(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// post sends body and reads the answer to its end. It gives what was read.
func post(t *testing.T, transport *Transport, body io.Reader) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, page, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func TestSilenceEndsARequest(t *testing.T) {
	for name, c := range map[string]struct {
		server func(net.Conn)
		upload string
		read   string
	}{
		"before the response": {server: func(conn net.Conn) { request(conn); hang(conn) }},
		"in the response's body": {
			server: func(conn net.Conn) {
				request(conn)
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
				hang(conn)
			},
			read: "hello",
		},
		"in the request's body": {
			server: func(conn net.Conn) {
				_, _ = io.ReadFull(conn, make([]byte, 1000))
				time.Sleep(2 * limit) // a pipe that nobody reads is stuck
			},
			upload: strings.Repeat("x", 1<<20),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				got, err := post(t, piped(t, Settings{}, c.server), strings.NewReader(c.upload))
				wantProblem(t, err, Stalled, peer, "1m0s")
				if took := time.Since(start); took != limit || got != c.read {
					t.Errorf("ended after %s with %q", took, got)
				}
				if !timedOut(err) {
					t.Error("it does not count as a time-out")
				}
				time.Sleep(2 * limit) // until the server has ended as well
			})
		})
	}
}

func TestWhoeverKeepsGoingIsLeftAlone(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
	answer := func(conn net.Conn) { fmt.Fprintf(conn, ok+"done", 4) }
	for name, c := range map[string]struct {
		server func(net.Conn)
		upload io.Reader
	}{
		"a trickling response": {server: func(conn net.Conn) {
			request(conn)
			fmt.Fprintf(conn, ok, 100)
			for range 100 {
				time.Sleep(limit - time.Second)
				fmt.Fprint(conn, "x")
			}
		}},
		"a slow uplink": {
			server: func(conn net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(&paced{conn, time.Second}))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				answer(conn)
			},
			upload: bytes.NewReader(make([]byte, 1<<20)),
		},
		"a slow source of the request's body": {
			server: func(conn net.Conn) { request(conn); answer(conn) },
			upload: &paced{io.LimitReader(zeros{}, 10), 10 * limit},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if _, err := post(t, piped(t, Settings{}, c.server), c.upload); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// paced reads a little after each pause.
type paced struct {
	io.Reader
	pause time.Duration
}

func (p *paced) Read(b []byte) (int, error) {
	time.Sleep(p.pause)
	return p.Reader.Read(b[:min(len(b), 8<<10)])
}

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
func (zeros) Close() error               { return nil }

func TestBackPressureIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := piped(t, Settings{}, func(conn net.Conn) {
			request(conn)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 1<<20)
			_, _ = io.CopyN(conn, zeros{}, 1<<20)
		})
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.Sleep(10 * limit)
		for range 4 {
			if _, err := io.ReadFull(resp.Body, make([]byte, 1<<18)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * limit)
		}
	})
}

// TestAnUploadUnderWayIsIgnoredAfterTheResponse has a server that answers
// before it has everything, and then reads no more.
func TestAnUploadUnderWayIsIgnoredAfterTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := piped(t, Settings{}, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4096))
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			fmt.Fprint(conn, "hello") // once the client reads
			time.Sleep(20 * limit)
		})
		source := &paced{io.LimitReader(zeros{}, 1<<20), time.Second}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, page, source)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * limit)
		wantRead(t, resp.Body, "hello")
		resp.Body.Close()
		time.Sleep(20 * limit) // until the server has ended as well
	})
}

func TestAConnectionWithoutARequestIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connections := 0
		transport := piped(t, Settings{}, func(conn net.Conn) {
			connections++
			for request(conn) {
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		transport.base.IdleConnTimeout = 0
		for range 3 {
			if _, err := post(t, transport, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * limit)
		}
		if connections != 1 {
			t.Errorf("%d connections were made, not 1", connections)
		}
	})
}

func TestWaitingForAConnectionIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := piped(t, Settings{MaxConnsPerHost: 1}, func(conn net.Conn) {
			for request(conn) {
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
			}
		})
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
		first, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error)
		go func() {
			_, err := post(t, transport, nil)
			second <- err
		}()
		time.Sleep(10 * limit)
		_, _ = io.Copy(io.Discard, first.Body)
		first.Body.Close()
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

func TestTheCallersOwnEndIsNoProblem(t *testing.T) {
	for name, body := range map[string]string{"before the response": "", "in the response's body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := piped(t, Settings{}, func(conn net.Conn) {
					request(conn)
					fmt.Fprint(conn, body)
					hang(conn)
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
				resp, err := transport.RoundTrip(req)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if problem.Of(err) != nil || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestACutConnectionIsNamed(t *testing.T) {
	for name, answer := range map[string]string{"before the response": "", "in the response's body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := piped(t, Settings{}, func(conn net.Conn) {
					request(conn)
					fmt.Fprint(conn, answer)
				})
				_, err := post(t, transport, nil)
				wantProblem(t, err, Lost, peer)
			})
		})
	}
}

func TestReadsCostNoMemory(t *testing.T) {
	w := newWatchdog(limit, func() {})
	defer w.rest()
	down := &download{body: zeros{}, w: w}
	up := &upload{zeros{}, w}
	p := make([]byte, 1)
	for name, read := range map[string]func([]byte) (int, error){"response": down.Read, "request": up.Read} {
		if n := testing.AllocsPerRun(1000, func() { _, _ = read(p) }); n != 0 {
			t.Errorf("%s: %v allocations per read", name, n)
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	w := newWatchdog(limit, func() {})
	defer w.rest()
	down := &download{body: zeros{}, w: w}
	p := make([]byte, 32<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		_, _ = down.Read(p)
	}
}

func BenchmarkUpload(b *testing.B) {
	w := newWatchdog(limit, func() {})
	up := &upload{zeros{}, w}
	defer w.rest()
	p := make([]byte, 32<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		_, _ = up.Read(p)
	}
}
