package vsphere

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	"skylift/internal/problem"
	"skylift/internal/secret"
)

// folder serves files the way a datastore does, over connections in memory
// so that time can be simulated around it.
type folder struct {
	content []byte
	files   map[string][]byte // by path; nil: content is the only one
	// odd may answer the n-th request itself, counted from 1.
	odd func(n int, w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	requests []string
	paths    []string
}

func (f *folder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Header.Get("Range"))
	f.paths = append(f.paths, r.URL.Path)
	n := len(f.requests)
	f.mu.Unlock()
	if f.odd != nil && f.odd(n, w, r) {
		return
	}
	content, ok := f.content, true
	if f.files != nil {
		content, ok = f.files[r.URL.Path]
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (f *folder) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

// pipes is a listener and its dialer.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// frozenDisk is a disk whose file f serves, in a session that is logged in;
// a second login is refused.
func frozenDisk(t testing.TB, f *folder, limits Limits) *disk {
	listener := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: f}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := New(Config{
		URL: "http://vcenter/sdk", User: "u", Password: secret.New("p"), Installation: "x", Log: log, Limits: limits,
		Customize: func(t *http.Transport) { t.DialContext = listener.dial },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.session.in, s.session.generation = true, 1
	t.Cleanup(func() {
		s.session.web.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	u, err := url.Parse("http://vcenter/folder/web/web-flat.vmdk?dcPath=%2FDC0&dsName=ds")
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(f.content))
	return &disk{
		virtualDisk: virtualDisk{size: size}, snapshot: &snapshot{source: s}, title: "web, disk 1",
		way: &chainWay{source: s, whole: true, files: []*frozenFile{{source: s, name: "[ds] web/web-flat.vmdk", url: u, size: size, pacer: newPacer("ds", 16, 20*time.Millisecond)}}},
	}
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(p)
	return p
}

// read collects what Read emits; every piece must be a whole block.
func read(ctx context.Context, d *disk, in ...hypervisor.Extent) ([]byte, error) {
	var got []byte
	err := d.Read(ctx, in, func(off int64, p []byte, n int64) error {
		if off%hypervisor.BlockSize != 0 || n != int64(len(p)) || n != hypervisor.BlockSize && off+n != d.size {
			return fmt.Errorf("%d bytes at %d are no block", n, off)
		}
		got = append(got, p...)
		return nil
	})
	return got, err
}

const block = hypervisor.BlockSize

func TestRangesAreJoinedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(requestSize + 3*block + 512)}
		d := frozenDisk(t, f, Limits{})
		size := int64(len(f.content))
		got, err := read(t.Context(), d,
			hypervisor.Extent{Offset: 0, Length: block}, hypervisor.Extent{Offset: block, Length: block}, // touch: one request
			hypervisor.Extent{Offset: 3 * block, Length: size - 3*block}) // more than one request holds
		if err != nil {
			t.Fatal(err)
		}
		if want := append(bytes.Clone(f.content[:2*block]), f.content[3*block:]...); !bytes.Equal(got, want) {
			t.Error("other bytes were read")
		}
		want := []string{"bytes=0-1048575", fmt.Sprintf("bytes=%d-%d", 3*block, 3*block+requestSize-1), fmt.Sprintf("bytes=%d-%d", 3*block+requestSize, size-1)}
		if got := f.asked(); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("asked for %q, want %q", got, want)
		}
	})
}

func TestABrokenAnswerIsResumedWhereItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(4 * block)}
		const whole = block + 1000 // arrives before the connection breaks
		f.odd = func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				return false
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(f.content)-1, len(f.content)))
			w.Header().Set("Content-Length", strconv.Itoa(len(f.content)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(f.content[:whole])
			panic(http.ErrAbortHandler)
		}
		d := frozenDisk(t, f, Limits{})
		got, err := read(t.Context(), d, hypervisor.Extent{Length: 4 * block})
		if err != nil || !bytes.Equal(got, f.content) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if asked := f.asked(); len(asked) != 2 || asked[1] != fmt.Sprintf("bytes=%d-%d", whole, 4*block-1) {
			t.Errorf("asked for %q, want the second to go on at %d", asked, whole)
		}
	})
}

func TestBusyServersAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(block)}
		f.odd = func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n <= 3 {
				http.Error(w, "out of HTTP sessions", http.StatusServiceUnavailable)
			}
			return n <= 3
		}
		start := time.Now()
		got, err := read(t.Context(), frozenDisk(t, f, Limits{}), hypervisor.Extent{Length: block})
		if err != nil || !bytes.Equal(got, f.content) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if waited := time.Since(start); waited < 300*time.Millisecond {
			t.Errorf("waited only %s between attempts", waited)
		}
	})
}

func TestTheBudgetOfRetriesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(block)}
		f.odd = func(n int, w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "out of HTTP sessions", http.StatusServiceUnavailable)
			return true
		}
		start := time.Now()
		_, err := read(t.Context(), frozenDisk(t, f, Limits{}), hypervisor.Extent{Length: block})
		if !problem.Has(err, ReadFailed) || len(f.asked()) != readTries {
			t.Errorf("after %d requests: %v", len(f.asked()), err)
		}
		if took := time.Since(start); took > readLimit {
			t.Errorf("it took %s", took)
		}
	})
}

func TestProgressRefillsTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const blocks = 2 * readTries
		f := &folder{content: randomBytes(blocks * block)}
		f.odd = func(n int, w http.ResponseWriter, r *http.Request) bool {
			// Each answer breaks off after a block.
			var from int
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.content)-1, len(f.content)))
			w.Header().Set("Content-Length", strconv.Itoa(len(f.content)-from))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(f.content[from:min(len(f.content), from+block)])
			panic(http.ErrAbortHandler)
		}
		got, err := read(t.Context(), frozenDisk(t, f, Limits{}), hypervisor.Extent{Length: blocks * block})
		if err != nil || !bytes.Equal(got, f.content) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
}

func TestSilenceEndsAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(2 * block)}
		f.odd = func(n int, w http.ResponseWriter, r *http.Request) bool {
			switch n {
			case 1: // never an answer
				<-r.Context().Done()
			case 2: // an answer that dries up
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(f.content)-1, len(f.content)))
				w.Header().Set("Content-Length", strconv.Itoa(len(f.content)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(f.content[:1000])
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
			return n <= 2
		}
		start := time.Now()
		got, err := read(t.Context(), frozenDisk(t, f, Limits{Idle: 10 * time.Second}), hypervisor.Extent{Length: 2 * block})
		if err != nil || !bytes.Equal(got, f.content) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if took := time.Since(start); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("it took %s, want two silences of 10 s", took)
		}
	})
}

func TestASlowReceiverIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(4 * block)}
		d := frozenDisk(t, f, Limits{Idle: 10 * time.Second})
		err := d.Read(t.Context(), []hypervisor.Extent{{Length: 4 * block}}, func(int64, []byte, int64) error {
			return sleep(t.Context(), time.Hour)
		})
		if err != nil || len(f.asked()) != 1 {
			t.Errorf("after %d requests: %v", len(f.asked()), err)
		}
	})
}

func TestWaitingForAConnectionIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(2 * block)}
		d := frozenDisk(t, f, Limits{Idle: 10 * time.Second, Connections: 1})
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := d.Read(t.Context(), []hypervisor.Extent{{Length: 2 * block}}, func(int64, []byte, int64) error {
					return sleep(t.Context(), time.Minute)
				}); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if len(f.asked()) != 2 {
			t.Errorf("asked %q", f.asked())
		}
	})
}

func TestAnswersThatAreNotWhatWasAskedForAreRefused(t *testing.T) {
	partial := func(header string, n int) func(int, http.ResponseWriter, *http.Request) bool {
		return func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", header)
			w.Header().Set("Content-Length", strconv.Itoa(n))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, n))
			return true
		}
	}
	status := func(code int) func(int, http.ResponseWriter, *http.Request) bool {
		return func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "no", code)
			return true
		}
	}
	for _, c := range []struct {
		name string
		odd  func(int, http.ResponseWriter, *http.Request) bool
		want *problem.Kind
	}{
		{"the whole file", func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write(make([]byte, block))
			return true
		}, ReadRefused},
		{"another range", partial(fmt.Sprintf("bytes %d-%d/%d", block, 2*block-1, 2*block), block), ReadRefused},
		{"a shorter range", partial(fmt.Sprintf("bytes 0-%d/%d", block-2, 2*block), block-1), ReadRefused},
		{"no range at all", partial("", block), ReadRefused},
		{"a length that is not the range's", partial(fmt.Sprintf("bytes 0-%d/%d", block-1, 2*block), block-1), ReadRefused},
		{"a file of another size", partial(fmt.Sprintf("bytes 0-%d/%d", block-1, 3*block), block), hypervisor.SnapshotGone},
		{"a redirect", func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://elsewhere/", http.StatusFound)
			return true
		}, ReadRefused},
		{"status 403", status(http.StatusForbidden), PermissionDenied},
		{"status 404", status(http.StatusNotFound), hypervisor.SnapshotGone},
		{"status 416", status(http.StatusRequestedRangeNotSatisfiable), ReadRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &folder{content: randomBytes(2 * block), odd: c.odd}
				_, err := read(t.Context(), frozenDisk(t, f, Limits{}), hypervisor.Extent{Length: block})
				if !problem.Has(err, c.want) {
					t.Errorf("got %v, want %s", err, c.want.Code)
				}
				if len(f.asked()) != 1 {
					t.Errorf("asked %d times", len(f.asked()))
				}
			})
		})
	}
}

func TestReadEndsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(block)}
		f.odd = func(_ int, _ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
		d := frozenDisk(t, f, Limits{Idle: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := read(ctx, d, hypervisor.Extent{Length: block}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-511/1073741824")
	f.Add("bytes */100")
	f.Add("bytes 5-4/100")
	f.Fuzz(func(t *testing.T, header string) {
		start, end, total, ok := parseContentRange(header)
		if ok && (start < 0 || end < start || total <= end) {
			t.Errorf("%q was read as %d-%d/%d", header, start, end, total)
		}
	})
}

func TestBlocksAreReadWithoutAllocation(t *testing.T) {
	const blocks = 8
	content := randomBytes(blocks * block)
	body := bytes.NewReader(content)
	watchdog := time.AfterFunc(time.Hour, func() {})
	defer watchdog.Stop()
	a := &answer{Response: &http.Response{Body: io.NopCloser(body)}, watchdog: watchdog, limit: time.Hour}
	r := &reader{block: make([]byte, block), budget: newBudget(1, time.Hour), emit: func(int64, []byte, int64) error { return nil }}
	if n := testing.AllocsPerRun(5, func() {
		body.Reset(content)
		r.at, r.filled = 0, 0
		if err := r.blocks(t.Context(), a, blocks*block, blocks*block); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d blocks", n, blocks)
	}
}
