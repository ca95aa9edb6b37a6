package transfer

import (
	"math/bits"
	"sync"

	"skylift/staging"
)

// segmentSet is a set of segment numbers; at 2 million segments it takes 256 KiB.
type segmentSet struct {
	mu    sync.Mutex
	words []uint64
}

func newSegmentSet(segments int64) *segmentSet {
	return &segmentSet{words: make([]uint64, (segments+63)/64)}
}

func (s *segmentSet) add(n int64) {
	s.mu.Lock()
	s.words[n/64] |= 1 << (n % 64)
	s.mu.Unlock()
}

func (s *segmentSet) has(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.words[n/64]&(1<<(n%64)) != 0
}

// ranges returns the set as the manifest holds it.
func (s *segmentSet) ranges() (out []staging.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.words {
		for ; w != 0; w &= w - 1 {
			n := int64(i*64 + bits.TrailingZeros64(w))
			if k := len(out); k > 0 && out[k-1].First+out[k-1].Count == n {
				out[k-1].Count++
				continue
			}
			out = append(out, staging.Range{First: n, Count: 1})
		}
	}
	return out
}
