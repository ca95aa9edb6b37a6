package nbd

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// request is one that the server has to answer. Requests are used again.
type request struct {
	command uint16
	cookie  uint64
	off     int64
	length  uint32
	p       []byte // where the bytes read go
	done    chan error

	// Kept under the client's lock.
	sent, finished, abandoned bool

	// What the receiver has got so far.
	chunks  int
	failure *Error
	covered coverage
	status  []status // of consecutive ranges, from off on
	told    bool     // a chunk with the status has come
}

// ReadAt fills p with the export's bytes from off on, both multiples of
// MinBlock, all of it inside the export. It is done when p is full; many may be
// under way at once. When ctx ends, ReadAt returns its cause at once; p may
// then have been written to in part, but is not any more.
//
// Errors: *Error when the server could not read; others are about the
// connection, which is over then.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.inside(off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(int64(len(p)), c.maxPayload)
		r := c.request(cmdRead, off, n)
		r.p = p[:n]
		if err := c.do(ctx, r); err != nil {
			return fmt.Errorf("read %d bytes at %d: %w", n, off, err)
		}
		c.release(r)
		p, off = p[n:], off+n
	}
	return nil
}

// inside refuses what servers would refuse, or worse.
func (c *Client) inside(off, length int64) error {
	if off < 0 || length < 0 || length > c.size-off {
		return fmt.Errorf("%d bytes at %d are not inside the export of %d bytes", length, off, c.size)
	}
	if off%c.minBlock != 0 || length%c.minBlock != 0 {
		return fmt.Errorf("%d bytes at %d are no whole blocks of the export, which have %d bytes", length, off, c.minBlock)
	}
	return nil
}

// request takes a request that is not in use.
func (c *Client) request(command uint16, off, length int64) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r *request
	if n := len(c.free); n > 0 {
		r, c.free = c.free[n-1], c.free[:n-1]
	} else {
		r = &request{done: make(chan error, 1)}
	}
	*r = request{
		command: command, off: off, length: uint32(length),
		done: r.done, covered: r.covered[:0], status: r.status[:0],
	}
	return r
}

// release gives back a request that do returned without an error.
func (c *Client) release(r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recycle(r)
}

func (c *Client) recycle(r *request) {
	r.p = nil
	c.free = append(c.free, r)
}

// do has a request sent and waits for the whole reply. After an error, the
// request is not the caller's any more.
func (c *Client) do(ctx context.Context, r *request) error {
	if ctx.Err() != nil {
		c.release(r)
		return context.Cause(ctx)
	}
	cookie, err := c.enqueue(r)
	if err != nil {
		return err
	}
	select {
	case err = <-r.done:
	case <-ctx.Done():
		if c.abandon(r, cookie) {
			return context.Cause(ctx)
		}
		err = <-r.done
	}
	if err != nil {
		c.release(r)
	}
	return err
}

func (c *Client) enqueue(r *request) (cookie uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		c.recycle(r)
		return 0, c.err
	}
	if len(c.pending) == 0 {
		c.heard = time.Now()
	}
	c.cookie++
	r.cookie = c.cookie
	c.pending[r.cookie] = r
	c.queue = append(c.queue, r)
	select {
	case c.wake <- struct{}{}:
	default: // the sender was told already
	}
	return r.cookie, nil
}

// abandon lets go of a request that nobody waits for any more. A reply that is
// due stays awaited, and is discarded. It reports false for a request that was
// answered in the meantime.
func (c *Client) abandon(r *request, cookie uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.finished {
		return false
	}
	r.abandoned = true
	if !r.sent {
		delete(c.pending, cookie)
		c.queue = slices.DeleteFunc(c.queue, func(q *request) bool { return q == r })
		c.recycle(r)
		return true
	}
	// The receiver may be writing to the caller's memory. As soon as it has
	// let go, the request is its own: only the cookie is looked at from here.
	for c.filling == cookie {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
		c.settled.Wait()
	}
	return true
}

// finish ends a request that was answered.
func (c *Client) finish(r *request, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(r, err)
}

// end tells the request's caller, if there still is one.
func (c *Client) end(r *request, err error) {
	delete(c.pending, r.cookie)
	r.finished = true
	if r.abandoned {
		c.recycle(r)
		return
	}
	r.done <- err
}
