package transfer

import (
	"context"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"skylift/staging"
)

// slab is what one slice works with: a segment in the making, and a block
// that is assembled from smaller pieces.
type slab struct {
	plain, packed *staging.SegmentWriter // over one buffer; a slice uses one of them
	block         []byte
	size          int64
}

// segment returns the slab's writer, empty.
func (s *slab) segment(compress bool) *staging.SegmentWriter {
	w := s.plain
	if compress {
		w = s.packed
	}
	w.Reset()
	return w
}

// pool hands out slabs within a bound on the memory of all of them.
type pool struct {
	limit   int64
	memory  *semaphore.Weighted
	line    chan struct{} // has a place for one who waits with patience
	encoder *zstd.Encoder

	mu   sync.Mutex
	free map[int][]*slab // by blocks per segment
	idle int64           // bytes of all free slabs
	used int64           // bytes of all slabs handed out
}

// newPool makes a pool of limit bytes, or of one large slab where that is more.
func newPool(limit int64, encoder *zstd.Encoder) *pool {
	limit = max(limit, slabSize(staging.LargeSegmentBlocks))
	return &pool{limit: limit, memory: semaphore.NewWeighted(limit), line: make(chan struct{}, 1), encoder: encoder, free: map[int][]*slab{}}
}

func slabSize(blocks int) int64 { return int64(staging.SegmentBuffer(blocks)) + staging.BlockSize }

// take waits for a slab for segments of n blocks; put gives it back.
func (p *pool) take(ctx context.Context, n int) (*slab, error) {
	select {
	case p.line <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-p.line }()
	return p.takeFirst(ctx, n)
}

// takeFirst is take for those whose source does not wait for long: of all who
// are patient, at most one comes before them.
func (p *pool) takeFirst(ctx context.Context, n int) (*slab, error) {
	size := slabSize(n)
	if err := p.memory.Acquire(ctx, size); err != nil {
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used += size
	if free := p.free[n]; len(free) > 0 {
		s := free[len(free)-1]
		p.free[n] = free[:len(free)-1]
		p.idle -= size
		return s, nil
	}
	// Free slabs of the other size make room for a new one.
	if p.used+p.idle > p.limit {
		clear(p.free)
		p.idle = 0
	}
	buffer := make([]byte, staging.SegmentBuffer(n))
	return &slab{
		plain:  staging.NewSegmentWriter(n, nil, buffer),
		packed: staging.NewSegmentWriter(n, p.encoder, buffer),
		block:  make([]byte, staging.BlockSize),
		size:   size,
	}, nil
}

func (p *pool) put(n int, s *slab) {
	p.mu.Lock()
	p.free[n] = append(p.free[n], s)
	p.used -= s.size
	p.idle += s.size
	p.mu.Unlock()
	p.memory.Release(s.size)
}
