package try

import (
	"encoding/binary"
	"math/rand/v2"

	"skylift/internal/simulator/vcenter"
)

// scattered is a disk with pieces of random bytes spread evenly over it, which
// costs no time to read under the race detector.
type scattered struct {
	size   int64
	pieces int
	length int64
	random []byte // piece n is what begins at 512 n
}

func newScattered(size int64, pieces int, length int64, seed uint64) *scattered {
	s := &scattered{size, pieces, length, make([]byte, int64(pieces)*512+length)}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(s.random)
	return s
}

func (s *scattered) extent(n int) vcenter.Extent {
	return vcenter.Extent{Offset: s.size / int64(s.pieces) * int64(n) / s.length * s.length, Length: s.length}
}

// Size implements vcenter.Base.
func (s *scattered) Size() int64 { return s.size }

// Allocated implements vcenter.Base.
func (s *scattered) Allocated() (out []vcenter.Extent, err error) {
	for n := range s.pieces {
		e := s.extent(n)
		if k := len(out); k > 0 && out[k-1].End() == e.Offset {
			out[k-1].Length += e.Length
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// ReadAt implements io.ReaderAt.
func (s *scattered) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	end := off + int64(len(p))
	stride := s.size / int64(s.pieces)
	for n := max(0, off/stride-1); n < int64(s.pieces); n++ {
		e := s.extent(int(n))
		if e.Offset >= end {
			break
		}
		from, to := max(e.Offset, off), min(e.End(), end)
		if from >= to {
			continue
		}
		at := n*512 + from - e.Offset
		copy(p[from-off:to-off], s.random[at:at+to-from])
	}
	return len(p), nil
}
