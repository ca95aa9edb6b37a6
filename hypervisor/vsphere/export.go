package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/internal/problem"
)

const (
	// exportTries bounds attempts that do not bring more than had to be read
	// again for them. The time of one is the disk's size over its speed, so
	// only the number is bounded; each attempt ends by silence.
	exportTries = 5
	exportLimit = time.Duration(math.MaxInt64)
	// probeTries is for the trial: a host that refuses goes on doing so.
	probeTries = 2
	probeLimit = time.Minute
	// glanceLimit is how long the trial waits for the first bytes of a disk
	// that may begin with zeros.
	glanceLimit = 10 * time.Second
)

// export reads a disk by exporting its snapshot: the way that works on any
// datastore, and for a running virtual machine. The disk comes from its
// beginning as one compressed stream, from the host that runs the machine, and
// a stream cannot be entered in the middle: all that lies before what is
// wanted is downloaded and dropped.
type export struct{ disk *disk }

// findExport makes a trial: it exports the snapshot and reads the beginning of
// the disk's stream.
func (s *Source) findExport(ctx context.Context, d *disk) (way, string, error) {
	e := &export{d}
	var host string
	err := e.repeat(ctx, newBudget(probeTries, probeLimit), func() error {
		return e.stream(ctx, probeLimit, func(_ context.Context, st *opened) error {
			host = st.host
			return st.glance()
		})
	})
	if err != nil {
		return nil, "", err
	}
	return e, fmt.Sprintf("the snapshot can be exported, and host %s gives the disk as one stream that is read from its beginning", host), nil
}

func (e *export) randomAccess() bool      { return false }
func (e *export) patience() time.Duration { return e.disk.snapshot.source.limits.ExportPatience }
func (e *export) close() error            { return nil }

// read takes a lease of its own, so that disks are read beside each other.
// When the stream breaks it begins again with a new lease, and passes over
// what has been emitted.
func (e *export) read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	out := &extentWriter{cursor: cursor{rest: in}}
	if out.finished() {
		return nil
	}
	budget := newBudget(exportTries, exportLimit)
	return e.repeat(ctx, budget, func() error {
		again := out.at
		out.emit = func(off int64, p []byte, n int64) error {
			err := emit(off, p, n)
			if off+n > 2*again {
				budget.refill()
			}
			return err
		}
		return e.stream(ctx, e.disk.snapshot.source.limits.Task, func(ctx context.Context, st *opened) error {
			d := decoder{stream: st.Stream, size: e.disk.size, out: out, seen: func(off int64) { st.lease.seen(off, e.disk.size) }}
			whole, err := d.run(ctx, &e.disk.snapshot.source.blocks, st.feed.interrupt)
			st.lease.whole = whole && err == nil
			return err
		})
	})
}

// repeat repeats once within the budget, and says what is to blame when that
// is used up.
func (e *export) repeat(ctx context.Context, b *budget, once func() error) error {
	s := e.disk.snapshot.source
	err := s.retry(ctx, b, once)
	if !problem.Has(err, ReadFailed) {
		return err
	}
	var host *hostError
	var lost *leaseLost
	switch {
	case errors.As(err, &host):
		return HostUnreachable.New(err, "%s", host.host)
	case isFault(err) && !isBusy(err) && !notAuthenticated(err) && !errors.As(err, &lost):
		return ExportRefused.New(err, "snapshot %s", e.disk.snapshot.what.ID)
	}
	return err
}

// hostError is a host's silence where an answer was expected.
type hostError struct {
	host string
	err  error
}

func (e *hostError) Error() string { return fmt.Sprintf("host %s: %v", e.host, e.err) }
func (e *hostError) Unwrap() error { return e.err }

// opened is a disk's stream whose header has been read.
type opened struct {
	*vdisk.Stream
	lease *lease
	feed  *feed
	host  string
}

// stream exports the snapshot for as long as use runs and opens the disk's
// stream. busy is how long other tasks are waited for.
func (e *export) stream(ctx context.Context, busy time.Duration, use func(context.Context, *opened) error) error {
	sn := e.disk.snapshot
	s := sn.source
	return sn.withLease(ctx, busy, func(ctx context.Context, l *lease) error {
		if of := l.info.Entity; of.Type == sn.machine.Type && of != sn.machine {
			return ExportUnusable.New(nil, "the export is one of another virtual machine: %s", of.Value)
		}
		device, err := l.device(e.disk.virtualDisk, len(sn.frozen))
		if err != nil {
			return err
		}
		address, err := l.address(device)
		if err != nil {
			return err
		}
		client, err := s.hostClient(address.Host, device.SslThumbprint)
		if err != nil {
			return HostUntrusted.New(err, "%s", address.Host)
		}
		return s.download(ctx, client, address, func(f *feed) error {
			stream, err := vdisk.NewStream(f)
			if err != nil {
				return fmt.Errorf("the beginning of the exported disk: %w", err)
			}
			if err := sameSize(stream, e.disk.size); err != nil {
				return err
			}
			return use(ctx, &opened{stream, l, f, address.Host})
		})
	})
}

// sameSize makes sure that a stream is one of a disk of that size. It may be
// counted in whole grains.
func sameSize(stream *vdisk.Stream, disk int64) error {
	if got := stream.Size(); got < disk || got-disk >= int64(stream.GrainSize()) {
		return ExportUnusable.New(nil, "the exported disk has %d bytes and the frozen one %d: it is another disk", got, disk)
	}
	return nil
}

// glance reads the first grain. A host sends nothing for zeros, however many,
// so that a silence behind the header is not against it.
func (o *opened) glance() error {
	o.feed.limit = glanceLimit
	switch _, _, err := o.Next(); {
	case errors.Is(err, io.EOF), errors.Is(err, errIdle):
		return nil
	case err != nil:
		return err
	}
	_, err := o.Grain()
	return err
}

// seen notes how far the download has come.
func (l *lease) seen(off, size int64) { l.percent.Store(int32(min(99, off/max(1, size/100)))) }

// feed is a stream whose silence is limited: the time in which somebody waits
// for bytes, and never that in which nobody takes them.
type feed struct {
	io.Reader
	watchdog  *time.Timer
	limit     time.Duration
	silent    atomic.Bool // the watchdog has ended it
	interrupt func()      // ends it
}

func (f *feed) Read(p []byte) (int, error) {
	f.watchdog.Reset(f.limit)
	n, err := f.Reader.Read(p)
	f.watchdog.Stop()
	if err != nil && f.silent.Load() {
		err = fmt.Errorf("%w: %s", errIdle, f.limit)
	}
	return n, err
}

// download opens a stream. A host that is gone is found by TCP's keep-alive or
// by the lease's end; the limit of its silence is long, because it says nothing
// while it reads zeros.
func (s *Source) download(ctx context.Context, client *http.Client, u *url.URL, use func(*feed) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &feed{limit: s.limits.ExportIdle, interrupt: cancel}
	f.watchdog = time.AfterFunc(s.limits.Idle, func() {
		f.silent.Store(true)
		cancel()
	})
	defer f.watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "skylift")
	res, err := client.Do(req)
	f.watchdog.Stop()
	switch {
	case err != nil && f.silent.Load():
		return &hostError{u.Host, fmt.Errorf("%w: %s", errIdle, s.limits.Idle)}
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return unanswered(u.Host, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return exportStatus(res)
	}
	f.Reader = res.Body
	return use(f)
}

// unanswered tells why a request got no answer, without its address: that is
// as good as a password.
func unanswered(host string, err error) error {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if isUntrusted(err) {
		return HostUntrusted.New(err, "%s", host)
	}
	return &hostError{host, err}
}

// exportStatus tells what an unwelcome status means; those that may pass are
// no problem yet.
func exportStatus(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	status := fmt.Errorf("HTTP status %s: %q", res.Status, text)
	switch code := res.StatusCode; {
	case code == http.StatusNotFound, code == http.StatusGone: // the lease may have ended
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
	default:
		return ReadRefused.New(status, "the exported disk was not given")
	}
	return status
}
