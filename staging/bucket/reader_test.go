package bucket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"skylift/internal/problem"
)

// cut breaks streams after n bytes.
func cut(n int64) fault {
	return func(w http.ResponseWriter, _ *http.Request, pass func() *http.Response) { relayPart(w, pass(), n) }
}

func TestABrokenStreamIsResumedAtItsOffset(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	whole := random(300_000)
	if err := s.Put(t.Context(), "a", whole); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		off, n int64
	}{
		{"of a whole object", 0, -1}, {"of a range", 1000, 250_000}, {"from an offset", 50_000, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.set(times(4, http.MethodGet, cut(30_000)))
			got, err := read(t, s, "a", tt.off, tt.n)
			want := whole[tt.off:]
			if tt.n >= 0 {
				want = want[:tt.n]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			requests := p.requests()
			if len(requests) != 5 {
				t.Fatalf("%d requests", len(requests))
			}
			for _, r := range requests[1:] {
				if r.Header.Get("If-Match") == "" || r.Header.Get("Range") == "" || r.Header.Get("Range") == requests[0].Header.Get("Range") {
					t.Errorf("resumed with %v", r.Header)
				}
			}
		})
	}
}

func TestAStreamThatBreaksForGoodIsAnErrorAndNotItsEnd(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	whole := random(100_000)
	if err := s.Put(t.Context(), "a", whole); err != nil {
		t.Fatal(err)
	}
	p.set(cut(1000))
	got, err := read(t, s, "a", 0, -1)
	if problem.Of(err) != KindUnreachable || !bytes.Equal(got, whole[:len(got)]) || len(p.requests()) != 5 {
		t.Errorf("%d bytes in %d requests, %v", len(got), len(p.requests()), err)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestAnOpenIsTriedAgainWithinTheReadersBudget(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	if err := s.Put(t.Context(), "a", random(100_000)); err != nil {
		t.Fatal(err)
	}
	p.set(func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
		if len(p.requests()) <= 3 {
			slowDown(w, r, pass)
			return
		}
		cut(1000)(w, r, pass)
	})
	if _, err := read(t, s, "a", 0, -1); problem.Of(err) != KindUnreachable || len(p.requests()) != 5 {
		t.Errorf("%d requests, %v", len(p.requests()), err)
	}
}

func TestAnObjectReplacedWhileItIsReadIsNoticed(t *testing.T) {
	for name, other := range map[string]int{"by a shorter one": 100, "by one of the same size": 100_000} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, server(t))
			s := store(t, p.aws())
			if err := s.Put(t.Context(), "a", random(100_000)); err != nil {
				t.Fatal(err)
			}
			p.set(times(1, http.MethodGet, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
				resp := pass()
				p.replace(r, random(other))
				relayPart(w, resp, 30_000)
			}))
			if _, err := read(t, s, "a", 0, -1); problem.Of(err) != KindChanged || len(p.requests()) != 2 {
				t.Errorf("%d requests, %v", len(p.requests()), err)
			}
		})
	}
}

func TestAnAnswerThatIsNotTheRangeIsRefused(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	if err := s.Put(t.Context(), "a", random(100_000)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		f    fault
	}{
		{"the whole object", func(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
			w.Header().Set("X-Fault", "whole")
			_, _ = w.Write(random(100_000))
		}},
		{"another range", header("Content-Range", "bytes 0-199/100000")},
		{"a range that begins before", func(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
			w.Header().Set("X-Fault", "range")
			w.Header().Set("Content-Range", "bytes 0-299/100000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(random(300))
		}},
		{"less than there is", func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
			resp := pass()
			resp.Header.Set("Content-Range", "bytes 100-249/100000")
			resp.Header.Set("Content-Length", "150")
			resp.Body = io.NopCloser(io.LimitReader(resp.Body, 150))
			relay(w, resp)
		}},
		{"no range", header("Content-Range", "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.set(tt.f)
			if got, err := read(t, s, "a", 100, 200); problem.Of(err) != KindUnfit || len(got) != 0 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	t.Run("but no ETag is needed unless the stream breaks", func(t *testing.T) {
		p.set(header("Etag", ""))
		if got, err := read(t, s, "a", 0, -1); err != nil || len(got) != 100_000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		p.set(times(1, http.MethodGet, func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
			resp := pass()
			resp.Header.Del("Etag")
			relayPart(w, resp, 10)
		}))
		if _, err := read(t, s, "a", 0, -1); problem.Of(err) != KindUnfit {
			t.Errorf("got %v", err)
		}
	})
}

func TestAStreamThatEndsQuietlyBeforeItsLengthIsBroken(t *testing.T) {
	s := bare(t, Retry{Attempts: 1})
	r := &reader{ctx: t.Context(), store: s, op: s.operation("get", "a"), left: 10, etag: "x", body: io.NopCloser(bytes.NewReader(make([]byte, 4)))}
	got, err := io.ReadAll(r)
	if len(got) != 4 || problem.Of(err) != KindUnreachable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestACanceledReadEndsAStalledStream(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	if err := s.Put(t.Context(), "a", random(100_000)); err != nil {
		t.Fatal(err)
	}
	stall := make(chan struct{})
	t.Cleanup(func() { close(stall) })
	p.set(func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
		resp := pass()
		resp.Body = io.NopCloser(io.LimitReader(resp.Body, 1000))
		relay(w, resp)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-stall:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := s.Get(ctx, "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	reason := errors.New("stopped")
	cancel(reason)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}
