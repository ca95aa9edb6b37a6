package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"

	"skylift/hypervisor"
)

// requestSize bounds one range request. A broken one is resumed where it
// broke, so the size is a matter of round trips per byte.
const requestSize = 16 << 20

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

// reader is one Read under way. Its speed comes from many at a time: it makes
// one request after the other.
type reader struct {
	block  []byte // one block, filled up to filled
	filled int
	at     int64 // where the block starts
	emit   func(int64, []byte, int64) error
	budget *budget
}

// straight reads a range of the disk, whole blocks, that lies in one piece in
// a file, shift bytes further on than in the disk. What a broken request
// brought is kept.
func (r *reader) straight(ctx context.Context, f *frozenFile, span hypervisor.Extent, shift int64) error {
	r.at, r.filled = span.Offset, 0
	for r.at < span.End() {
		err := f.retry(ctx, r.budget, func() error {
			from := r.at + int64(r.filled)
			want := hypervisor.Extent{Offset: from + shift, Length: min(requestSize-int64(r.filled), span.End()-from)}
			return f.getRange(ctx, want, func(a *answer) error {
				return r.blocks(ctx, a, want.End()-shift, span.End())
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
		n, err := fill(a, r.block[r.filled:size])
		if r.filled += n; err != nil {
			return fmt.Errorf("at %d: %w", r.at+int64(r.filled), err)
		}
		if err := r.emit(r.at, r.block[:size], int64(size)); err != nil {
			return &emitError{err}
		}
		r.at, r.filled = r.at+int64(size), 0
		r.budget.refill()
	}
	return nil
}

// fill is io.ReadFull for an answer whose end is always too early.
func fill(a *answer, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := a.Read(p[n:])
		if n += m; err != nil && n < len(p) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}
