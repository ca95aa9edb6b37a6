package nbd

import (
	"context"
	"encoding/binary"
	"fmt"
)

const (
	// statusSpan is how much one request asks about: a multiple of all block
	// sizes.
	statusSpan = 1 << 30
	// maxStatus is how many ranges of one reply are taken. What lies behind
	// them is asked for again.
	maxStatus = 1 << 14
)

// status is what a range of blocks is known to be.
type status struct {
	length int64
	zero   bool
}

// TellsAllocation reports whether Allocated can answer.
func (c *Client) TellsAllocation() bool { return c.allocation != nil }

// Allocated tells which parts of a range read as zeros and which may hold other
// bytes, ascending, without gaps, and with neighbors that differ. off and length
// are multiples of MinBlock, inside the export. It ends with emit's error, if
// that has one. ErrNotOffered where the server does not tell.
func (c *Client) Allocated(ctx context.Context, off, length int64, emit func(off, length int64, zero bool) error) error {
	if c.allocation == nil {
		return ErrNotOffered
	}
	if err := c.inside(off, length); err != nil {
		return err
	}
	from := off // of the range not emitted yet
	var last status
	for end := off + length; off < end; {
		r := c.request(cmdBlockStatus, off, min(end-off, statusSpan))
		if err := c.do(ctx, r); err != nil {
			return fmt.Errorf("ask what is allocated of %d bytes at %d: %w", end-off, off, err)
		}
		for _, s := range r.status {
			off += s.length
			if s.zero == last.zero || last.length == 0 {
				last = status{last.length + s.length, s.zero}
				continue
			}
			if err := emit(from, last.length, last.zero); err != nil {
				c.release(r)
				return err
			}
			from, last = from+last.length, s
		}
		c.release(r)
	}
	if last.length == 0 {
		return nil
	}
	return emit(from, last.length, last.zero)
}

// statusChunk takes the status of consecutive ranges. The last may reach behind
// what was asked for.
func (c *Client) statusChunk(r *request, length uint32) error {
	if err := c.read(nil, c.small[:4]); err != nil {
		return err
	}
	if id := binary.BigEndian.Uint32(c.small[:]); c.allocation == nil || id != *c.allocation {
		return malformed("a status of context %d, which was not agreed on", id)
	}
	left := int64(r.length)
	for length -= 4; length > 0; {
		p := c.small[:min(int(length), len(c.small))]
		if err := c.read(nil, p); err != nil {
			return err
		}
		length -= uint32(len(p))
		for ; len(p) > 0; p = p[8:] {
			n, flags := int64(binary.BigEndian.Uint32(p)), binary.BigEndian.Uint32(p[4:])
			if n == 0 {
				return malformed("a status of no bytes")
			}
			if left > 0 && !r.note(status{min(n, left), flags&stateZero != 0}) {
				left = 0 // what follows would leave a gap
			}
			left = max(0, left-n)
		}
	}
	return nil
}

// note keeps a status, unless there are too many.
func (r *request) note(s status) bool {
	n := len(r.status)
	switch {
	case n > 0 && r.status[n-1].zero == s.zero:
		r.status[n-1].length += s.length
	case n == maxStatus:
		return false
	default:
		r.status = append(r.status, s)
	}
	return true
}
