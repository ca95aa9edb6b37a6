package transfer

import (
	"context"
	"errors"
	"fmt"

	"skylift/hypervisor"
	"skylift/staging"
)

// slice is one slice of the plan under way: it takes the slice's blocks in
// ascending order, whoever reads them.
type slice struct {
	n      int64
	ranges []staging.Range
	shards []part
	slab   *slab
	writer *staging.SegmentWriter
}

// part is what a slice has of one shard.
type part struct {
	n, blocks int64
	shard     *shard
	changed   bool
}

// extents returns the bytes of ranges; the last one ends with the disk.
func extents(ranges []staging.Range, size int64) []hypervisor.Extent {
	out := make([]hypervisor.Extent, len(ranges))
	for i, r := range ranges {
		start := r.First * staging.BlockSize
		out[i] = hypervisor.Extent{Offset: start, Length: min(r.Count*staging.BlockSize, size-start)}
	}
	return out
}

func length(extents []hypervisor.Extent) (n int64) {
	for _, e := range extents {
		n += e.Length
	}
	return n
}

// begin prepares slice n: its ranges, and the base's hashes of its blocks.
func (mv *move) begin(ctx context.Context, n int64) (*slice, error) {
	s := &slice{n: n}
	for r := range mv.plan.Slice(n) {
		s.ranges = append(s.ranges, r)
		for first, end := r.First, r.First+r.Count; first < end; {
			shard := first / staging.ShardBlocks
			next := min(end, (shard+1)*staging.ShardBlocks)
			if k := len(s.shards); k == 0 || s.shards[k-1].n != shard {
				s.shards = append(s.shards, part{n: shard})
			}
			s.shards[len(s.shards)-1].blocks += next - first
			first = next
		}
	}
	for i := range s.shards {
		var err error
		if s.shards[i].shard, err = mv.blocks.shard(ctx, s.shards[i].n); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// record notes a block's hash in the run's map and tells whether it differs
// from the base's. Blocks come in ascending order, so at moves with them.
func (s *slice) record(block int64, sum staging.Hash, at *int) bool {
	for s.shards[*at].n != block/staging.ShardBlocks {
		*at++
	}
	p := &s.shards[*at]
	slot := &p.shard.hashes[block%staging.ShardBlocks]
	if *slot == sum {
		return false
	}
	*slot, p.changed = sum, true
	return true
}

// block takes a block that was read from the source; raw is nil for zeros.
func (mv *move) block(s *slice, block int64, raw []byte, at *int) error {
	var sum staging.Hash
	if raw != nil {
		sum = staging.HashBlock(raw)
	}
	if !s.record(block, sum, at) {
		return nil
	}
	mv.progress.Changed.Add(staging.BlockSize)
	if !sum.IsZero() {
		mv.progress.Sent.Add(staging.BlockSize)
	}
	return s.writer.Add(block, sum, raw)
}

func (mv *move) segmentID(n int64) staging.SegmentID {
	return staging.SegmentID{Plan: mv.planSum, N: n}
}

// store writes the slice's segment, where it has one, and hands its hashes over.
func (mv *move) store(ctx context.Context, s *slice) error {
	if p := s.writer.Bytes(mv.segmentID(s.n)); p != nil {
		if err := mv.Store.Put(ctx, mv.plan.Place().Segment(s.n), p); err != nil {
			return fmt.Errorf("store segment %d: %w", s.n, err)
		}
		mv.progress.Stored.Add(int64(len(p)))
		mv.segments.add(s.n)
	}
	return mv.finish(ctx, s)
}

func (mv *move) finish(ctx context.Context, s *slice) error {
	for _, p := range s.shards {
		if err := mv.blocks.finish(ctx, p.n, p.blocks, p.changed); err != nil {
			return err
		}
	}
	mv.progress.Done.Add(length(extents(s.ranges, mv.plan.Disk.Size)))
	return nil
}

// resume takes a slice from the segment that an earlier attempt stored. false
// says that the segment cannot be used, and the slice is to be read again.
func (mv *move) resume(ctx context.Context, s *slice) (bool, error) {
	key := mv.plan.Place().Segment(s.n)
	body, err := mv.Store.Get(ctx, key, 0, staging.MaxIndexSize)
	if err != nil {
		return false, fmt.Errorf("resume from %s: %w", key, err)
	}
	defer body.Close()
	entries, err := staging.ReadIndex(body, mv.segmentID(s.n))
	var format *staging.FormatError
	if errors.As(err, &format) || err == nil && !s.covers(entries) {
		mv.log.WithField("segment", s.n).Warn("a segment in staging is not one of this plan; its slice is read again")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("resume from %s: %w", key, err)
	}
	at := 0
	for _, e := range entries {
		if s.record(e.Block, e.Sum, &at) {
			mv.progress.Changed.Add(staging.BlockSize)
		}
	}
	mv.segments.add(s.n)
	mv.progress.Resumed.Add(length(extents(s.ranges, mv.plan.Disk.Size)))
	return true, mv.finish(ctx, s)
}

// covers reports whether all entries are blocks of the slice.
func (s *slice) covers(entries []staging.Entry) bool {
	ranges := s.ranges
	for _, e := range entries {
		for len(ranges) > 0 && e.Block >= ranges[0].First+ranges[0].Count {
			ranges = ranges[1:]
		}
		if len(ranges) == 0 || e.Block < ranges[0].First {
			return false
		}
	}
	return true
}

// readSlice reads one slice from the source, for disks with random access.
func (mv *move) readSlice(ctx context.Context, s *slice) error {
	slab, err := mv.mover.pool.take(ctx, mv.plan.SegmentBlocks)
	if err != nil {
		return err
	}
	defer mv.mover.pool.put(mv.plan.SegmentBlocks, slab)
	s.writer = slab.segment(mv.Compress)
	at := 0
	in := extents(s.ranges, mv.plan.Disk.Size)
	asm := assembler{size: mv.plan.Disk.Size, scratch: slab.block, block: func(n int64, raw []byte) error {
		return mv.block(s, n, raw, &at)
	}}
	if err := mv.read(ctx, in, &asm); err != nil {
		return err
	}
	return mv.store(ctx, s)
}

// read has the source emit extents into asm.
func (mv *move) read(ctx context.Context, in []hypervisor.Extent, asm *assembler) error {
	asm.begin(in)
	err := mv.Disk.Read(ctx, in, func(off int64, p []byte, n int64) error {
		if p != nil {
			n = int64(len(p))
		}
		mv.progress.Read.Add(n)
		return asm.emit(off, p, n)
	})
	if err == nil {
		err = asm.end()
	}
	if err != nil {
		return fmt.Errorf("read disk %s: %w", mv.facts.Disk.Name, err)
	}
	return nil
}
