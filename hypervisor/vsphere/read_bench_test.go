package vsphere_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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
	benchmarkReads(b, open(b, s, snapshot(b, s, "bench", id, hypervisor.QuiesceNever)).Disks()[0], total, segment)
}

// BenchmarkReadChain reads the same disk after somebody else's snapshot and
// writes of 4 KiB all over it: for each 64 KiB of the flat file there is one
// grain of the SEsparse delta above, in the order of writing.
func BenchmarkReadChain(b *testing.B) {
	const segment, total = 16 * hypervisor.BlockSize, 256 << 20
	p := newPlatform(b)
	id := p.add(b, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{
		{Content: vcenter.Generated(vcenter.Pattern{Seed: 1, Random: 100}, total)},
	}})
	p.TakeForeign(b, id, "before the upgrade")
	random := rand.New(rand.NewPCG(1, 1))
	grain := make([]byte, 4096)
	for _, n := range random.Perm(total / (128 << 10)) { // the simulator's deltas hold 64 KiB at least
		for i := range grain {
			grain[i] = byte(random.Uint32())
		}
		p.Write(b, id, 0, int64(n)*(128<<10), grain)
	}
	s, _ := p.source(b, p.config())
	benchmarkReads(b, open(b, s, snapshot(b, s, "bench", id, hypervisor.QuiesceNever)).Disks()[0], total, segment)
}

func benchmarkReads(b *testing.B, disk hypervisor.Disk, total, segment int64) {
	b.Log(disk.Info().Why)
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
