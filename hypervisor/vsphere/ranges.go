package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

const (
	// requestSize bounds one range request. A broken one is resumed where it
	// broke, so the size is a matter of round trips per byte.
	requestSize = 16 << 20
	readTries   = 8
	readLimit   = 3 * time.Minute
)

var (
	errIdle    = errors.New("no byte came for too long")
	errExpired = errors.New("the session has expired")
)

// read reads the frozen file range by range, one request after the other:
// speed comes from many reads at a time.
func (f *frozenFile) read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	s := f.source
	block := s.blocks.Get().(*[hypervisor.BlockSize]byte)
	defer s.blocks.Put(block)
	r := &reader{source: s, file: f, block: block[:], emit: emit, budget: newBudget(readTries, readLimit)}
	for len(in) > 0 {
		var span hypervisor.Extent
		span, in = nextSpan(in)
		if err := r.span(ctx, span); err != nil {
			return err
		}
	}
	return nil
}

func (f *frozenFile) randomAccess() bool      { return true }
func (f *frozenFile) patience() time.Duration { return 0 }
func (f *frozenFile) close() error            { return nil }

// checkExtents holds callers to the contract of Read.
func checkExtents(in []hypervisor.Extent, size int64) error {
	var last int64
	for _, e := range in {
		if e.Offset < last || e.Length < 0 || e.Length > size-e.Offset || e.Offset%hypervisor.BlockSize != 0 ||
			e.End()%hypervisor.BlockSize != 0 && e.End() != size {
			return fmt.Errorf("cannot read %d bytes at %d of %d: extents must be ascending, inside the disk and whole blocks", e.Length, e.Offset, size)
		}
		last = e.End()
	}
	return nil
}

// nextSpan takes the leading extents that touch each other.
func nextSpan(in []hypervisor.Extent) (span hypervisor.Extent, rest []hypervisor.Extent) {
	span = in[0]
	for in = in[1:]; len(in) > 0 && in[0].Offset == span.End(); in = in[1:] {
		span.Length += in[0].Length
	}
	return span, in
}

// failed says which disk could not be read, and why it was stopped if it was.
func (d *disk) failed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if stopped := (*emitError)(nil); errors.As(err, &stopped) {
		return stopped.err
	}
	if ctx.Err() != nil {
		return d.snapshot.source.session.ended(ctx)
	}
	return fmt.Errorf("%s: read: %w", d.title, err)
}

// reader is one Read under way.
type reader struct {
	source *Source
	file   *frozenFile
	block  []byte // one block, filled up to filled
	filled int
	at     int64 // where the block starts
	emit   func(int64, []byte, int64) error
	budget *budget
}

// span reads one range of the file. What a broken request brought is kept.
func (r *reader) span(ctx context.Context, span hypervisor.Extent) error {
	r.at, r.filled = span.Offset, 0
	for r.at < span.End() {
		err := r.source.retry(ctx, r.budget, func() error {
			from := r.at + int64(r.filled)
			want := hypervisor.Extent{Offset: from, Length: min(requestSize-int64(r.filled), span.End()-from)}
			return r.source.get(ctx, r.file.url, rangeHeader(want), func(a *answer) error {
				total, err := checkRange(a.Response, want)
				if err != nil {
					return err
				}
				if total != r.file.size {
					return hypervisor.SnapshotGone.New(nil, "%s had %d bytes and has %d", r.file.name, r.file.size, total)
				}
				return r.blocks(ctx, a, want.End(), span.End())
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// blocks emits block after block of an answer that ends at to. The context is
// asked each time: an answer may have arrived whole before it ended.
func (r *reader) blocks(ctx context.Context, a *answer, to, spanEnd int64) error {
	for r.at < to {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		size := int(min(int64(len(r.block)), spanEnd-r.at))
		for r.filled < size {
			n, err := a.Read(r.block[r.filled:size])
			r.filled += n
			if err != nil && r.filled < size {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("at %d: %w", r.at+int64(r.filled), err)
			}
		}
		if err := r.emit(r.at, r.block[:size], int64(size)); err != nil {
			return &emitError{err}
		}
		r.at, r.filled = r.at+int64(size), 0
		r.budget.refill()
	}
	return nil
}

// retry repeats once within the budget; only a session that expired is
// renewed at no cost, and only once without progress.
func (s *Source) retry(ctx context.Context, b *budget, once func() error) error {
	for {
		err := once()
		var stopped *emitError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, errors.As(err, &stopped), problem.Of(err) != nil:
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

// answer is a response whose silence is limited: the watchdog counts while
// somebody waits for bytes, and never while they are being used.
type answer struct {
	*http.Response
	watchdog *time.Timer
	limit    time.Duration
}

func (a *answer) Read(p []byte) (int, error) {
	a.watchdog.Reset(a.limit)
	n, err := a.Body.Read(p)
	a.watchdog.Stop()
	return n, err
}

// get makes one request for a datastore file and hands out the answer. It
// waits for one of the few connections first: that is nobody's silence.
func (s *Source) get(ctx context.Context, u *url.URL, ranges string, use func(*answer) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return s.session.ended(ctx)
	}
	generation, err := s.session.ready(ctx)
	if err != nil {
		return err
	}
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(s.limits.Idle, func() { cancel(errIdle) })
	defer watchdog.Stop()
	silence := func(err error) error {
		if errors.Is(context.Cause(watched), errIdle) {
			return fmt.Errorf("%w: %s", errIdle, s.limits.Idle)
		}
		return err
	}
	req, err := http.NewRequestWithContext(watched, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	req.Header.Set("User-Agent", "skylift")
	res, err := s.session.web.Do(req)
	watchdog.Stop()
	if err != nil {
		if isUntrusted(err) {
			return Unreachable.New(err, "read a datastore file")
		}
		return silence(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusUnauthorized {
		s.session.expire(generation)
		return errExpired
	}
	if err := use(&answer{res, watchdog, s.limits.Idle}); err != nil {
		return silence(err)
	}
	return nil
}

// rangeHeader asks for an extent (RFC 9110, section 14.2).
func rangeHeader(e hypervisor.Extent) string {
	return fmt.Sprintf("bytes=%d-%d", e.Offset, e.End()-1)
}

// checkRange makes sure that an answer holds exactly what was asked for, and
// returns the size of the whole file.
func checkRange(res *http.Response, want hypervisor.Extent) (total int64, err error) {
	if res.StatusCode != http.StatusPartialContent {
		return 0, statusError(res)
	}
	header := res.Header.Get("Content-Range")
	start, end, total, ok := parseContentRange(header)
	switch {
	case !ok:
		return 0, ReadRefused.New(nil, "the answer's Content-Range %q cannot be read", header)
	case start != want.Offset || end != want.End()-1:
		return 0, ReadRefused.New(nil, "asked for bytes %d-%d, the answer has %q", want.Offset, want.End()-1, header)
	case res.ContentLength >= 0 && res.ContentLength != want.Length:
		return 0, ReadRefused.New(nil, "asked for %d bytes, the answer has %d", want.Length, res.ContentLength)
	case res.Header.Get("Content-Encoding") != "":
		return 0, ReadRefused.New(nil, "the answer is encoded (%s) though nobody asked for that", res.Header.Get("Content-Encoding"))
	}
	return total, nil
}

// parseContentRange reads "bytes 0-511/1073741824" (RFC 9110, section 14.4).
func parseContentRange(header string) (start, end, total int64, ok bool) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, size, ok1 := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(span, "-")
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	total, err3 := strconv.ParseInt(size, 10, 64)
	ok = ok1 && ok2 && err1 == nil && err2 == nil && err3 == nil && 0 <= start && start <= end && end < total
	return start, end, total, ok
}

// statusError tells what an unwelcome status means; those that may pass are
// no problem yet.
func statusError(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	status := fmt.Errorf("HTTP status %s: %q", res.Status, text)
	switch res.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return hypervisor.SnapshotGone.New(status, "a disk file is not on its datastore")
	case http.StatusForbidden:
		return PermissionDenied.New(status, "reading datastore files needs the privileges Datastore.Browse and Datastore.FileManagement on the datastore")
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
		return ReadRefused.New(status, "the range of the file was not honored")
	}
	if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusRequestTimeout {
		return status
	}
	return ReadRefused.New(status, "the file was not given")
}
