package vsphere_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"skylift/hypervisor"
	"skylift/internal/simulator/vcenter"
)

// BenchmarkRead reads a frozen disk of random bytes from the simulated
// vCenter over TLS, so many Reads at a time, each of one segment (8 MiB) as
// the pipeline asks for them. Both ends share the machine's processors.
func BenchmarkRead(b *testing.B) {
	const segment, total = 16 * hypervisor.BlockSize, 256 << 20
	p := newPlatform(b)
	id := p.add(b, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{
		{Content: vcenter.Generated(vcenter.Pattern{Seed: 1, Random: 100}, total)},
	}})
	s, _ := p.source(b, p.config())
	refs, err := s.Snapshot(b.Context(), "bench", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	must(b, err)
	sn, err := s.Open(b.Context(), refs[0])
	must(b, err)
	disk := sn.Disks()[0]
	for _, readers := range []int{1, 2, 4, 8, 16} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			b.SetBytes(total)
			b.ReportAllocs()
			for b.Loop() {
				segments := make(chan int64, total/segment)
				for off := int64(0); off < total; off += segment {
					segments <- off
				}
				close(segments)
				var all sync.WaitGroup
				for range readers {
					all.Go(func() {
						for off := range segments {
							if err := disk.Read(context.Background(), []hypervisor.Extent{{Offset: off, Length: segment}}, func(int64, []byte, int64) error { return nil }); err != nil {
								b.Error(err)
							}
						}
					})
				}
				all.Wait()
			}
		})
	}
}
