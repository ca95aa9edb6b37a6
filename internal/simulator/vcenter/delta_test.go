package vcenter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/internal/need"
)

// download gets a file, which must be there.
func download(t testing.TB, s *Server, file, rang string) []byte {
	t.Helper()
	status, body, _ := get(t, s, file, rang, nil)
	if status != 200 && status != 206 {
		t.Fatalf("%s: status %d", file, status)
	}
	return body
}

// downloadChain puts a chain's files into a new folder and returns the path of
// the newest's descriptor.
func downloadChain(t testing.TB, s *Server, d *Disk, top *layer) string {
	t.Helper()
	dir := t.TempDir()
	d.v.mu.RLock()
	var files []string
	for l := top; l != nil; l = l.parent {
		files = append(files, l.file, d.dataFile(l))
	}
	d.v.mu.RUnlock()
	for _, file := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), download(t, s, file, ""), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(files[0]))
}

func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// readByQEMU converts a VMDK to raw bytes.
func readByQEMU(t testing.TB, file string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, need.Program(t, "qemu-img"), "convert", "-f", "vmdk", "-O", "raw", file, raw)
	p, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sameBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
		return
	}
	for i := 0; !bytes.Equal(got, want); i++ {
		if got[i] != want[i] {
			t.Errorf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
			return
		}
	}
}

// scribble writes to the disk as guests do, and to its copy.
func scribble(t testing.TB, rnd *rand.Rand, d *Disk, truth []byte) {
	t.Helper()
	for range 20 {
		off := rnd.Int64N(int64(len(truth)))
		n := min(rnd.Int64N(200_000)+1, int64(len(truth))-off)
		p := noise(rnd.Uint64(), int(n))
		switch rnd.IntN(4) {
		case 0: // the end
			off = int64(len(truth)) - n
		case 1: // zeros, some over whole pages
			clear(p)
		case 2:
			p = p[:min(n, 700)]
		}
		put(t, d, off, p)
		copy(truth[off:], p)
	}
}

func TestQEMUReadsWhatTheDeltaChainsHold(t *testing.T) {
	const size = 3*mib + 3*sector
	for _, format := range []string{DeltasSESparse, DeltasVMFSSparse} {
		for name, content := range map[string]Content{
			"an empty disk":               Sparse(),
			"a disk larger than its base": Generated(Pattern{Seed: 4, Random: 60, Text: 20, Run: grain}, 2*mib+700),
		} {
			t.Run(format+" over "+name, func(t *testing.T) {
				cfg := one(DiskSpec{Size: size, Content: content})
				cfg.Datastores = []Datastore{{Name: "datastore1", Deltas: format}}
				s := start(t, cfg)
				c, vm := login(t, s), s.VM("web")
				d := vm.Disk(0)
				truth := make([]byte, size)
				if _, err := d.ReadAt(truth, 0); err != nil {
					t.Fatal(err)
				}
				rnd := rand.New(rand.NewPCG(7, 7))
				frozen := map[types.ManagedObjectReference][]byte{}
				var refs []types.ManagedObjectReference
				for n := range 5 {
					scribble(t, rnd, d, truth)
					ref := snapshotNow(t, c, vm, fmt.Sprint("s", n))
					frozen[ref], refs = bytes.Clone(truth), append(refs, ref)
				}
				scribble(t, rnd, d, truth)
				compare := func(ref types.ManagedObjectReference) {
					t.Helper()
					state, err := vm.stateOf(ref, d)
					if err != nil {
						t.Fatal(err)
					}
					sameBytes(t, "the chain of "+state.top.file, readByQEMU(t, downloadChain(t, s, d, state.top)), frozen[ref])
				}
				compare(refs[4])
				removeSnapshot(t, c, refs[2]) // its bytes move into the next one's file
				compare(refs[4])
				if len(s.Refused()) > 0 {
					t.Error(s.Refused())
				}
			})
		}
	}
}

// stateOf is a disk at a snapshot.
func (vm *VM) stateOf(ref types.ManagedObjectReference, d *Disk) (diskState, error) {
	vm.s.world.RLock()
	defer vm.s.world.RUnlock()
	_, state, err := vm.queried(&ref, d.Key())
	return state, err
}

func TestLargeDisksHaveSEsparseDeltasAndReadersFindTheirWay(t *testing.T) {
	const size = 5<<40 + 512
	cfg := one(DiskSpec{Size: size})
	cfg.Datastores = []Datastore{{Name: "datastore1", Deltas: DeltasVMFSSparse}}
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	snapshotNow(t, c, vm, "base")
	written := map[int64][]byte{
		0: noise(1, 512), 7 << 30: noise(2, 4<<10), 3<<40 + 12345: noise(3, 17*mib), 4 << 40: noise(4, 8192), size - 1000: noise(5, 1000),
	}
	for off, p := range written {
		put(t, d, off, p)
	}
	snapshotNow(t, c, vm, "delta")

	dir := t.TempDir()
	const file = "web/web-000001-sesparse.vmdk"
	sparse, err := os.Create(filepath.Join(dir, filepath.Base(file)))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	head := download(t, s, file, "bytes=0-4095")
	field := func(i int) int64 { return int64(binary.LittleEndian.Uint64(head[8*i:])) }
	tables := int64(binary.LittleEndian.Uint64(head[sector+8:]))
	var total int64
	fetch := func(off, n int64) {
		status, body, h := get(t, s, file, fmt.Sprintf("bytes=%d-%d", off, off+n-1), nil)
		if _, err := fmt.Sscanf(h.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%%d", off, off+int64(len(body))-1), &total); status != 206 || err != nil {
			t.Fatalf("status %d, %v", status, err)
		}
		if _, err := sparse.WriteAt(body, off); err != nil {
			t.Fatal(err)
		}
	}
	fetch(0, 4096)
	fetch(field(16)*sector, field(17)*sector)
	fetch(field(18)*sector, tables*seSparseTable)
	fetch(field(24)*sector, total-field(24)*sector)
	if tables != 7 { // two writes reach over the ends of theirs
		t.Errorf("%d grain tables are in use, want 7", tables)
	}
	if err := sparse.Truncate(total); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web/web-000001.vmdk", "web/web.vmdk"} {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), download(t, s, name, ""), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flat := filepath.Join(dir, "web-flat.vmdk")
	if err := os.WriteFile(flat, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(flat, size); err != nil {
		t.Fatal(err)
	}
	qemu := need.Program(t, "qemu-img")
	for off, p := range written {
		first := off / sector
		part := filepath.Join(t.TempDir(), "part")
		run(t, qemu, "dd", "-f", "vmdk", "-O", "raw", "bs=512", fmt.Sprint("skip=", first), fmt.Sprint("count=", (off+int64(len(p))+sector-1)/sector),
			"if="+filepath.Join(dir, "web-000001.vmdk"), "of="+part)
		got, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		if from := off - first*sector; !bytes.Equal(got[from:from+int64(len(p))], p) {
			t.Errorf("the bytes at %d differ", off)
		}
	}
}

// TestEveryKindOfGrainIsThere reads the tables of both formats by hand.
func TestEveryKindOfGrainIsThere(t *testing.T) {
	const (
		trimmed = 5 * grain
		zeroed  = 9 * grain // its second 4 KiB
		written = 2 * grain // its first sector
		never   = 0
	)
	for format, want := range map[string]map[int64]uint64{
		DeltasSESparse: {trimmed: 1, trimmed + 60<<10: 1, zeroed: 3, zeroed + 4096: 2, written: 3, written + 4096: 0, never: 0},
		DeltasVMFSSparse: {
			trimmed: 1, trimmed + 60<<10: 1, zeroed: 2, zeroed + 4096: 1, zeroed + 8192 - 512: 1, zeroed + 8192: 0,
			written: 2, written + 512: 0, never: 0,
		},
	} {
		t.Run(format, func(t *testing.T) {
			cfg := one(DiskSpec{Content: Generated(Pattern{Seed: 1, Random: 100}, 16*mib)})
			cfg.Datastores = []Datastore{{Name: "datastore1", Deltas: format}}
			s := start(t, cfg)
			c, vm := login(t, s), s.VM("web")
			d := vm.Disk(0)
			snapshotNow(t, c, vm, "base")
			put(t, d, trimmed, make([]byte, grain))
			put(t, d, zeroed, append(noise(8, 4096), make([]byte, 4096)...))
			put(t, d, written, noise(9, 512))
			snapshotNow(t, c, vm, "delta")
			var entry func(off int64) (kind uint64, place int64)
			var p []byte
			if format == DeltasSESparse {
				p = download(t, s, "web/web-000001-sesparse.vmdk", "")
				u64 := func(off int64) uint64 { return binary.LittleEndian.Uint64(p[off:]) }
				directory, tables, grains := int64(u64(128))*sector, int64(u64(144))*sector, int64(u64(192))*sector
				entry = func(off int64) (uint64, int64) {
					e := u64(tables + int64(uint32(u64(directory)))*seSparseTable + off/4096*8)
					return e >> 60, grains + int64(e&(1<<48-1)<<12|e&(1<<60-1)>>48)*4096
				}
			} else {
				p = download(t, s, "web/web-000001-delta.vmdk", "")
				u32 := func(off int64) int64 { return int64(binary.LittleEndian.Uint32(p[off:])) }
				entry = func(off int64) (uint64, int64) {
					table := u32(u32(20)*512+off/512/4096*4) * 512
					if table == 0 {
						return 0, 0
					}
					e := u32(table + off/512%4096*4)
					return uint64(min(e, 2)), e * 512
				}
			}
			for off, kind := range want {
				if got, _ := entry(off); got != kind {
					t.Errorf("the grain at %d is of kind %d, want %d", off, got, kind)
				}
			}
			_, first := entry(zeroed)
			_, second := entry(written)
			if first >= second {
				t.Errorf("what was written first lies at %d, what was written then at %d", first, second)
			}
			if !bytes.Equal(p[first:first+512], noise(8, 4096)[:512]) || !bytes.Equal(p[second:second+512], noise(9, 512)) {
				t.Error("the grains are not where the tables say")
			}
		})
	}
}

func TestADeltaFileIsReadInPiecesAndWhileItsSnapshotsGo(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 4 * mib}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	snapshotNow(t, c, vm, "base")
	put(t, d, 100, noise(1, 3*mib))
	over := snapshotNow(t, c, vm, "over")
	put(t, d, mib, noise(2, mib))
	const file = "web/web-000001-sesparse.vmdk"
	whole := download(t, s, file, "")
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		from := rnd.IntN(len(whole))
		to := min(from+rnd.IntN(20_000), len(whole)-1)
		sameBytes(t, "a range", download(t, s, file, fmt.Sprintf("bytes=%d-%d", from, to)), whole[from:to+1])
	}
	open := func() *openFile {
		f, failed := s.open(file, map[string][]string{"dcPath": {"DC0"}, "dsName": {"datastore1"}})
		if failed != nil {
			t.Fatal(failed.why)
		}
		return f
	}
	f := open()
	removeSnapshot(t, c, over)
	put(t, d, 0, noise(3, 4*mib))
	got := make([]byte, f.size)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "the file that was open", got, whole)
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if d.v.pins != 0 || len(d.v.dying) != 0 {
		t.Errorf("%d views and %d pages are left", d.v.pins, len(d.v.dying))
	}
}

func TestTheDeltaOfAServerThatIsOffHoldsWhatWasWrittenLast(t *testing.T) {
	for _, format := range []string{DeltasSESparse, DeltasVMFSSparse} {
		cfg := one(DiskSpec{Size: mib})
		cfg.Datastores = []Datastore{{Name: "datastore1", Deltas: format}}
		cfg.Servers[0].Power = types.VirtualMachinePowerStatePoweredOff
		s := start(t, cfg)
		d := s.VM("web").Disk(0)
		snapshotNow(t, login(t, s), s.VM("web"), "s")
		want := make([]byte, mib)
		for off, text := range []string{"first", "second"} {
			off = 5000 + 3*grain*off
			put(t, d, int64(off), []byte(text))
			copy(want[off:], text)
			sameBytes(t, format, readByQEMU(t, downloadChain(t, s, d, d.v.live)), want)
		}
		if err := s.VM("web").SetPower(types.VirtualMachinePowerStatePoweredOn); err != nil {
			t.Fatal(err)
		}
		if status, _, _ := get(t, s, d.dataFile(d.v.live), "", nil); status != 403 {
			t.Errorf("%s: the delta that the running server writes to: status %d", format, status)
		}
	}
}

func TestDescriptorsAndBackingsNameTheFormat(t *testing.T) {
	cfg := Config{
		Datastores: []Datastore{{Name: "six"}, {Name: "five", Deltas: DeltasVMFSSparse}},
		Servers: []ServerSpec{
			{Name: "web", Disks: []DiskSpec{{Size: mib}, {Size: mib, Datastore: "five"}}},
			{Name: "quirk", Quirks: Quirks{SeSparseBackings: true}, Disks: []DiskSpec{{Size: mib}, {Size: mib, Datastore: "five"}}},
		},
	}
	s := start(t, cfg)
	c := login(t, s)
	web, quirk := s.VM("web"), s.VM("quirk")
	for _, vm := range []*VM{web, quirk} {
		snapshotNow(t, c, vm, "s1")
		snapshotNow(t, c, vm, "s2")
	}
	f, failed := s.open("web/web_1-000001.vmdk", map[string][]string{"dcPath": {"DC0"}, "dsName": {"five"}})
	if failed != nil {
		t.Fatal(failed.why)
	}
	text := make([]byte, f.size)
	if _, err := f.ReadAt(text, 0); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`createType="vmfsSparse"`, `parentFileNameHint="web_1.vmdk"`, `RW 2048 VMFSSPARSE "web_1-000001-delta.vmdk"`} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("the descriptor lacks %q:\n%s", line, text)
		}
	}
	if b := flatBacking(t, diskOf(t, c, web.Reference(), 2000)); b.DeltaDiskFormat != "seSparseFormat" || b.Parent == nil {
		t.Errorf("the backing is %+v", b)
	}
	if b := flatBacking(t, diskOf(t, c, web.Reference(), 2001)); b.DeltaDiskFormat != "redoLogFormat" || b.Parent == nil {
		t.Errorf("the backing is %+v", b)
	}
	b, ok := diskOf(t, c, quirk.Reference(), 2000).Backing.(*types.VirtualDiskSeSparseBackingInfo)
	if !ok || b.Parent == nil || b.Parent.Parent == nil || b.Parent.Parent.Parent != nil || b.Uuid != quirk.Disk(0).UUID() ||
		b.Parent.Parent.FileName != "[six] quirk/quirk.vmdk" {
		t.Errorf("the backing is %+v", b)
	}
	if b := flatBacking(t, diskOf(t, c, quirk.Reference(), 2001)); b.DeltaDiskFormat != "redoLogFormat" {
		t.Errorf("the backing is %+v", b)
	}
	if _, err := Start(Config{Datastores: []Datastore{{Name: "x", Deltas: "qcow2"}}}); err == nil {
		t.Error("a format that nobody knows was taken")
	}
}
