package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	"skylift/internal/problem"
	"skylift/staging"
)

// StreamStuck says that a disk which can only be read in order gets nowhere:
// its stream has to be let go again and again before a piece is stored.
var StreamStuck = &problem.Kind{
	Code:  "stream-stuck",
	Title: "staging takes the disk's bytes more slowly, or for shorter times, than its source waits",
	Hint:  "Let the bandwidth timetable be open for longer at a time or send faster, and check how fast staging takes data; or give the connector a transport with random access",
	Retry: true,
}

// futilePasses is after how many passes in a row without any progress a Move
// gives up.
const futilePasses = 8

// errLetGo ends a Read that would have to wait for longer than its source does.
var errLetGo = errors.New("the source's stream is let go")

// trackingLie says that a block of the sample differs from the base.
type trackingLie struct{ block int64 }

func (e *trackingLie) Error() string {
	return fmt.Sprintf("block %d differs from the base, which the source did not say", e.block)
}

// stream brings the slices that are not in staging from a disk that can only
// be read in order, with one Read where its source waits for as long as it
// takes, and else with as many as it takes.
func (mv *move) stream(ctx context.Context, stored *segmentSet) error {
	todo, err := mv.missing(ctx, stored)
	if err != nil {
		return err
	}
	sample := mv.pickSample(mv.plan.Ranges)
	for futile := 0; len(todo)+len(sample) > 0; {
		// Nobody waits for the first piece with a stream open.
		if err := mv.ready(ctx); err != nil {
			return err
		}
		before := len(todo) + len(sample)
		if todo, sample, err = mv.pass(ctx, todo, sample); err != nil {
			return err
		}
		if futile++; len(todo)+len(sample) < before {
			futile = 0
		}
		if futile == futilePasses {
			return StreamStuck.New(nil, "read disk %s, %d times", mv.facts.Disk.Name, futile)
		}
	}
	return nil
}

// missing returns the slices that have to be read, in ascending order.
func (mv *move) missing(ctx context.Context, stored *segmentSet) (todo []int64, err error) {
	for n := range mv.plan.Segments() {
		if stored.has(n) {
			s, err := mv.begin(ctx, n)
			if err != nil {
				return nil, err
			}
			if ok, err := mv.resume(ctx, s); err != nil {
				return nil, err
			} else if ok {
				continue
			}
		}
		todo = append(todo, n)
	}
	return todo, nil
}

// ready waits until something may be sent and there is memory for it.
func (mv *move) ready(ctx context.Context) error {
	if err := mv.gate.open(ctx); err != nil {
		return err
	}
	slab, err := mv.mover.pool.take(ctx, mv.plan.SegmentBlocks)
	if err != nil {
		return err
	}
	mv.mover.pool.put(mv.plan.SegmentBlocks, slab)
	return nil
}

// pass is one Read, of slices and of blocks of the sample. It returns those
// that did not come, or were not stored.
func (mv *move) pass(ctx context.Context, todo []int64, sample []staging.Range) ([]int64, []staging.Range, error) {
	group, ctx := errgroup.WithContext(ctx)
	r := &streamReader{
		move: mv, ctx: ctx, group: group, todo: todo, sample: sample,
		slots: make(chan struct{}, 1+mv.mover.parallels), base: baseHashes{store: mv.Store, base: mv.base},
		patience: mv.Disk.Info().Patience * 3 / 4, // the rest is for the work itself
		done:     newSegmentSet(mv.plan.Segments()),
	}
	in := merge(mv.sliceExtents(todo), extents(sample, mv.plan.Disk.Size))
	group.Go(func() error { return r.read(in) })
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	var left []int64
	for _, n := range todo {
		if !r.done.has(n) {
			left = append(left, n)
		}
	}
	return left, r.sample, nil
}

// sliceExtents returns what slices cover.
func (mv *move) sliceExtents(slices []int64) (in []hypervisor.Extent) {
	for _, n := range slices {
		for r := range mv.plan.Slice(n) {
			e := extents([]staging.Range{r}, mv.plan.Disk.Size)[0]
			if k := len(in); k > 0 && in[k-1].End() == e.Offset {
				in[k-1].Length += e.Length
				continue
			}
			in = append(in, e)
		}
	}
	return in
}

// merge joins two ascending lists that have nothing in common.
func merge(a, b []hypervisor.Extent) []hypervisor.Extent {
	out := make([]hypervisor.Extent, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].Offset < b[0].Offset {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// streamReader deals the blocks of one Read out to their slices and to the
// sample. Segments are stored behind its back; it waits when no memory is left
// for the next slice, though not for longer than the source does.
type streamReader struct {
	*move
	ctx      context.Context // of the one Read that it lives for
	group    *errgroup.Group
	slots    chan struct{} // a place for each slice between its first block and staging
	patience time.Duration // 0: without end
	deadline time.Time     // of the call of emit
	letGo    bool
	todo     []int64         // slices that have not begun
	sample   []staging.Range // blocks that have not come
	base     baseHashes
	done     *segmentSet

	current *slice
	left    int64 // blocks of current that have not come yet
}

func (r *streamReader) read(in []hypervisor.Extent) error {
	asm := assembler{size: r.plan.Disk.Size, scratch: make([]byte, hypervisor.BlockSize), block: r.block}
	asm.begin(in)
	err := r.Disk.Read(r.ctx, in, func(off int64, p []byte, n int64) error {
		r.deadline = time.Now().Add(r.patience)
		r.count(p, n)
		return asm.emit(off, p, n)
	})
	if r.current != nil {
		r.release(r.current)
	}
	if r.letGo && r.ctx.Err() == nil {
		r.log.Info("the source's stream is let go, since there is nowhere to put its bytes; the rest is read later")
		return nil
	}
	return r.readError(err, &asm)
}

func (r *streamReader) block(n int64, raw []byte) error {
	if len(r.sample) > 0 && r.sample[0].First == n {
		return r.check(n, raw)
	}
	if r.current == nil {
		if err := r.wait(r.next); err != nil {
			return err
		}
	}
	if err := r.move.block(r.current, n, raw); err != nil {
		return err
	}
	if r.left--; r.left == 0 {
		s := r.current
		r.current = nil
		r.group.Go(func() error { return r.put(s) })
	}
	return nil
}

// check compares a block of the sample with the base.
func (r *streamReader) check(n int64, raw []byte) error {
	same := false
	err := r.wait(func(ctx context.Context) (err error) {
		same, err = r.base.has(ctx, n, raw)
		return err
	})
	if err != nil {
		return err
	}
	if !same {
		return &trackingLie{n}
	}
	r.sample = r.sample[1:]
	return nil
}

// wait runs what may take long, for no longer than the source waits.
func (r *streamReader) wait(what func(context.Context) error) error {
	ctx := r.ctx
	if r.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, r.deadline, errLetGo)
		defer cancel()
	}
	err := what(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errLetGo) {
		r.letGo = true
		return errLetGo
	}
	return err
}

// next begins the next slice.
func (r *streamReader) next(ctx context.Context) error {
	s, err := r.begin(ctx, r.todo[0])
	if err != nil {
		return err
	}
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	slab, err := r.memory(ctx)
	if err != nil {
		<-r.slots
		return err
	}
	r.work(s, slab)
	r.todo, r.current, r.left = r.todo[1:], s, 0
	for _, b := range s.ranges {
		r.left += b.Count
	}
	return nil
}

// memory is looked for when something may be sent.
func (r *streamReader) memory(ctx context.Context) (*slab, error) {
	if err := r.gate.open(ctx); err != nil {
		return nil, err
	}
	return r.mover.pool.takeFirst(ctx, r.plan.SegmentBlocks)
}

// release gives back what next took.
func (r *streamReader) release(s *slice) {
	r.giveBack(s)
	<-r.slots
}

// put stores a whole slice. One that must not be sent now is left for another pass.
func (r *streamReader) put(s *slice) error {
	err := r.store(r.ctx, s)
	r.release(s)
	if errors.Is(err, bandwidth.ErrShut) {
		return nil
	}
	if err == nil {
		err = r.finish(r.ctx, s)
	}
	if err == nil {
		r.done.add(s.n)
	}
	return err
}
