package vsphere

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/internal/problem"
)

// scattered is a layout of grains that lie anywhere in a file.
type scattered struct {
	size, grain int64
	at          []int64 // of each grain; -1: zero, -2: the parent's
	err         error
}

func (s *scattered) Size() int64 { return s.size }

func (s *scattered) Pieces(_ context.Context, off, length int64, emit func(vdisk.Piece) error) error {
	if s.err != nil {
		return s.err
	}
	for end := off + length; off < end; {
		number := off / s.grain
		p := vdisk.Piece{Offset: off, Length: min(end, (number+1)*s.grain) - off, Kind: vdisk.Data}
		switch at := s.at[number]; at {
		case -1:
			p.Kind = vdisk.Zero
		case -2:
			p.Kind = vdisk.Parent
		default:
			p.At = at + off - number*s.grain
		}
		if err := emit(p); err != nil {
			return err
		}
		off += p.Length
	}
	return nil
}

// shuffled makes a layout, and the file's content, whose grains are of the
// parent, zero, or in the file in any order, alone or in runs.
func shuffled(random *rand.Rand, size, grain int64, runs bool) (*scattered, []byte) {
	n := int((size + grain - 1) / grain)
	s := &scattered{size: size, grain: grain, at: make([]int64, n)}
	places := random.Perm(n)
	if runs {
		for i := range places {
			places[i] = i
		}
	}
	kind := 0
	for i := range s.at {
		if !runs || i == 0 || random.IntN(1000) == 0 {
			kind = random.IntN(3)
		}
		switch kind {
		case 0:
			s.at[i] = -2
		case 1:
			s.at[i] = -1
		default:
			s.at[i] = 4096 + int64(places[i])*grain
		}
	}
	return s, otherBytes(random, 4096+int64(n)*grain)
}

// otherBytes are never the same twice.
func otherBytes(random *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}).Read(p)
	return p
}

// chained is a disk of such layouts and files behind it.
func chained(t testing.TB, f *folder, limits Limits, size int64, layouts []vdisk.Layout, files [][]byte) (*disk, []byte) {
	d := frozenDisk(t, f, limits)
	f.files = map[string][]byte{}
	w := d.way.(*chainWay)
	var links, truth []vdisk.Link
	original := *w.files[0]
	w.files, w.whole = nil, false
	for i, content := range files {
		name := fmt.Sprintf("web/file-%d.vmdk", i)
		f.files["/folder/"+name] = content
		u := *original.url
		u.Path = "/folder/" + name
		file := original
		file.name, file.url, file.size = name, &u, int64(len(content))
		w.files = append(w.files, &file)
		links = append(links, vdisk.Link{Layout: layouts[i], File: &file})
		truth = append(truth, vdisk.Link{Layout: layouts[i], File: vdisk.FileOf(bytes.NewReader(content), int64(len(content)))})
	}
	var err error
	w.chain, err = vdisk.NewChain(size, links...)
	must(t, err)
	d.size = size
	whole, err := vdisk.NewChain(size, truth...)
	must(t, err)
	want := make([]byte, size)
	must(t, whole.ReadAt(t.Context(), want, 0))
	return d, want
}

// readChain collects what Read emits: whole blocks, and zeros of any length.
func readChain(ctx context.Context, d *disk, in ...hypervisor.Extent) ([]byte, error) {
	var got []byte
	err := d.Read(ctx, in, func(off int64, p []byte, n int64) error {
		switch {
		case off%block != 0, off+n != d.size && n%block != 0, p != nil && int64(len(p)) != n, p != nil && n > block:
			return fmt.Errorf("%d bytes at %d are no blocks", n, off)
		case p == nil:
			p = make([]byte, n)
		}
		got = append(got, p...)
		return nil
	})
	return got, err
}

func TestScatteredBytesAreReadWhereverTheyLie(t *testing.T) {
	for _, c := range []struct {
		name         string
		grain        int64
		runs         bool
		size, parent int64
	}{
		{"grains of 4 KiB in any order", 4096, false, 12*block + 512, 12*block + 512},
		{"more sectors in any order than a plan holds", 512, false, 9*block + 512, 9*block + 512},
		{"long runs", 4096, true, 50*block + 1024, 50*block + 1024},
		{"grains of 64 KiB", 65536, false, 20 * block, 20 * block},
		{"a parent that ends before its child", 4096, false, 12*block + 512, 5*block + 1536},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(3, uint64(c.grain)))
				child, top := shuffled(random, c.size, c.grain, c.runs)
				middle, second := shuffled(random, c.parent, c.grain, c.runs)
				base := otherBytes(random, 4096+c.parent)
				f := &folder{}
				d, want := chained(t, f, Limits{}, c.size, []vdisk.Layout{child, middle, vdisk.Flat(c.parent, 4096)}, [][]byte{top, second, base})
				got, err := readChain(t.Context(), d, hypervisor.Extent{Length: c.size})
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("other bytes were read: %v", err)
				}
				first, last := random.Int64N(2), c.size/block*block
				if c.size == last {
					last -= block
				}
				got, err = readChain(t.Context(), d, hypervisor.Extent{Offset: first * block, Length: block}, hypervisor.Extent{Offset: last, Length: c.size - last})
				if err != nil || !bytes.Equal(got, append(want[first*block:(first+1)*block:(first+1)*block], want[last:]...)) {
					t.Errorf("other bytes were read of two blocks: %v", err)
				}
			})
		})
	}
}

// TestPiecesMayShareBytes has grains at the same place of the file.
func TestPiecesMayShareBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scattered{size: block, grain: 4096, at: make([]int64, block/4096)}
		for i := range s.at {
			s.at[i] = int64(i%3) * 2048
		}
		d, want := chained(t, &folder{}, Limits{}, block, []vdisk.Layout{s}, [][]byte{randomBytes(16 << 10)})
		got, err := readChain(t.Context(), d, hypervisor.Extent{Length: block})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("other bytes were read: %v", err)
		}
	})
}

func TestScatteredBytesAreAskedForTogether(t *testing.T) {
	const size = 8 * block
	at := func(every, gap int64) *scattered {
		s := &scattered{size: size, grain: 4096, at: make([]int64, size/4096)}
		for i := range s.at {
			s.at[i] = -2
			if int64(i)%every == 0 {
				s.at[i] = int64(i) / every * (4096 + gap)
			}
		}
		return s
	}
	for _, c := range []struct {
		name   string
		layout *scattered
		want   int // requests for the delta, and for the base below it
		base   int
	}{
		{"neighbors", at(16, 0), 2, 2},
		{"small gaps", at(16, 32<<10), 2, 2},
		{"large gaps", at(256, 128<<10), 4, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &folder{}
				d, want := chained(t, f, Limits{}, size, []vdisk.Layout{c.layout, vdisk.Flat(size, 0)}, [][]byte{randomBytes(16 << 20), randomBytes(size)})
				got, err := readChain(t.Context(), d, hypervisor.Extent{Length: size})
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("other bytes were read: %v", err)
				}
				delta, base := 0, 0
				for _, p := range f.paths {
					if strings.HasSuffix(p, "file-0.vmdk") {
						delta++
					} else {
						base++
					}
				}
				if delta != c.want || base != c.base {
					t.Errorf("asked the delta %d times and the base %d times, want %d and %d", delta, base, c.want, c.base)
				}
			})
		})
	}
}

// TestABrokenAnswerIsScatteredFromWhereItBroke has each answer end early.
func TestABrokenAnswerIsScatteredFromWhereItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(5, 5))
		child, top := shuffled(random, 8*block, 4096, false)
		f := &folder{}
		d, want := chained(t, f, Limits{}, 8*block, []vdisk.Layout{child, vdisk.Flat(8*block, 0)}, [][]byte{top, randomBytes(8 * block)})
		f.odd = func(n int, w http.ResponseWriter, r *http.Request) bool {
			var from, to int
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
			content := f.files[r.URL.Path]
			const most = block/2 + 777
			if to-from < most {
				return false
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(content)))
			w.Header().Set("Content-Length", strconv.Itoa(to-from+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(content[from : from+most])
			panic(http.ErrAbortHandler)
		}
		got, err := readChain(t.Context(), d, hypervisor.Extent{Length: 8 * block})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("other bytes were read: %v", err)
		}
	})
}

func TestABrokenChainIsNoDisk(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(d *disk, f *folder, child *scattered)
		want  *problem.Kind
	}{
		{"a file that vanished", func(_ *disk, f *folder, _ *scattered) { delete(f.files, "/folder/web/file-0.vmdk") }, hypervisor.SnapshotGone},
		{"a file that grew", func(_ *disk, f *folder, _ *scattered) {
			f.files["/folder/web/file-0.vmdk"] = append(f.files["/folder/web/file-0.vmdk"], 0)
		}, hypervisor.SnapshotGone},
		{"tables that make no sense", func(_ *disk, _ *folder, child *scattered) { child.err = errors.New("grain 7 lies behind the end") }, DiskUnreadable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				child, top := shuffled(rand.New(rand.NewPCG(5, 5)), 2*block, 4096, false)
				f := &folder{}
				d, _ := chained(t, f, Limits{}, 2*block, []vdisk.Layout{child, vdisk.Flat(2*block, 0)}, [][]byte{top, randomBytes(2 * block)})
				c.spoil(d, f, child)
				if _, err := readChain(t.Context(), d, hypervisor.Extent{Length: 2 * block}); !problem.Has(err, c.want) {
					t.Errorf("got %v, want %s", err, c.want.Code)
				}
			})
		})
	}
}

// TestTablesSpendFromTheReadsBudget has a file's tables fail for good: the
// attempts are the read's, not so many for each table.
func TestTablesSpendFromTheReadsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &folder{content: randomBytes(4096)}
		f.odd = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "out of HTTP sessions", http.StatusServiceUnavailable)
			return true
		}
		file := frozenDisk(t, f, Limits{}).way.(*chainWay).files[0]
		b := newBudget(readTries, readLimit)
		b.left -= 5
		err := file.ReadAt(withBudget(t.Context(), b), make([]byte, 512), 0)
		if !problem.Has(err, ReadFailed) || len(f.asked()) != readTries-5 {
			t.Errorf("after %d requests: %v", len(f.asked()), err)
		}
	})
}

func TestScatteredBytesAreReadWithoutAllocationPerBlock(t *testing.T) {
	child, content := shuffled(rand.New(rand.NewPCG(5, 5)), 32*block, 4096, true)
	chain, err := vdisk.NewChain(32*block, vdisk.Link{Layout: child, File: vdisk.FileOf(bytes.NewReader(content), int64(len(content)))})
	must(t, err)
	p := &plan{window: make([]byte, windowSize)}
	all := hypervisor.Extent{Length: 32 * block}
	must(t, p.make(t.Context(), chain, all)) // grows to its size
	ctx := t.Context()
	if n := testing.AllocsPerRun(5, func() { must(t, p.make(ctx, chain, all)) }); n > 8 {
		t.Errorf("%v allocations for a plan of 32 blocks", n)
	}
}
