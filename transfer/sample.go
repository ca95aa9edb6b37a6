package transfer

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"skylift/staging"
)

// The tracking sample: so many blocks per million, and at least so many.
const (
	samplePPM     = 1000
	sampleMinimum = 64
	sampleBatch   = 16
	// allocatedSample is the most blocks that a run without a base reads
	// outside what is allocated: there everything has to be zero, and a
	// thousandth of a large disk would be more than the disk holds.
	allocatedSample = 256
)

// sample reads random blocks outside ranges, at most limit, and compares them
// with the base. It returns a block that differs, or -1: a source that missed
// one block may have missed any.
func (mv *move) sample(ctx context.Context, ranges []staging.Range, limit int64) (int64, error) {
	blocks := mv.pickSample(ranges, limit)
	var lie atomic.Int64
	lie.Store(-1)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(mv.mover.parallel(mv.Disk))
	for len(blocks) > 0 && lie.Load() < 0 {
		batch := blocks[:min(sampleBatch, len(blocks))]
		blocks = blocks[len(batch):]
		group.Go(func() error {
			found, err := mv.compare(ctx, batch)
			if found >= 0 {
				lie.Store(found)
			}
			return err
		})
	}
	err := group.Wait()
	return lie.Load(), err
}

// pickSample chooses one block at random in each of as many equal parts of
// what ranges leave out as the sample has blocks.
func (mv *move) pickSample(ranges []staging.Range, limit int64) []staging.Range {
	all := staging.Blocks(mv.facts.Disk.Size)
	outside := all
	for _, r := range ranges {
		outside -= r.Count
	}
	count := min(outside, limit, max(sampleMinimum, outside*samplePPM/1_000_000))
	sample := make([]staging.Range, 0, count)
	skipped, next := int64(0), 0 // blocks of ranges before the current one
	for i := range count {
		low, high := outside*i/count, outside*(i+1)/count
		pick := low + mv.mover.random(high-low)
		for next < len(ranges) && ranges[next].First <= pick+skipped {
			skipped += ranges[next].Count
			next++
		}
		sample = append(sample, staging.Range{First: pick + skipped, Count: 1})
	}
	return sample
}

// compare reads blocks and returns the first that differs from the base, or -1.
func (mv *move) compare(ctx context.Context, blocks []staging.Range) (int64, error) {
	slab, err := mv.mover.pool.take(ctx, staging.SegmentBlocks)
	if err != nil {
		return -1, err
	}
	defer mv.mover.pool.put(staging.SegmentBlocks, slab)
	var base staging.Shard
	loaded, found := int64(-1), int64(-1)
	asm := assembler{size: mv.facts.Disk.Size, scratch: slab.block, block: func(n int64, raw []byte) error {
		if shard := n / staging.ShardBlocks; shard != loaded {
			if err := readBase(ctx, mv.Store, mv.base, shard, &base); err != nil {
				return err
			}
			loaded = shard
		}
		var sum staging.Hash
		if raw != nil {
			sum = staging.HashBlock(raw)
		}
		if sum != base[n%staging.ShardBlocks] && found < 0 {
			found = n
		}
		return nil
	}}
	err = mv.read(ctx, extents(blocks, mv.facts.Disk.Size), &asm)
	return found, err
}
