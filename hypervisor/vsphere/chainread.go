package vsphere

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/internal/problem"
)

const (
	// windowSize is how much of a disk is put together at a time, where its
	// bytes are scattered over files.
	windowSize = 4 * hypervisor.BlockSize
	// planRuns is about how many runs are looked up at a time. A block has no
	// more than it has sectors.
	planRuns = 4096
	// gapSize is how many bytes that nobody wants are read over rather than
	// making another request.
	gapSize = 64 << 10
)

// chainWay reads a frozen disk from the files it is spread over.
type chainWay struct {
	source *Source
	chain  *vdisk.Chain
	files  []*frozenFile // as the chain's runs count them
	whole  bool          // the disk is its one file, from the first byte on
}

func (c *chainWay) randomAccess() bool      { return true }
func (c *chainWay) patience() time.Duration { return 0 }
func (c *chainWay) close() error            { return nil }

func (c *chainWay) read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	block := c.source.blocks.Get().(*[hypervisor.BlockSize]byte)
	defer c.source.blocks.Put(block)
	r := &reader{block: block[:], emit: emit, budget: newBudget(readTries, readLimit)}
	if c.whole {
		for len(in) > 0 {
			var span hypervisor.Extent
			span, in = nextSpan(in)
			if err := r.straight(ctx, c.files[0], span, 0); err != nil {
				return err
			}
		}
		return nil
	}
	p := c.source.plans.Get().(*plan)
	defer c.source.plans.Put(p)
	for len(in) > 0 {
		var span hypervisor.Extent
		span, in = nextSpan(in)
		for at := span.Offset; at < span.End(); at = p.end {
			err := p.make(withBudget(ctx, r.budget), c.chain, hypervisor.Extent{Offset: at, Length: min(requestSize, span.End()-at)})
			if err != nil {
				return unreadableTables(ctx, err)
			}
			if err := c.follow(ctx, r, p, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// unreadableTables makes a problem of what is wrong with the files themselves.
func unreadableTables(ctx context.Context, err error) error {
	if ctx.Err() != nil || problem.Of(err) != nil {
		return err
	}
	return DiskUnreadable.New(err, "find out where the disk's bytes are")
}

// plan is where the bytes of a range of the disk are. It is used again and
// again: a plan's memory belongs to the pool.
type plan struct {
	runs   []vdisk.Run
	end    int64       // whole blocks up to here are planned
	pieces []vdisk.Run // of one window, in the order of files
	window []byte
}

// errPlanned ends the looking up of runs.
var errPlanned = errors.New("enough runs were found")

// make plans a range of whole blocks, or its beginning where that is in very
// many pieces already.
func (p *plan) make(ctx context.Context, chain *vdisk.Chain, span hypervisor.Extent) error {
	p.runs = p.runs[:0]
	p.end = span.End()
	err := chain.Runs(ctx, span.Offset, span.Length, func(r vdisk.Run) error {
		p.runs = append(p.runs, r)
		if end := wholeBlocks(r.Offset + r.Length); len(p.runs) >= planRuns && end > span.Offset {
			p.end = end
			return errPlanned
		}
		return nil
	})
	if err == errPlanned {
		return nil
	}
	return err
}

func wholeBlocks(n int64) int64 { return n &^ (hypervisor.BlockSize - 1) }

// whole is the end of the whole blocks that a run covers. The plan's own end
// may be the disk's, inside a block.
func (p *plan) whole(r vdisk.Run) int64 {
	if end := r.Offset + r.Length; end < p.end {
		return wholeBlocks(end)
	}
	return p.end
}

// follow reads what was planned, from the block at at on: zeros are emitted
// unread, long runs come straight from their file, and what is left is put
// together in windows.
func (c *chainWay) follow(ctx context.Context, r *reader, p *plan, at int64) error {
	for i := 0; at < p.end; {
		for p.runs[i].Offset+p.runs[i].Length <= at {
			i++
		}
		run := p.runs[i]
		to := p.whole(run)
		var err error
		switch {
		case run.Kind == vdisk.Zero && to > at:
			err = r.zeros(ctx, at, to)
		case to-at >= windowSize || to == p.end:
			err = r.straight(ctx, c.files[run.Link], hypervisor.Extent{Offset: at, Length: to - at}, run.At-run.Offset)
		default:
			to = p.windowEnd(i, at)
			err = c.collect(ctx, r, p, i, hypervisor.Extent{Offset: at, Length: to - at})
		}
		if err != nil {
			return err
		}
		at = to
	}
	return nil
}

// windowEnd is where a window that starts at at ends: at its greatest size, or
// where a run of the plan, from its i-th on, is long enough for itself.
func (p *plan) windowEnd(i int, at int64) int64 {
	limit := min(at+windowSize, p.end)
	for _, run := range p.runs[i:] {
		start := wholeBlocks(run.Offset + hypervisor.BlockSize - 1)
		if start >= limit {
			break
		}
		if start > at && p.whole(run)-start >= windowSize {
			return start
		}
	}
	return limit
}

func (r *reader) zeros(ctx context.Context, from, to int64) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.emit(from, nil, to-from); err != nil {
		return &emitError{err}
	}
	return nil
}

// collect puts a window of the disk together and emits it. The plan's runs
// from the i-th on tell of it.
func (c *chainWay) collect(ctx context.Context, r *reader, p *plan, i int, span hypervisor.Extent) error {
	window := p.window[:span.Length]
	p.pieces = p.pieces[:0]
	for _, run := range p.runs[i:] {
		if run.Offset >= span.End() {
			break
		}
		piece := clip(run, span)
		if piece.Kind == vdisk.Zero {
			clear(window[piece.Offset-span.Offset:][:piece.Length])
			continue
		}
		p.pieces = append(p.pieces, piece)
	}
	slices.SortFunc(p.pieces, func(a, b vdisk.Run) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), cmp.Compare(a.At, b.At))
	})
	for rest := p.pieces; len(rest) > 0; {
		n := joinable(rest)
		s := scatter{reader: r, pieces: rest[:n], at: rest[0].At, window: window, start: span.Offset}
		if err := s.fetch(ctx, c.files[rest[0].Link]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return c.emitWindow(ctx, r, p.runs[i:], window, span)
}

// clip is the part of a run that lies in the span, which it touches.
func clip(run vdisk.Run, span hypervisor.Extent) vdisk.Run {
	if before := span.Offset - run.Offset; before > 0 {
		run.Offset, run.Length = span.Offset, run.Length-before
		if run.Kind == vdisk.Data {
			run.At += before
		}
	}
	run.Length = min(run.Length, span.End()-run.Offset)
	return run
}

// joinable counts the leading pieces that one request should get: of the same
// file, in its order, with small gaps only.
func joinable(pieces []vdisk.Run) int {
	first := pieces[0]
	end := first.At + first.Length
	for n, next := range pieces[1:] {
		gap := next.At - end
		if next.Link != first.Link || gap < 0 || gap > gapSize || next.At+next.Length-first.At > requestSize {
			return n + 1
		}
		end = next.At + next.Length
	}
	return len(pieces)
}

// emitWindow emits a window block by block, and without bytes where all runs
// say zero.
func (c *chainWay) emitWindow(ctx context.Context, r *reader, runs []vdisk.Run, window []byte, span hypervisor.Extent) error {
	for at := span.Offset; at < span.End(); {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		to := min(at+hypervisor.BlockSize, span.End())
		for runs[0].Offset+runs[0].Length <= at {
			runs = runs[1:]
		}
		var err error
		if runs[0].Kind == vdisk.Zero && runs[0].Offset+runs[0].Length >= to {
			err = r.zeros(ctx, at, to)
		} else if err = r.emit(at, window[at-span.Offset:to-span.Offset], to-at); err != nil {
			err = &emitError{err}
		}
		if err != nil {
			return err
		}
		at = to
	}
	return nil
}

// scatter is one request's bytes on their way to where they belong.
type scatter struct {
	*reader
	pieces []vdisk.Run // in the order of the file
	at     int64       // of the file: what was before has come
	window []byte
	start  int64 // of the window in the disk
}

// fetch asks for the pieces, again from where an answer broke.
func (s *scatter) fetch(ctx context.Context, f *frozenFile) error {
	last := s.pieces[len(s.pieces)-1]
	end, credit := last.At+last.Length, s.at+hypervisor.BlockSize
	err := f.retry(ctx, s.budget, func() error {
		want := hypervisor.Extent{Offset: s.at, Length: end - s.at}
		err := f.getRange(ctx, want, s.take)
		if s.at >= credit {
			credit = s.at + hypervisor.BlockSize
			s.budget.refill()
		}
		return err
	})
	if err == nil {
		s.budget.refill()
	}
	return err
}

// take copies the answer to the window; what lies between the pieces goes to
// the reader's block, which is free meanwhile.
func (s *scatter) take(a *answer) error {
	for len(s.pieces) > 0 {
		piece := s.pieces[0]
		into := s.block[:min(max(0, piece.At-s.at), int64(len(s.block)))]
		if len(into) == 0 {
			into = s.window[piece.Offset-s.start:][:piece.Length][s.at-piece.At:]
		}
		n, err := fill(a, into)
		if s.at += int64(n); err != nil {
			return fmt.Errorf("at %d: %w", s.at, err)
		}
		if s.at == piece.At+piece.Length {
			s.pieces = s.pieces[1:]
		}
	}
	return nil
}
