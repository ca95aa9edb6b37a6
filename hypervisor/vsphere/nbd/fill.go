package nbd

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// read reads the next len(p) bytes of the connection. Where p is the memory of
// request r, they are discarded as soon as r is abandoned; for what is the
// receiver's own, r is nil.
func (c *Client) read(r *request, p []byte) error {
	for len(p) > 0 {
		into, err := c.prepare(r, p)
		if err != nil {
			return err
		}
		n, err := c.in.Read(into)
		p = p[n:]
		if err = c.arrived(n, err); err != nil {
			return err
		}
	}
	return nil
}

// prepare says where the next bytes go, and how long they may take.
func (c *Client) prepare(r *request, p []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	limit := time.Now().Add(c.idle)
	if len(c.pending) > 0 {
		limit = c.heard.Add(c.idle)
	}
	if err := c.conn.SetReadDeadline(limit); err != nil {
		return nil, err
	}
	if r == nil {
		return p, nil
	}
	if r.abandoned {
		return c.small[:min(len(p), len(c.small))], nil
	}
	c.filling = r.cookie
	return p, nil
}

// arrived notes what a read brought. A time-out counts only when something was
// awaited for the whole time: it may have been set for waiting without need, or
// by a caller who wants to get away.
func (c *Client) arrived(n int, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.let()
	if n > 0 {
		c.heard = time.Now()
	}
	switch {
	case err == nil, n > 0 && isTimeout(err):
		return nil
	case isTimeout(err):
		if len(c.pending) > 0 && time.Since(c.heard) >= c.idle {
			return fmt.Errorf("%w (%s)", ErrIdle, c.idle)
		}
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the NBD server hung up: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("receive from the NBD server: %w", err)
}

// let has the memory of the request being filled left alone.
func (c *Client) let() {
	if c.filling != 0 {
		c.filling = 0
		c.settled.Broadcast()
	}
}

// zero clears a part of the memory of request r, unless that is abandoned.
func (c *Client) zero(r *request, p []byte) {
	c.mu.Lock()
	abandoned := r.abandoned
	if !abandoned {
		c.filling = r.cookie
	}
	c.mu.Unlock()
	if abandoned {
		return
	}
	clear(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.let()
}
