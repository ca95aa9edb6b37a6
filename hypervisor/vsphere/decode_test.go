package vsphere

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/internal/need"
)

// exported is a disk with holes and its stream, made by qemu-img. Its size is
// no multiple of a block, nor of a grain.
func exported(t testing.TB, blocks int) (disk, stream []byte) {
	t.Helper()
	disk = make([]byte, blocks*block+5*512)
	random := rand.New(rand.NewPCG(1, 2))
	for off := 0; off < len(disk); off += 64 << 10 {
		grain := disk[off:min(len(disk), off+64<<10)]
		switch random.IntN(4) {
		case 0: // stays zero
		case 1:
			for i := range grain {
				grain[i] = "etaoin shrdlucmf"[random.IntN(16)]
			}
		default:
			for i := range grain {
				grain[i] = byte(random.Uint32())
			}
		}
	}
	clear(disk[3*block : 5*block])
	clear(disk[len(disk)-block:])
	return disk, streamOf(t, disk)
}

// streamOf has qemu-img export a disk.
func streamOf(t testing.TB, disk []byte) []byte {
	t.Helper()
	program := need.Program(t, "qemu-img")
	dir := t.TempDir()
	raw, vmdk := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.vmdk")
	if err := os.WriteFile(raw, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	stream, err := os.ReadFile(vmdk)
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimRight(stream, "\x00")) // the file is longer than the stream, which is sectors
	return stream[:(end+511)/512*512]
}

// taker checks what is emitted for extents, and keeps it.
type taker struct {
	in   []hypervisor.Extent
	got  []byte // the disk, as far as it was emitted
	next int64
	i    int
}

func newTaker(size int, in ...hypervisor.Extent) *taker {
	return &taker{in: in, got: bytes.Repeat([]byte{0xaa}, size), next: -1}
}

func (k *taker) take(off int64, p []byte, n int64) error {
	if k.next == -1 || k.next == k.in[k.i].End() {
		if k.next != -1 {
			k.i++
		}
		if k.i == len(k.in) {
			return fmt.Errorf("emitted %d bytes at %d behind the last extent", n, off)
		}
		k.next = k.in[k.i].Offset
	}
	if off != k.next || n <= 0 || p != nil && int64(len(p)) != n || off+n > k.in[k.i].End() {
		return fmt.Errorf("emitted %d bytes at %d, expected those from %d in %v", n, off, k.next, k.in[k.i])
	}
	if p == nil {
		clear(k.got[off : off+n])
	} else {
		copy(k.got[off:], p)
	}
	k.next = off + n
	return nil
}

// check compares what was emitted, which is everything if all is set.
func (k *taker) check(t *testing.T, disk []byte, all bool) {
	t.Helper()
	want := bytes.Repeat([]byte{0xaa}, len(disk))
	for i, e := range k.in {
		end := e.End()
		if !all {
			if i > k.i || k.next == -1 {
				break
			} else if i == k.i {
				end = k.next
			}
		}
		copy(want[e.Offset:end], disk[e.Offset:end])
	}
	if !bytes.Equal(k.got, want) {
		t.Errorf("other bytes were emitted for %v", k.in)
	}
}

var testBlocks = sync.Pool{New: func() any { return new([hypervisor.BlockSize]byte) }}

// decode runs a decoder over a stream, as far as that is.
func decode(ctx context.Context, r io.Reader, size int, out *extentWriter, interrupt func()) (whole bool, err error) {
	s, err := vdisk.NewStream(r)
	if err != nil {
		return false, err
	}
	d := decoder{stream: s, size: int64(size), out: out, seen: func(int64) {}}
	return d.run(ctx, &testBlocks, interrupt)
}

func TestTheWantedExtentsOfAStreamAreEmitted(t *testing.T) {
	const blocks = 7
	disk, stream := exported(t, blocks)
	size := int64(len(disk))
	type extents = []hypervisor.Extent
	cases := map[string]extents{
		"everything":               {{Length: size}},
		"the beginning":            {{Length: block}},
		"the end":                  {{Offset: blocks * block, Length: size - blocks*block}},
		"zeros":                    {{Offset: 4 * block, Length: block}},
		"zeros and the next block": {{Offset: 3 * block, Length: 3 * block}},
		"scattered":                {{Length: block}, {Offset: 2 * block, Length: 2 * block}, {Offset: 5 * block, Length: block}},
		"touching":                 {{Length: block}, {Offset: block, Length: 3 * block}, {Offset: 4 * block, Length: size - 4*block}},
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which finds goroutines that are left
				k := newTaker(len(disk), in...)
				out := &extentWriter{cursor: cursor{rest: in}, emit: k.take}
				whole, err := decode(t.Context(), bytes.NewReader(stream), len(disk), out, func() {})
				if err != nil || !out.done() {
					t.Errorf("ended with %v, %d extents are left", err, len(out.rest))
				}
				// The whole stream is read only for the disk's last bytes.
				if last := in[len(in)-1].End() == size; last != whole {
					t.Errorf("the stream was read to its end: %v", whole)
				}
				k.check(t, disk, true)
			})
		})
	}
}

// TestAFullDisksStreamIsReadToItsEnd: its tables, which are compared with what
// came, are behind the last grain.
func TestAFullDisksStreamIsReadToItsEnd(t *testing.T) {
	disk := randomBytes(2*block + 512)
	stream := streamOf(t, disk)
	k := newTaker(len(disk), hypervisor.Extent{Length: int64(len(disk))})
	out := &extentWriter{cursor: cursor{rest: k.in}, emit: k.take}
	if whole, err := decode(t.Context(), bytes.NewReader(stream), len(disk), out, func() {}); err != nil || !whole {
		t.Errorf("ended with %v, whole is %v", err, whole)
	}
	k.check(t, disk, true)
}

func TestABrokenStreamIsResumedWithoutDamage(t *testing.T) {
	disk, stream := exported(t, 6)
	in := []hypervisor.Extent{{Length: 2 * block}, {Offset: 3 * block, Length: int64(len(disk)) - 3*block}}
	for cut := 1; cut < len(stream)-512; cut += len(stream) / 29 {
		synctest.Test(t, func(t *testing.T) {
			k := newTaker(len(disk), in...)
			out := &extentWriter{cursor: cursor{rest: in}, emit: k.take}
			if _, err := decode(t.Context(), bytes.NewReader(stream[:cut]), len(disk), out, func() {}); err == nil {
				t.Errorf("the first %d of %d bytes were taken for a whole disk", cut, len(stream))
			}
			k.check(t, disk, false)
			if _, err := decode(t.Context(), bytes.NewReader(stream), len(disk), out, func() {}); err != nil {
				t.Errorf("once more after %d bytes: %v", cut, err)
			}
			k.check(t, disk, true)
		})
	}
}

func TestDamagedGrainsAreFoundWhereTheyAreWanted(t *testing.T) {
	disk, stream := exported(t, 8)
	// Of random bytes a compressed grain is a stored copy: any of its bytes
	// can be found in the stream again.
	at := -1
	for g := 0; g < 8 && at < 0; g++ { // a grain of the first block
		if at = bytes.Index(stream, disk[g*64<<10+1000:g*64<<10+1100]); disk[g*64<<10+1000] == 0 {
			at = -1
		}
	}
	if at < 0 {
		t.Fatal("no grain was found in the stream")
	}
	damaged := bytes.Clone(stream)
	damaged[at+50] ^= 1
	for name, c := range map[string]struct {
		in    hypervisor.Extent
		finds bool
	}{
		"the damaged block": {hypervisor.Extent{Length: block}, true},
		"other blocks":      {hypervisor.Extent{Offset: block, Length: 6 * block}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newTaker(len(disk), c.in)
				out := &extentWriter{cursor: cursor{rest: k.in}, emit: k.take}
				_, err := decode(t.Context(), bytes.NewReader(damaged), len(disk), out, func() {})
				if (err != nil) != c.finds {
					t.Errorf("ended with %v", err)
				}
				k.check(t, disk, !c.finds)
			})
		})
	}
}

func TestDecodingEndsWithItsReceiverOrItsContext(t *testing.T) {
	disk, stream := exported(t, 8)
	enough := errors.New("enough")
	for name, c := range map[string]struct {
		stop func(cancel func()) error
		want error
	}{
		"the receiver errs": {func(func()) error { return enough }, enough},
		"it is canceled":    {func(cancel func()) error { cancel(); return nil }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				// The stream dries up, so that the end must not wait for it.
				from, to := io.Pipe()
				go func() { _, _ = to.Write(stream[:len(stream)*3/4]) }()
				defer to.Close()
				emitted := 0
				out := &extentWriter{cursor: cursor{rest: []hypervisor.Extent{{Length: int64(len(disk))}}}, emit: func(int64, []byte, int64) error {
					emitted++
					return c.stop(cancel)
				}}
				_, err := decode(ctx, from, len(disk), out, func() { _ = from.Close() })
				if stopped := (*emitError)(nil); errors.As(err, &stopped) {
					err = stopped.err
				}
				if !errors.Is(err, c.want) || emitted != 1 {
					t.Errorf("ended with %v after %d calls", err, emitted)
				}
			})
		})
	}
}

// TestDecodingDoesNotAllocateForEachBlock compares disks of different sizes.
func TestDecodingDoesNotAllocateForEachBlock(t *testing.T) {
	cost := func(blocks int) float64 {
		disk, stream := exported(t, blocks)
		in := []hypervisor.Extent{{Length: int64(len(disk))}}
		return testing.AllocsPerRun(3, func() {
			out := &extentWriter{cursor: cursor{rest: slices.Clone(in)}, emit: func(int64, []byte, int64) error { return nil }}
			if _, err := decode(t.Context(), bytes.NewReader(stream), len(disk), out, func() {}); err != nil {
				t.Error(err)
			}
		})
	}
	if few, many := cost(8), cost(32); many-few > 16 {
		t.Errorf("8 blocks take %v allocations, 32 take %v", few, many)
	}
}

// BenchmarkDecode decodes a stream that is there already, with grains that are zero,
// of letters and random, next to inflating its grains one after the other.
func BenchmarkDecode(b *testing.B) {
	disk, stream := exported(b, 128)
	b.Run("blocks in order", func(b *testing.B) {
		b.SetBytes(int64(len(disk)))
		b.ReportAllocs()
		for b.Loop() {
			out := &extentWriter{cursor: cursor{rest: []hypervisor.Extent{{Length: int64(len(disk))}}}, emit: func(int64, []byte, int64) error { return nil }}
			if _, err := decode(b.Context(), bytes.NewReader(stream), len(disk), out, func() {}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("inflating alone", func(b *testing.B) {
		b.SetBytes(int64(len(disk)))
		for b.Loop() {
			s, err := vdisk.NewStream(bytes.NewReader(stream))
			if err != nil {
				b.Fatal(err)
			}
			for {
				if _, _, err := s.Next(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Grain(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
