package vcenter

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmware/govmomi/object"
)

// BenchmarkReadingAFrozenFile asks for ranges over TLS, as a transfer does; the
// client's half of the work is part of the figure.
func BenchmarkReadingAFrozenFile(b *testing.B) {
	const size, part = 1 << 30, 4 * mib
	for _, content := range []struct {
		name string
		c    Content
	}{
		{"zeros", Memory()},
		{"generated", Generated(Pattern{Seed: 1, Random: 50, Text: 50}, size)},
	} {
		for _, parallel := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s, %d at a time", content.name, parallel), func(b *testing.B) {
				s := start(b, one(DiskSpec{Size: size, Content: content.c}))
				snapshotNow(b, login(b, s), s.VM("web"), "s")
				u := object.NewDatastoreURL(*s.URL, "DC0", "datastore1", "web/web-flat.vmdk").String()
				transport := soapClient(b, s).DefaultTransport()
				transport.MaxIdleConnsPerHost = parallel
				transport.ReadBufferSize, transport.WriteBufferSize = 256<<10, 64<<10
				client := http.Client{Transport: transport}
				defer client.CloseIdleConnections()
				b.SetBytes(part)
				b.ResetTimer()
				var next atomic.Int64
				var wg sync.WaitGroup
				for range parallel {
					wg.Go(func() {
						for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
							at := (n * part) % size
							r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, u, nil)
							if err != nil {
								b.Error(err)
								return
							}
							r.SetBasicAuth(s.User, s.Password)
							r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+part-1))
							res, err := client.Do(r)
							if err != nil {
								b.Error(err)
								return
							}
							got, err := io.Copy(io.Discard, res.Body)
							if got != part || err != nil || res.Body.Close() != nil {
								b.Errorf("%d bytes, %v", got, err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkReadingDiskContent is what the contents themselves give.
func BenchmarkReadingDiskContent(b *testing.B) {
	const size = 1 << 30
	for name, c := range map[string]Content{
		"random": Generated(Pattern{Seed: 1, Random: 100}, size),
		"text":   Generated(Pattern{Seed: 1, Text: 100}, size),
		"zeros":  Memory(),
	} {
		b.Run(name, func(b *testing.B) {
			d := start(b, one(DiskSpec{Size: size, Content: c})).VM("web").Disk(0)
			p := make([]byte, mib)
			b.SetBytes(mib)
			for n := 0; b.Loop(); n++ {
				if _, err := d.ReadAt(p, int64(n)*mib%size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAddingTenThousandServers(b *testing.B) {
	for n := 0; b.Loop(); n++ {
		s := start(b, Config{})
		if err := s.AddServers(10_000, ServerSpec{Name: "vm", Disks: []DiskSpec{{Size: 10 << 30}}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListingTenThousandServers(b *testing.B) {
	s := start(b, Config{})
	if err := s.AddServers(10_000, ServerSpec{Name: "vm", Disks: []DiskSpec{{Size: 10 << 30}}}); err != nil {
		b.Fatal(err)
	}
	c := login(b, s)
	for b.Loop() {
		watch(b, c, narrow()).all(b)
	}
}
