package image

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"skylift/staging"
)

// Fault is one thing that is wrong with a staged run.
type Fault struct {
	Segment int64 // -1: of no segment
	Block   int64 // -1: of no single block
	Err     error
}

func (f *Fault) Error() string {
	switch {
	case f.Block >= 0 && f.Segment >= 0:
		return fmt.Sprintf("block %d, segment %d: %v", f.Block, f.Segment, f.Err)
	case f.Block >= 0:
		return fmt.Sprintf("block %d: %v", f.Block, f.Err)
	case f.Segment >= 0:
		return fmt.Sprintf("segment %d: %v", f.Segment, f.Err)
	}
	return f.Err.Error()
}

// Unwrap returns what is wrong.
func (f *Fault) Unwrap() error { return f.Err }

// What a Fault can say.
var (
	ErrUnplanned   = errors.New("it differs from the base, and the plan does not cover it")
	ErrNoSegment   = errors.New("it differs from the base, and its segment is not among those sealed")
	ErrNoEntry     = errors.New("it differs from the base, and its segment has no entry for it")
	ErrNotOfSlice  = errors.New("the segment holds it, and it is not of the segment's slice of the plan")
	ErrOtherHash   = errors.New("the segment's entry is not what the block map says")
	ErrNoSuchSlice = errors.New("it was sealed, and the plan has no such slice")
	ErrPlan        = errors.New("the plan is not the one that was sealed")
	ErrBase        = errors.New("the base's manifest is not that of the run's base")
)

// staged is one disk of a run as it lies in staging, with its base's map.
type staged struct {
	store staging.Store
	plan  *staging.Plan
	run   *staging.Manifest
	base  *staging.Manifest // nil: all zero
}

// openStaged reads the plan of a sealed disk. A Fault says what is wrong with it.
func openStaged(ctx context.Context, store staging.Store, run, base *staging.Manifest) (*staged, error) {
	plan, sum, err := staging.ReadPlan(ctx, store, run.Place())
	switch {
	case err != nil && isDamage(err):
		return nil, &Fault{-1, -1, err}
	case err != nil:
		return nil, err
	case sum != run.Plan || plan.Disk.Size != run.Disk.Size || plan.SegmentBlocks != run.SegmentBlocks:
		return nil, &Fault{-1, -1, ErrPlan}
	}
	if n := len(run.Segments); n > 0 {
		if last := run.Segments[n-1].First + run.Segments[n-1].Count - 1; last >= plan.Segments() {
			return nil, &Fault{last, -1, ErrNoSuchSlice}
		}
	}
	return &staged{store, plan, run, base}, nil
}

// loadBase reads the manifest of the run that m builds on; nil without one.
// Its error is a Fault when there is none, or another.
func loadBase(ctx context.Context, store staging.Store, m *staging.Manifest) (*staging.Manifest, error) {
	if m.Base == nil {
		return nil, nil
	}
	place := m.Place()
	place.Run = m.Base.Run
	base, err := staging.ReadSealed(ctx, store, place, m.Base.Manifest)
	switch {
	case err != nil && isDamage(err):
		return nil, &Fault{-1, -1, err}
	case err != nil:
		return nil, err
	case base.Digest != m.Base.Digest || base.Disk.Size != m.Base.Size:
		return nil, &Fault{-1, -1, ErrBase}
	}
	return base, nil
}

// slice is a segment that was sealed, and what the maps say of its blocks.
type slice struct {
	segment int64
	blocks  []sliceBlock
}

type sliceBlock struct {
	block   int64
	sum     staging.Hash // in the run's map
	differs bool         // from the base's
}

// find returns the index of a block; false when the slice does not have it.
func (s *slice) find(block int64) (int, bool) {
	i := sort.Search(len(s.blocks), func(i int) bool { return s.blocks[i].block >= block })
	return i, i < len(s.blocks) && s.blocks[i].block == block
}

// walk visits the sealed segments in ascending order, and hands every block
// that differs from the base and has no place in one of them to refuse, whose
// error ends it. Shards of the maps are read as they are needed.
func (s *staged) walk(ctx context.Context, visit func(slice) error, refuse func(*Fault) error) error {
	run, base := &cursor{store: s.store, m: s.run}, &cursor{store: s.store, m: s.base}
	sealed := s.run.Segments
	next := int64(0) // the first block that was not looked at
	for n := range s.plan.Segments() {
		for len(sealed) > 0 && n >= sealed[0].First+sealed[0].Count {
			sealed = sealed[1:]
		}
		stored := len(sealed) > 0 && n >= sealed[0].First
		part := slice{segment: n}
		for r := range s.plan.Slice(n) {
			if err := eachDiffering(ctx, run, base, next, r.First, func(b int64) error {
				return refuse(&Fault{-1, b, ErrUnplanned})
			}); err != nil {
				return err
			}
			next = r.First + r.Count
			if !stored {
				if err := eachDiffering(ctx, run, base, r.First, next, func(b int64) error {
					return refuse(&Fault{n, b, ErrNoSegment})
				}); err != nil {
					return err
				}
				continue
			}
			for b := r.First; b < next; b++ {
				sum, was, err := both(ctx, run, base, b)
				if err != nil {
					return err
				}
				part.blocks = append(part.blocks, sliceBlock{b, sum, sum != was})
			}
		}
		if stored {
			if err := visit(part); err != nil {
				return err
			}
		}
	}
	return eachDiffering(ctx, run, base, next, staging.Blocks(s.run.Disk.Size), func(b int64) error {
		return refuse(&Fault{-1, b, ErrUnplanned})
	})
}

// eachDiffering emits the blocks from first up to, not including, end in which
// two maps differ. Shards that are the same are not read.
func eachDiffering(ctx context.Context, a, b *cursor, first, end int64, emit func(block int64) error) error {
	for first < end {
		shard := first / staging.ShardBlocks
		stop := min(end, (shard+1)*staging.ShardBlocks)
		if a.sum(shard) == b.sum(shard) {
			first = stop
			continue
		}
		for ; first < stop; first++ {
			x, y, err := both(ctx, a, b, first)
			if err != nil {
				return err
			}
			if x == y {
				continue
			}
			if err := emit(first); err != nil {
				return err
			}
		}
	}
	return nil
}

func both(ctx context.Context, a, b *cursor, block int64) (x, y staging.Hash, err error) {
	if x, err = a.at(ctx, block); err != nil {
		return x, y, err
	}
	y, err = b.at(ctx, block)
	return x, y, err
}

// cursor reads a block map in ascending order, one shard at a time.
type cursor struct {
	store  staging.Store
	m      *staging.Manifest // nil: all zero
	loaded bool
	n      int64
	shard  staging.Shard
}

// sum returns the hash of shard n.
func (c *cursor) sum(n int64) staging.Hash {
	if c.m == nil {
		return staging.Hash{}
	}
	ref, _ := c.m.Shard(n)
	return ref.Sum
}

// at returns the hash of a block. A shard that is missing or broken is a MapFault.
func (c *cursor) at(ctx context.Context, block int64) (staging.Hash, error) {
	if c.m == nil {
		return staging.Hash{}, nil
	}
	if n := block / staging.ShardBlocks; !c.loaded || n != c.n {
		c.loaded = false
		if err := c.m.ReadShard(ctx, c.store, n, &c.shard); err != nil {
			if !isDamage(err) {
				return staging.Hash{}, err
			}
			holder := c.m.Run
			if ref, ok := c.m.Shard(n); ok {
				holder = c.m.Holder(ref)
			}
			return staging.Hash{}, &mapFault{holder, err}
		}
		c.n, c.loaded = n, true
	}
	return c.shard[block%staging.ShardBlocks], nil
}

// mapFault says that a shard of a block map is missing or broken.
type mapFault struct {
	holder string // the run that keeps it
	err    error
}

func (f *mapFault) Error() string { return f.err.Error() }
func (f *mapFault) Unwrap() error { return f.err }
