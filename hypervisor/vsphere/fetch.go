package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

const (
	readTries = 8
	readLimit = 3 * time.Minute
	// directTries is how many attempts in a row a host may fail before a
	// read goes on through vCenter.
	directTries = 3
)

var (
	errIdle    = errors.New("no byte came for too long")
	errExpired = errors.New("the session has expired")
	// errDetour says that the other way to the file is taken from now on.
	errDetour = errors.New("the other way is taken")
)

// frozenFile is one of the files that a frozen disk is in.
type frozenFile struct {
	source  *Source
	name    string   // "[datastore] web/web-flat.vmdk", for people
	url     *url.URL // at vCenter, or the standalone host that the session is with
	size    int64    // of the file; every answer must tell the same
	pacer   *pacer   // of its datastore
	direct  *direct  // nil where only url is asked
	hostURL *url.URL // at direct's host, whose address is filled in
}

// retry repeats once within the budget; only a session that expired is
// renewed at no cost, and only once without progress.
func (s *Source) retry(ctx context.Context, b *budget, once func() error) error {
	for {
		err := once()
		switch {
		case err == nil:
			return nil
		case final(ctx, err):
			return err
		case errors.Is(err, errExpired) && !b.renewed:
			b.renewed = true
		case !b.spend(ctx):
			if ctx.Err() != nil {
				return s.session.ended(ctx)
			}
			return ReadFailed.New(err, "after %d attempts without progress", b.tries)
		}
	}
}

// final reports that trying again is of no use.
func final(ctx context.Context, err error) bool {
	var stopped *emitError
	return ctx.Err() != nil || errors.As(err, &stopped) || problem.Of(err) != nil
}

// retry repeats requests for the file. A host is given up before the budget is.
func (f *frozenFile) retry(ctx context.Context, b *budget, once func() error) error {
	return f.source.retry(ctx, b, func() error {
		err := once()
		for errors.Is(err, errDetour) { // twice at most: no way is gone back
			err = once()
		}
		if err != nil && !final(ctx, err) && b.tries-b.left >= directTries-1 {
			f.direct.shun(err.Error())
		}
		return err
	})
}

// getRange makes one request for a range of the file, and makes sure that the
// file has not changed.
func (f *frozenFile) getRange(ctx context.Context, want hypervisor.Extent, use func(*answer) error) error {
	return f.get(ctx, rangeHeader(want), f.direct.worth(want.Length), func(a *answer) error {
		total, err := checkRange(a.Response, want)
		if err != nil {
			return err
		}
		if total != f.size {
			return hypervisor.SnapshotGone.New(nil, "%s had %d bytes and has %d", f.name, f.size, total)
		}
		return use(a)
	})
}

// Size makes the file a vdisk.File.
func (f *frozenFile) Size() int64 { return f.size }

// ReadAt reads tables and headers: a few small ranges.
func (f *frozenFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > f.size-int64(len(p)) {
		return io.ErrUnexpectedEOF
	}
	if len(p) == 0 {
		return nil
	}
	b, done := budgetOf(ctx), 0
	err := f.retry(ctx, b, func() error {
		want := hypervisor.Extent{Offset: off + int64(done), Length: int64(len(p) - done)}
		return f.getRange(ctx, want, func(a *answer) error {
			n, err := fill(a, p[done:])
			done += n
			return err
		})
	})
	if err == nil {
		b.refill()
	}
	return err
}

// get makes one request for a range of the file, or without one for the whole
// of it, and hands out the answer: the host's, or vCenter's. It waits for the
// datastore's pacer and for one of the few connections first: that is nobody's
// silence. A failure of errDetour asks for the same again.
func (f *frozenFile) get(ctx context.Context, ranges string, direct bool, use func(*answer) error) error {
	turn, err := f.pacer.take(ctx)
	if err != nil {
		return f.source.session.ended(ctx)
	}
	defer turn.done()
	if direct {
		return f.direct.get(ctx, f, turn, ranges, use)
	}
	err = f.fromSession(ctx, turn, ranges, use)
	if problem.Of(err) != nil && f.direct.insist() {
		return errDetour
	}
	return err
}

// fromSession asks where the session is: vCenter, or a standalone host.
func (f *frozenFile) fromSession(ctx context.Context, turn pass, ranges string, use func(*answer) error) error {
	s := f.source
	leave, err := takeSlot(ctx, s.slots)
	if err != nil {
		return s.session.ended(ctx)
	}
	defer leave()
	generation, err := s.session.ready(ctx)
	if err != nil {
		return err
	}
	q := request{client: s.session.web, url: f.url, ranges: ranges, first: s.limits.Idle, idle: s.limits.Idle, turn: turn}
	err = q.do(ctx, func(a *answer) error {
		if a.StatusCode == http.StatusUnauthorized {
			s.session.expire(generation)
			return errExpired
		}
		return use(a)
	})
	if isUntrusted(err) {
		return Unreachable.New(err, "read a datastore file")
	}
	return err
}

// takeSlot takes one of the slots, until leave is called.
func takeSlot(ctx context.Context, slots chan struct{}) (leave func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// request is one GET for a file.
type request struct {
	client      *http.Client
	url         *url.URL
	ranges      string        // the Range header, or empty
	ticket      string        // a host's service ticket, or empty
	first, idle time.Duration // of silence before the first byte, and later
	turn        pass
}

// do sends the request and hands out its answer. A network's failure is
// returned as such, even where the dialer made a problem of it: whether it is
// tried again is decided by who has the budget.
func (q request) do(ctx context.Context, use func(*answer) error) error {
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(q.first, func() { cancel(errIdle) })
	defer watchdog.Stop()
	var timing timing
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(watched, timing.trace()), http.MethodGet, q.url.String(), nil)
	if err != nil {
		return err
	}
	if q.ranges != "" {
		req.Header.Set("Range", q.ranges)
	}
	if q.ticket != "" {
		req.AddCookie(&http.Cookie{Name: ticketCookie, Value: q.ticket})
	}
	req.Header.Set("User-Agent", "skylift")
	res, err := q.client.Do(req)
	watchdog.Stop()
	if err != nil {
		if errors.Is(context.Cause(watched), errIdle) {
			err = fmt.Errorf("%w: %s", errIdle, q.first)
		}
		return &networkError{err, timing.connected.Load()}
	}
	defer res.Body.Close()
	q.turn.answered(q.url.Host, timing.firstByte())
	err = use(&answer{res, watchdog, q.idle})
	if err != nil && errors.Is(context.Cause(watched), errIdle) {
		return fmt.Errorf("%w: %s", errIdle, q.idle)
	}
	return err
}

// networkError is a request that got no answer.
type networkError struct {
	err       error
	connected bool // a connection was there
}

func (e *networkError) Error() string { return e.err.Error() }

// Unwrap gives what matters to somebody, and no problem of the dialer's.
func (e *networkError) Unwrap() error {
	if problem.Of(e.err) != nil && !isUntrusted(e.err) {
		return nil
	}
	return e.err
}

// timing is told when a request was written and when its answer began. A
// request that is sent again by the transport counts from the last time.
type timing struct {
	written, first atomic.Int64 // nanoseconds since start
	connected      atomic.Bool
	start          time.Time
}

func (t *timing) trace() *httptrace.ClientTrace {
	t.start = time.Now()
	return &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { t.connected.Store(true) },
		WroteRequest:         func(httptrace.WroteRequestInfo) { t.written.Store(int64(time.Since(t.start))) },
		GotFirstResponseByte: func() { t.first.Store(int64(time.Since(t.start))) },
	}
}

// firstByte is the time from the end of the request to the first byte of the
// answer; negative where it is not known.
func (t *timing) firstByte() time.Duration { return time.Duration(t.first.Load() - t.written.Load()) }

type budgetKey struct{}

// withBudget has reads of tables, which happen inside a read of the disk,
// spend from the same budget. Both belong to one goroutine.
func withBudget(ctx context.Context, b *budget) context.Context {
	return context.WithValue(ctx, budgetKey{}, b)
}

func budgetOf(ctx context.Context) *budget {
	if b, ok := ctx.Value(budgetKey{}).(*budget); ok {
		return b
	}
	return newBudget(readTries, readLimit)
}
