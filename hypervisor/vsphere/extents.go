package vsphere

import (
	"context"

	"skylift/hypervisor"
)

// cursor is a place in ascending extents.
type cursor struct {
	rest []hypervisor.Extent // the first one may be begun
	at   int64               // where in the first one, if behind its beginning
}

// finished tells that nothing is left, empty extents aside.
func (c *cursor) finished() bool {
	for len(c.rest) > 0 && c.rest[0].Length == 0 {
		c.rest = c.rest[1:]
	}
	return len(c.rest) == 0
}

// seek moves to off, or to where it stands if that is behind off, and tells
// whether off is still wanted.
func (c *cursor) seek(off int64) bool {
	for len(c.rest) > 0 && c.rest[0].End() <= off {
		c.rest = c.rest[1:]
	}
	c.at = max(c.at, off)
	return len(c.rest) > 0 && c.rest[0].Offset <= off && c.at == off
}

// done tells that nothing is wanted any more.
func (c *cursor) done() bool { return len(c.rest) == 0 }

// extentWriter emits extents of a disk from blocks that come in order. What lies
// between the blocks is zero.
type extentWriter struct {
	cursor
	emit func(off int64, p []byte, n int64) error
}

// data emits the block at off as far as it is wanted.
func (w *extentWriter) data(ctx context.Context, off int64, block []byte) error {
	if err := w.zero(ctx, off); err != nil || !w.seek(off) {
		return err
	}
	n := min(int64(len(block)), w.rest[0].End()-off)
	return w.put(ctx, block[:n], n)
}

// finish emits what is still wanted as zero.
func (w *extentWriter) finish(ctx context.Context) error {
	for !w.done() {
		if err := w.zero(ctx, w.rest[0].End()); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// zero emits what is wanted before off as zero.
func (w *extentWriter) zero(ctx context.Context, off int64) error {
	for !w.done() {
		e := w.rest[0]
		w.at = max(w.at, e.Offset)
		n := min(e.End(), off) - w.at
		if n > 0 {
			if err := w.put(ctx, nil, n); err != nil {
				return err
			}
		} else if w.at < e.End() {
			return nil // it begins at off or later
		} else {
			w.rest = w.rest[1:]
		}
	}
	return nil
}

// put emits n bytes where the cursor is. The context is asked each time: what
// is emitted may have come long before.
func (w *extentWriter) put(ctx context.Context, p []byte, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.emit(w.at, p, n); err != nil {
		return &emitError{err}
	}
	w.at += n
	return nil
}
