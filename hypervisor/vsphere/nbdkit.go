package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/hypervisor/vsphere/nbd"
	"skylift/internal/problem"
)

const (
	// nbdConnections is how many connections a disk has where its server is
	// made for several. TLS is one processor's work for each.
	nbdConnections = 4
	// nbdWindow is how much is asked about at once: what is known to be zero
	// need not be read.
	nbdWindow = 128 * hypervisor.BlockSize
)

// nbdExport is a disk that an NBD server has as an export.
type nbdExport struct {
	source *Source
	config nbd.Config
	size   int64
	conns  []nbdConn
	next   atomic.Uint32
}

// nbdConn is one connection, made again when it has broken. Who holds the turn
// may look at it.
type nbdConn struct {
	turn   chan struct{}
	client *nbd.Client
}

// findNBD looks for the disk's export on the customer's NBD server.
func (s *Source) findNBD(ctx context.Context, d *disk) (way, string, error) {
	config, err := s.exports.of(ctx, d)
	if err != nil {
		return nil, "", err
	}
	e := &nbdExport{source: s, config: config, size: d.size}
	e.connections(1)
	multiple := false
	err = e.retry(ctx, newBudget(3, readLimit), func() error {
		client, err := e.client(ctx)
		if err != nil {
			return err
		}
		multiple = client.MultiConn()
		return e.probe(ctx, client)
	})
	if problem.Has(err, ReadFailed) {
		err = NBDRefused.New(err, "try to read %q at %s", config.Export, config.Address)
	}
	if err != nil {
		return nil, "", errors.Join(err, e.close())
	}
	if multiple {
		e.connections(nbdConnections)
	}
	why := fmt.Sprintf("the NBD server %s has an export of the disk's size, and a trial range of it could be read", config.Address)
	if config.TLS == nil {
		why += "; what it sends is not encrypted"
	}
	return e, why, nil
}

// connections has n of them, among them those there are already.
func (e *nbdExport) connections(n int) {
	for len(e.conns) < n {
		e.conns = append(e.conns, nbdConn{turn: make(chan struct{}, 1)})
	}
}

// probe reads the end of the disk, which shows that the export is served.
func (e *nbdExport) probe(ctx context.Context, client *nbd.Client) error {
	n := min(e.size, max(client.MinBlock(), vdisk.SectorSize))
	return client.ReadAt(ctx, make([]byte, n), e.size-n)
}

func (e *nbdExport) randomAccess() bool      { return true }
func (e *nbdExport) patience() time.Duration { return 0 }

// close is called when no read is under way any more.
func (e *nbdExport) close() error {
	var errs []error
	for i := range e.conns {
		errs = append(errs, e.conns[i].drop())
	}
	return errors.Join(errs...)
}

func (c *nbdConn) drop() error {
	if c.client == nil {
		return nil
	}
	err := c.client.Close()
	c.client = nil
	return err
}

// client returns one of the connections, in turns, and makes it if it is not
// there or broken. An export of another size may be another disk, or one that
// is not frozen.
func (e *nbdExport) client(ctx context.Context) (*nbd.Client, error) {
	c := &e.conns[int(e.next.Add(1))%len(e.conns)]
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.client != nil && c.client.Err() == nil {
		return c.client, nil
	}
	if err := c.drop(); err != nil {
		return nil, err
	}
	client, err := nbd.Connect(ctx, e.config)
	if err != nil {
		return nil, e.refused(err)
	}
	if size := client.Size(); size != e.size {
		err := NBDRefused.New(nil, "the export %q at %s has %d bytes, the disk %d", e.config.Export, e.config.Address, size, e.size)
		return nil, errors.Join(err, client.Close())
	}
	c.client = client
	return client, nil
}

// refused makes a problem of what does not pass by itself.
func (e *nbdExport) refused(err error) error {
	var refusal *nbd.Refusal
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &refusal) || errors.As(err, &untrusted) || errors.Is(err, nbd.ErrNoTLS) {
		return NBDRefused.New(err, "the export %q at %s", e.config.Export, e.config.Address)
	}
	return err
}

// read reads block after block, and passes over what the server knows to be
// zero. Speed comes from many reads at a time.
func (e *nbdExport) read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	block := e.source.blocks.Get().(*[hypervisor.BlockSize]byte)
	defer e.source.blocks.Put(block)
	r := &nbdReader{export: e, block: block[:], emit: emit, budget: newBudget(readTries, readLimit)}
	for _, extent := range in {
		for off := extent.Offset; off < extent.End(); off += nbdWindow {
			if err := r.window(ctx, off, min(off+nbdWindow, extent.End())); err != nil {
				return err
			}
		}
	}
	return nil
}

// nbdReader is one read under way.
type nbdReader struct {
	export *nbdExport
	block  []byte
	emit   func(int64, []byte, int64) error
	budget *budget
	zero   [nbdWindow / hypervisor.BlockSize]bool // blocks of the window
}

// window reads a window's bytes from at on.
func (r *nbdReader) window(ctx context.Context, at, end int64) error {
	first, known := at, false
	for at < end {
		if err := r.export.retry(ctx, r.budget, func() error {
			client, err := r.export.client(ctx)
			if err != nil {
				return err
			}
			if !known {
				if err := r.look(ctx, client, first, end); err != nil {
					return err
				}
				known = true
			}
			at, err = r.blocks(ctx, client, first, at, end)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// look finds the blocks that are zero. A server that does not tell, or will
// not, leaves everything to be read. A single block is read as soon as asked
// about.
func (r *nbdReader) look(ctx context.Context, client *nbd.Client, first, end int64) error {
	clear(r.zero[:])
	if !client.TellsAllocation() || end-first <= hypervisor.BlockSize {
		return nil
	}
	err := client.Allocated(ctx, first, end-first, func(off, length int64, zero bool) error {
		if !zero {
			return nil
		}
		// Of whole blocks only: the first begins at off or behind.
		i := (off - first + hypervisor.BlockSize - 1) / hypervisor.BlockSize
		for ; min(first+(i+1)*hypervisor.BlockSize, end) <= off+length && first+i*hypervisor.BlockSize < end; i++ {
			r.zero[i] = true
		}
		return nil
	})
	if answer := (*nbd.Error)(nil); errors.As(err, &answer) && answer.Code != nbd.ShuttingDown {
		clear(r.zero[:])
		return nil
	}
	return err
}

// blocks emits what lies between at and end, and returns how far it came.
func (r *nbdReader) blocks(ctx context.Context, client *nbd.Client, first, at, end int64) (int64, error) {
	for at < end {
		if ctx.Err() != nil {
			return at, ctx.Err()
		}
		var p []byte
		next := at
		for next < end && r.zero[(next-first)/hypervisor.BlockSize] {
			next = min(next+hypervisor.BlockSize, end)
		}
		if next == at {
			next = min(at+hypervisor.BlockSize, end)
			p = r.block[:next-at]
			if err := client.ReadAt(ctx, p, at); err != nil {
				return at, err
			}
		}
		if err := r.emit(at, p, next-at); err != nil {
			return at, &emitError{err}
		}
		at = next
		r.budget.refill()
	}
	return at, nil
}

// retry repeats once within the budget, unless that is of no use.
func (e *nbdExport) retry(ctx context.Context, b *budget, once func() error) error {
	for {
		err := once()
		var stopped *emitError
		kind := problem.Of(err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, errors.As(err, &stopped), kind != nil && !kind.Retry:
			return err
		case !b.spend(ctx):
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return ReadFailed.New(err, "after %d attempts without progress", b.tries)
		}
	}
}
