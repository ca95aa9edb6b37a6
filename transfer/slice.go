package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	"skylift/staging"
)

// slice is one slice of the plan under way: it takes the slice's blocks in
// ascending order, whoever reads them.
type slice struct {
	n      int64
	ranges []staging.Range
	shards []part
	at     int // the shard of the block that came last
	// found are the blocks that differ from the base. They become part of the
	// run's map when the segment is stored, so that a slice can be read again.
	found []change

	// Room for what most slices have.
	rangeRoom [4]staging.Range
	partRoom  [2]part
	foundRoom [staging.SegmentBlocks]change

	slab       *slab
	writer     *staging.SegmentWriter
	compressed bool
	encoding   time.Duration
	encoded    int64 // bytes
}

// part is what a slice has of one shard.
type part struct {
	n, blocks int64
	shard     *shard
	changed   bool
}

// change is a block that differs from the base's.
type change struct {
	block int64
	sum   staging.Hash
}

// restart forgets all blocks that came.
func (s *slice) restart() { s.at, s.found = 0, s.found[:0] }

// extents returns the bytes of ranges; the last one ends with the disk.
func extents(ranges []staging.Range, size int64) []hypervisor.Extent {
	out := make([]hypervisor.Extent, len(ranges))
	for i, r := range ranges {
		start := r.First * staging.BlockSize
		out[i] = hypervisor.Extent{Offset: start, Length: min(r.Count*staging.BlockSize, size-start)}
	}
	return out
}

// size is how much of a disk of so many bytes the slice covers.
func (s *slice) size(disk int64) (n int64) {
	for _, r := range s.ranges {
		n += min((r.First+r.Count)*staging.BlockSize, disk) - r.First*staging.BlockSize
	}
	return n
}

// begin prepares slice n: its ranges, and the base's hashes of its blocks.
func (mv *move) begin(ctx context.Context, n int64) (*slice, error) {
	s := &slice{n: n}
	s.ranges, s.shards = s.rangeRoom[:0], s.partRoom[:0]
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

// shardOf returns the slice's part of the block's shard. Blocks come in
// ascending order, so at moves with them.
func (s *slice) shardOf(block int64) *part {
	for s.shards[s.at].n != block/staging.ShardBlocks {
		s.at++
	}
	return &s.shards[s.at]
}

// record tells whether a block's hash differs from the base's, and notes it.
func (s *slice) record(block int64, sum staging.Hash) bool {
	if s.shardOf(block).shard.hashes[block%staging.ShardBlocks] == sum {
		return false
	}
	if s.found == nil {
		s.found = s.foundRoom[:0]
	}
	s.found = append(s.found, change{block, sum})
	return true
}

// block takes a block that was read from the source; raw is nil for zeros.
func (mv *move) block(s *slice, block int64, raw []byte) error {
	var sum staging.Hash
	if raw != nil {
		sum = staging.HashBlock(raw)
	}
	if !s.record(block, sum) {
		return nil
	}
	if sum.IsZero() || !s.compressed {
		return s.writer.Add(block, sum, raw)
	}
	encoders := mv.mover.compressor.encoders
	encoders <- struct{}{}
	defer func() { <-encoders }()
	began := time.Now()
	err := s.writer.Add(block, sum, raw)
	s.encoding += time.Since(began)
	s.encoded += staging.BlockSize
	return err
}

// work gives the slice memory to work in, which must be given back.
func (mv *move) work(s *slice, slab *slab) {
	s.slab, s.compressed = slab, mv.mover.compressor.choose(mv.Compression)
	s.writer, s.encoding, s.encoded = slab.segment(s.compressed), 0, 0
	mv.progress.Compressing.Store(s.compressed)
}

func (mv *move) giveBack(s *slice) {
	mv.mover.pool.put(mv.plan.SegmentBlocks, s.slab)
	s.slab, s.writer = nil, nil
}

func (mv *move) segmentID(n int64) staging.SegmentID {
	return staging.SegmentID{Plan: mv.planSum, N: n}
}

// store writes the slice's segment, where it has one. bandwidth.ErrShut says
// that it must not be sent now; the slice is then to be read again.
func (mv *move) store(ctx context.Context, s *slice) error {
	mv.mover.compressor.encoded(s.encoded, s.encoding)
	p := s.writer.Bytes(mv.segmentID(s.n))
	if p == nil {
		return nil
	}
	began := mv.mover.compressor.sending(s.compressed)
	err := mv.gate.putOnce(ctx, mv.plan.Place().Segment(s.n), p)
	mv.mover.compressor.sent(began, int64(len(p)), s.compressed, err == nil)
	if err != nil {
		return fmt.Errorf("store segment %d: %w", s.n, err)
	}
	mv.progress.Stored.Add(int64(len(p)))
	for _, c := range s.found {
		if !c.sum.IsZero() {
			mv.progress.Sent.Add(staging.BlockSize)
		}
	}
	mv.segments.add(s.n)
	return nil
}

// finish hands over the hashes of a slice that is in staging.
func (mv *move) finish(ctx context.Context, s *slice) error {
	s.at = 0
	for _, c := range s.found {
		p := s.shardOf(c.block)
		p.shard.hashes[c.block%staging.ShardBlocks], p.changed = c.sum, true
	}
	mv.progress.Changed.Add(int64(len(s.found)) * staging.BlockSize)
	for _, p := range s.shards {
		if err := mv.blocks.finish(ctx, p.n, p.blocks, p.changed); err != nil {
			return err
		}
	}
	mv.progress.Done.Add(s.size(mv.plan.Disk.Size))
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
	for _, e := range entries {
		s.record(e.Block, e.Sum)
	}
	mv.segments.add(s.n)
	mv.progress.Resumed.Add(s.size(mv.plan.Disk.Size))
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

// readSlice brings one slice from the source into staging, for disks with
// random access. It waits for the timetable before it takes memory, and lets
// that go when the timetable shuts.
func (mv *move) readSlice(ctx context.Context, s *slice) error {
	for {
		if err := mv.gate.open(ctx); err != nil {
			return err
		}
		err := mv.tryRead(ctx, s)
		if err == nil {
			return mv.finish(ctx, s)
		}
		if !errors.Is(err, bandwidth.ErrShut) {
			return err
		}
		s.restart()
	}
}

func (mv *move) tryRead(ctx context.Context, s *slice) error {
	slab, err := mv.mover.pool.take(ctx, mv.plan.SegmentBlocks)
	if err != nil {
		return err
	}
	mv.work(s, slab)
	defer mv.giveBack(s)
	asm := assembler{size: mv.plan.Disk.Size, scratch: slab.block, block: func(n int64, raw []byte) error {
		return mv.block(s, n, raw)
	}}
	if err := mv.read(ctx, extents(s.ranges, mv.plan.Disk.Size), &asm); err != nil {
		return err
	}
	return mv.store(ctx, s)
}

// read has the source emit extents into asm.
func (mv *move) read(ctx context.Context, in []hypervisor.Extent, asm *assembler) error {
	asm.begin(in)
	return mv.readError(mv.Disk.Read(ctx, in, func(off int64, p []byte, n int64) error {
		mv.count(p, n)
		return asm.emit(off, p, n)
	}), asm)
}

// count notes what a source emits.
func (mv *move) count(p []byte, n int64) {
	if p != nil {
		n = int64(len(p))
	}
	mv.progress.Read.Add(n)
}

// readError makes the error of a Read that ended with err.
func (mv *move) readError(err error, asm *assembler) error {
	if err == nil {
		err = asm.end()
	}
	if err != nil {
		return fmt.Errorf("read disk %s: %w", mv.facts.Disk.Name, err)
	}
	return nil
}
