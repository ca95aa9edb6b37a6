package bucket

import (
	"strconv"
	"sync/atomic"
	"testing"
)

// BenchmarkPut stores segments of 8 MiB in parallel. The server's share of the
// machine is in the time, its memory is not in the allocations.
func BenchmarkPut(b *testing.B) {
	s := store(b, server(b).AWS())
	p := random(8 << 20)
	var n atomic.Int64
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Put(b.Context(), "segment-"+strconv.FormatInt(n.Add(1)%16, 10), p); err != nil {
				b.Error(err)
			}
		}
	})
}
