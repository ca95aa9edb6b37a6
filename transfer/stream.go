package transfer

import (
	"context"

	"golang.org/x/sync/errgroup"

	"skylift/hypervisor"
)

// stream reads all slices that are not in staging with one Read, for disks
// that can only be read in order. Segments are stored behind the reader's
// back; it waits when no memory is left for the next slice.
func (mv *move) stream(ctx context.Context, stored *segmentSet) error {
	var todo []int64
	var in []hypervisor.Extent
	for n := range mv.plan.Segments() {
		if stored.has(n) {
			s, err := mv.begin(ctx, n)
			if err != nil {
				return err
			}
			if ok, err := mv.resume(ctx, s); err != nil {
				return err
			} else if ok {
				continue
			}
		}
		todo = append(todo, n)
		for r := range mv.plan.Slice(n) {
			e := hypervisor.Extent{Offset: r.First * hypervisor.BlockSize, Length: r.Count * hypervisor.BlockSize}
			e.Length = min(e.Length, mv.plan.Disk.Size-e.Offset)
			if k := len(in); k > 0 && in[k-1].End() == e.Offset {
				in[k-1].Length += e.Length
				continue
			}
			in = append(in, e)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(1 + mv.mover.parallels)
	r := &streamReader{move: mv, ctx: ctx, todo: todo, group: group}
	group.Go(func() error { return r.read(in) })
	return group.Wait()
}

// streamReader deals the blocks of one Read out to their slices.
type streamReader struct {
	*move
	ctx   context.Context // of the one Read that it lives for
	todo  []int64
	group *errgroup.Group

	current *slice
	left    int64 // blocks of current that have not come yet
	at      int
}

func (r *streamReader) read(in []hypervisor.Extent) error {
	scratch := make([]byte, hypervisor.BlockSize)
	asm := assembler{size: r.plan.Disk.Size, scratch: scratch, block: r.block}
	err := r.move.read(r.ctx, in, &asm)
	if err != nil && r.current != nil {
		r.mover.pool.put(r.plan.SegmentBlocks, r.current.slab)
	}
	return err
}

func (r *streamReader) block(n int64, raw []byte) error {
	if r.current == nil {
		if err := r.next(); err != nil {
			return err
		}
	}
	if err := r.move.block(r.current, n, raw, &r.at); err != nil {
		return err
	}
	if r.left--; r.left > 0 {
		return nil
	}
	s := r.current
	r.current = nil
	r.group.Go(func() error {
		defer r.mover.pool.put(r.plan.SegmentBlocks, s.slab)
		return r.store(r.ctx, s)
	})
	return nil
}

func (r *streamReader) next() error {
	s, err := r.begin(r.ctx, r.todo[0])
	if err != nil {
		return err
	}
	if s.slab, err = r.mover.pool.take(r.ctx, r.plan.SegmentBlocks); err != nil {
		return err
	}
	s.writer = s.slab.segment(r.Compress)
	r.todo, r.current, r.at, r.left = r.todo[1:], s, 0, 0
	for _, b := range s.ranges {
		r.left += b.Count
	}
	return nil
}
