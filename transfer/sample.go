package transfer

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"skylift/staging"
)

// The tracking sample: so many blocks per million, at least and at most so
// many. A source that lies lies about more than a few blocks; reading more than
// 4 GiB to find that would be what a run of a large disk consists of.
const (
	samplePPM     = 1000
	sampleMinimum = 64
	sampleMaximum = 8192
	sampleBatch   = 16
	// allocatedSample is the most blocks that a run without a base reads
	// outside what is allocated: there everything has to be zero, and a
	// thousandth of a large disk would be more than the disk holds.
	allocatedSample = 256
)

// sample reads random blocks outside ranges and compares them with the base.
// It returns a block that differs, or -1: a source that missed one block may
// have missed any. Disks that are read as one stream have theirs looked at
// there (see streamReader): a stream of its own can cost as much as the run.
func (mv *move) sample(ctx context.Context, ranges []staging.Range) (int64, error) {
	if !mv.Disk.Info().RandomAccess {
		return -1, nil
	}
	blocks := mv.pickSample(ranges)
	var lie atomic.Int64
	lie.Store(-1)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(mv.mover.parallels)
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
func (mv *move) pickSample(ranges []staging.Range) []staging.Range {
	limit := int64(sampleMaximum)
	if mv.base == nil {
		limit = allocatedSample
	}
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
	base, found := baseHashes{store: mv.Store, base: mv.base}, int64(-1)
	asm := assembler{size: mv.facts.Disk.Size, scratch: slab.block, block: func(n int64, raw []byte) error {
		same, err := base.has(ctx, n, raw)
		if err == nil && !same && found < 0 {
			found = n
		}
		return err
	}}
	err = mv.read(ctx, extents(blocks, mv.facts.Disk.Size), &asm)
	return found, err
}

// baseHashes compares blocks, which come in ascending order, with the base's.
type baseHashes struct {
	store  staging.Store
	base   *staging.Manifest // nil: all blocks are zero
	shard  staging.Shard
	number int64
	loaded bool
}

// has reports whether block n of the base is raw; nil stands for zeros.
func (b *baseHashes) has(ctx context.Context, n int64, raw []byte) (bool, error) {
	if shard := n / staging.ShardBlocks; !b.loaded || shard != b.number {
		b.loaded = false
		if err := readBase(ctx, b.store, b.base, shard, &b.shard); err != nil {
			return false, err
		}
		b.number, b.loaded = shard, true
	}
	var sum staging.Hash
	if raw != nil {
		sum = staging.HashBlock(raw)
	}
	return sum == b.shard[n%staging.ShardBlocks], nil
}
