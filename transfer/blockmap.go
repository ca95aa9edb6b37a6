package transfer

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"skylift/staging"
)

// blockMap makes the run's block map from the base's and from what slices
// find. Only the shards that slices are working on are in memory.
type blockMap struct {
	store staging.Store
	plan  *staging.Plan
	base  *staging.Manifest // nil without a base
	count func(stored int64)

	mu   sync.Mutex
	open map[int64]*shard
	idle []*shard // to be used again
	done []finished
}

// finished is a shard of the run's map; holder is the run that keeps it.
type finished struct {
	n      int64
	sum    staging.Hash
	holder string
}

type shard struct {
	hashes  staging.Shard // the base's, overwritten block by block
	left    int64         // blocks of the plan that no slice has finished
	changed bool

	load   sync.Mutex
	loaded bool
}

func newBlockMap(store staging.Store, plan *staging.Plan, base *staging.Manifest, count func(int64)) *blockMap {
	return &blockMap{store: store, plan: plan, base: base, count: count, open: map[int64]*shard{}}
}

// shard returns the open shard n with the base's hashes loaded.
func (m *blockMap) shard(ctx context.Context, n int64) (*shard, error) {
	m.mu.Lock()
	s, ok := m.open[n]
	if !ok {
		s = m.fresh()
		s.left = m.planned(n)
		m.open[n] = s
	}
	m.mu.Unlock()
	s.load.Lock()
	defer s.load.Unlock()
	if !s.loaded {
		if err := readBase(ctx, m.store, m.base, n, &s.hashes); err != nil {
			return nil, err
		}
		s.loaded = true
	}
	return s, nil
}

// fresh is called with mu held.
func (m *blockMap) fresh() *shard {
	if k := len(m.idle); k > 0 {
		s := m.idle[k-1]
		m.idle = m.idle[:k-1]
		s.loaded, s.changed = false, false
		return s
	}
	return new(shard)
}

// readBase reads the base's shard n; without a base all blocks are zero.
func readBase(ctx context.Context, store staging.Store, base *staging.Manifest, n int64, dst *staging.Shard) error {
	if base == nil {
		clear(dst[:])
		return nil
	}
	return base.ReadShard(ctx, store, n, dst)
}

// planned counts the plan's blocks in shard n.
func (m *blockMap) planned(n int64) (blocks int64) {
	first, end := n*staging.ShardBlocks, (n+1)*staging.ShardBlocks
	ranges := m.plan.Ranges
	i := sort.Search(len(ranges), func(i int) bool { return ranges[i].First+ranges[i].Count > first })
	for ; i < len(ranges) && ranges[i].First < end; i++ {
		blocks += min(ranges[i].First+ranges[i].Count, end) - max(ranges[i].First, first)
	}
	return blocks
}

// finish says that a slice is done with blocks of shard n, of which some
// changed or none. The last one to be finished stores the shard.
func (m *blockMap) finish(ctx context.Context, n, blocks int64, changed bool) error {
	m.mu.Lock()
	s := m.open[n]
	s.left -= blocks
	s.changed = s.changed || changed
	left := s.left
	if left == 0 {
		delete(m.open, n)
	}
	m.mu.Unlock()
	if left < 0 {
		return fmt.Errorf("shard %d of the block map was finished twice", n)
	}
	if left > 0 {
		return nil
	}
	return m.close(ctx, n, s)
}

func (m *blockMap) close(ctx context.Context, n int64, s *shard) error {
	f := finished{n: n, holder: m.plan.Run}
	if s.changed {
		f.sum = s.hashes.Sum()
	} else if ref, ok := m.baseShard(n); ok {
		f.sum, f.holder = ref.Sum, m.base.Holder(ref)
	}
	if s.changed && !f.sum.IsZero() {
		p := s.hashes.Encode(n)
		if err := m.store.Put(ctx, m.plan.Place().Map(n, f.sum), p); err != nil {
			return fmt.Errorf("store shard %d of the block map: %w", n, err)
		}
		m.count(int64(len(p)))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = append(m.done, f)
	m.idle = append(m.idle, s)
	return nil
}

func (m *blockMap) baseShard(n int64) (staging.ShardRef, bool) {
	if m.base == nil {
		return staging.ShardRef{}, false
	}
	return m.base.Shard(n)
}

// fill writes all shards into the manifest: those that slices finished, and
// the base's where the plan has no block.
func (m *blockMap) fill(manifest *staging.Manifest) error {
	if len(m.open) > 0 {
		return fmt.Errorf("%d shards of the block map are unfinished", len(m.open))
	}
	sort.Slice(m.done, func(i, j int) bool { return m.done[i].n < m.done[j].n })
	var base []staging.ShardRef
	if m.base != nil {
		base = m.base.Shards
	}
	for _, f := range m.done {
		for ; len(base) > 0 && base[0].N < f.n; base = base[1:] {
			manifest.AddShard(base[0].N, base[0].Sum, m.base.Holder(base[0]))
		}
		if len(base) > 0 && base[0].N == f.n {
			base = base[1:]
		}
		manifest.AddShard(f.n, f.sum, f.holder)
	}
	for _, ref := range base {
		manifest.AddShard(ref.N, ref.Sum, m.base.Holder(ref))
	}
	return nil
}
