package vsphere_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

// guest is a server whose disk's bytes the test knows.
type guest struct {
	*platform
	id     hypervisor.ServerID
	bytes  []byte
	random *rand.Rand
}

func newGuest(t *testing.T, p *platform, size int) *guest {
	t.Helper()
	id := p.add(t, vcenter.ServerSpec{Name: "web", Host: "esx-1.example.com", ChangeTracking: true, Disks: []vcenter.DiskSpec{{Size: int64(size)}}})
	return &guest{p, id, make([]byte, size), rand.New(rand.NewPCG(1, 2))}
}

// scribble writes in n places: sectors, larger pieces, and zeros.
func (g *guest) scribble(t *testing.T, n int) {
	t.Helper()
	for range n {
		length := 512 << g.random.IntN(9)
		at := g.random.IntN((len(g.bytes)-length)/512+1) * 512
		p := g.bytes[at : at+length]
		clear(p)
		if g.random.IntN(4) > 0 {
			for i := range p {
				p[i] = byte(g.random.Uint32())
			}
		}
		g.Write(t, g.id, 0, int64(at), p)
	}
}

// mustRead reads the extents, which are blocks, and compares.
func mustRead(t *testing.T, d hypervisor.Disk, want []byte, in ...hypervisor.Extent) {
	t.Helper()
	next, left := int64(0), in
	err := d.Read(t.Context(), in, func(off int64, p []byte, n int64) error {
		if len(left) > 0 && off == left[0].Offset {
			next, left = off, left[1:]
		}
		switch {
		case off != next || off%hypervisor.BlockSize != 0:
			return fmt.Errorf("got bytes at %d, want them at %d", off, next)
		case p == nil:
			if len(bytes.Trim(want[off:off+n], "\x00")) > 0 {
				return fmt.Errorf("%d bytes at %d are told to be zero", n, off)
			}
		case int64(len(p)) != n || !bytes.Equal(p, want[off:off+n]):
			return fmt.Errorf("other bytes at %d", off)
		}
		next = off + n
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", d.Info().Why, err)
	}
	if last := in[len(in)-1].End(); err == nil && next != last {
		t.Errorf("read up to %d, want %d", next, last)
	}
}

func TestChainsOfDeltasAreReadWhileTheGuestWrites(t *testing.T) {
	for _, deltas := range []string{vcenter.DeltasSESparse, vcenter.DeltasVMFSSparse} {
		for _, c := range []struct {
			name         string
			below, above int
		}{
			{"a foreign snapshot below", 1, 0},
			{"a foreign snapshot above", 0, 1},
			{"five below and two above", 5, 2},
		} {
			t.Run(deltas+", "+c.name, func(t *testing.T) {
				p := newPlatform(t, func(c *vcenter.Config) {
					c.Datastores = []vcenter.Datastore{{Name: "datastore1", Deltas: deltas}}
				})
				g := newGuest(t, p, 12*hypervisor.BlockSize+1536)
				g.scribble(t, 10)
				for i := range c.below {
					p.TakeForeign(t, g.id, fmt.Sprint("below ", i))
					g.scribble(t, 10)
				}
				s, _ := p.source(t, p.config())
				ref := snapshot(t, s, "r1", g.id, hypervisor.QuiesceNever)
				frozen := bytes.Clone(g.bytes)
				for i := range c.above {
					g.scribble(t, 5)
					p.TakeForeign(t, g.id, fmt.Sprint("above ", i))
				}
				sn := open(t, s, ref)
				d := sn.Disks()[0]
				written := make(chan struct{})
				go func() {
					defer close(written)
					g.scribble(t, 100)
				}()
				size := int64(len(frozen))
				mustRead(t, d, frozen, hypervisor.Extent{Length: size})
				var all sync.WaitGroup
				for i := range int64(8) {
					all.Go(func() {
						last := size / hypervisor.BlockSize * hypervisor.BlockSize
						mustRead(t, d, frozen, hypervisor.Extent{Offset: i * hypervisor.BlockSize, Length: hypervisor.BlockSize},
							hypervisor.Extent{Offset: (i + 2) * hypervisor.BlockSize, Length: 2 * hypervisor.BlockSize},
							hypervisor.Extent{Offset: last, Length: size - last})
					})
				}
				all.Wait()
				<-written
				must(t, sn.Verify(t.Context()))
				must(t, s.Remove(t.Context(), ref))
				if left := p.SnapshotNames(t); len(left) != c.below+c.above {
					t.Errorf("snapshots are %q", left)
				}
			})
		}
	}
}

// TestAChainThatChangesUnderARunIsGone removes the lowest foreign snapshot: the
// delta above it is merged into another file. That is the one that our frozen
// disk begins with, or one further down.
func TestAChainThatChangesUnderARunIsGone(t *testing.T) {
	for _, foreign := range []int{1, 2} {
		t.Run(fmt.Sprint(foreign, " foreign snapshots"), func(t *testing.T) {
			p := newPlatform(t)
			p.refusing = true
			g := newGuest(t, p, 8*hypervisor.BlockSize)
			g.scribble(t, 5)
			for range foreign {
				p.TakeForeign(t, g.id, "before the upgrade")
				g.scribble(t, 5)
			}
			s, _ := p.source(t, p.config())
			sn := open(t, s, snapshot(t, s, "r1", g.id, hypervisor.QuiesceNever))
			d := sn.Disks()[0]
			mustRead(t, d, g.bytes, hypervisor.Extent{Length: int64(len(g.bytes))})
			p.deleteForeign(t, g.id)
			has(t, sn.Verify(t.Context()), hypervisor.SnapshotGone)
			err := d.Read(t.Context(), []hypervisor.Extent{{Length: d.Info().Size}}, func(int64, []byte, int64) error { return nil })
			has(t, err, hypervisor.SnapshotGone)
		})
	}
}

// deleteForeign removes the oldest snapshot of a server.
func (p *platform) deleteForeign(t *testing.T, id hypervisor.ServerID) {
	t.Helper()
	p.DeleteSnapshot(t, hypervisor.SnapshotRef{ID: p.rootSnapshot(t, id)})
}

func TestADiskTellsWhatItSharesWithOthers(t *testing.T) {
	p := newPlatform(t)
	g := newGuest(t, p, size)
	c := p.config()
	c.Limits = vsphere.Limits{HostDisks: 3, DatastoreDisks: 5}
	s, _ := p.source(t, c)
	got := open(t, s, snapshot(t, s, "r1", g.id, hypervisor.QuiesceNever)).Disks()[0].Info().Shares
	want := []hypervisor.Share{{Kind: "host", Name: "esx-1.example.com", Of: "disks read at once", Limit: 3}, {Kind: "datastore", Name: "datastore1", Of: "disks read at once", Limit: 5}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestAStandaloneHostGivesItsFilesItself has no vCenter to ask for tickets.
func TestAStandaloneHostGivesItsFilesItself(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) { c.Standalone = true })
	id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{{Size: size}}})
	g := &guest{p, id, make([]byte, size), rand.New(rand.NewPCG(1, 2))}
	g.scribble(t, 10)
	p.TakeForeign(t, id, "before the upgrade")
	g.scribble(t, 10)
	s, _ := p.source(t, p.config())
	d := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0]
	if why := d.Info().Why; !strings.Contains(why, "2 files on its datastore, one over the other, read from the host") {
		t.Errorf("the reason is %q", why)
	}
	mustRead(t, d, g.bytes, hypervisor.Extent{Length: size})
}
