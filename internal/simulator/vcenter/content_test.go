package vcenter

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestARawImageIsNeverModified(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	data := noise(5, 3*grain)
	if _, err := f.WriteAt(data, 16*grain); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64*grain + 100); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	sum := func() [32]byte {
		p, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(p)
	}
	before := sum()
	s := start(t, one(DiskSpec{Content: File(image)}))
	d := s.VM("web").Disk(0)
	if d.Size() != 64*grain+512 {
		t.Errorf("the disk has %d bytes; the file's size is rounded up to a sector", d.Size())
	}
	put(t, d, 17*grain+3, []byte("guest"))
	put(t, d, 40*grain, []byte("guest"))
	want := bytes.Clone(data)
	copy(want[grain+3:], "guest")
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, 16*grain); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the guest does not see image and writes together: %v", err)
	}
	extents, err := d.Allocated()
	if err != nil || !slices.Equal(extents, []Extent{{16 * grain, 3 * grain}, {40 * grain, grain}}) {
		t.Errorf("allocated: %v, %v", extents, err)
	}
	if sum() != before {
		t.Error("the image file changed")
	}
}

func TestGeneratedContentIsTheSameAtAnyOffset(t *testing.T) {
	const size = 6*mib + 512
	pattern := Pattern{Seed: 11, Random: 30, Text: 30, Run: grain}
	g := newGenerated(pattern, size)
	whole := make([]byte, size)
	if _, err := g.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	for _, e := range []Extent{{0, 1}, {1, 7}, {3, 12}, {grain - 1, 2}, {4095, 3}, {100001, 300007}, {size - 5, 5}} {
		p := make([]byte, e.Length)
		if _, err := newGenerated(pattern, size).ReadAt(p, e.Offset); err != nil || !bytes.Equal(p, whole[e.Offset:e.End()]) {
			t.Errorf("%+v differs from the same place of the whole: %v", e, err)
		}
	}
	extents, err := g.Allocated()
	if err != nil {
		t.Fatal(err)
	}
	var allocated int64
	rest := bytes.Clone(whole)
	for _, e := range extents {
		allocated += e.Length
		if bytes.Equal(rest[e.Offset:e.End()], make([]byte, e.Length)) {
			t.Errorf("the allocated extent %+v is zero", e)
		}
		clear(rest[e.Offset:e.End()])
	}
	if !bytes.Equal(rest, make([]byte, size)) {
		t.Error("there is data outside of the allocated extents")
	}
	if share := allocated * 100 / size; share < 40 || share > 80 {
		t.Errorf("%d %% are allocated; the pattern says 60", share)
	}
	other := make([]byte, size)
	pattern.Seed++
	if _, err := newGenerated(pattern, size).ReadAt(other, 0); err != nil || bytes.Equal(other, whole) {
		t.Errorf("another seed gives the same bytes: %v", err)
	}
}

func TestADiskOf64TiBCostsOnlyWhatIsWritten(t *testing.T) {
	const size = 64 << 40
	s := start(t, one(
		DiskSpec{Size: size},
		DiskSpec{Size: size, Content: Sparse()},
		DiskSpec{Content: Generated(Pattern{Seed: 1, Random: 5}, size)},
	))
	c, vm := login(t, s), s.VM("web")
	for i, d := range vm.Disks() {
		put(t, d, size-5, []byte("the e"))
		got := make([]byte, 6)
		if _, err := d.ReadAt(got, size-6); err != nil || !bytes.HasSuffix(got, []byte("the e")) {
			t.Errorf("disk %d ends in %q: %v", i, got, err)
		}
	}
	snap := snapshotNow(t, c, vm, "s")
	for i, d := range vm.Disks() {
		if n := diskOf(t, c, snap, d.Key()).CapacityInBytes; n != size {
			t.Errorf("disk %d is %d bytes large", i, n)
		}
		areas, _, err := changed(t, c, vm, snap, d, "*")
		if err != nil || len(areas) == 0 || areas[len(areas)-1].End() != size || len(areas) > maxRuns {
			t.Errorf("disk %d: %d allocated areas: %v", i, len(areas), err)
		}
	}
	status, body, _ := get(t, s, "web/web_1-flat.vmdk", "bytes=70368744177659-", nil)
	if status != 206 || string(body) != "the e" {
		t.Errorf("the end of the file is %q, status %d", body, status)
	}
}

func TestImpossibleDisksAreRefused(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{{Name: "web", Disks: []DiskSpec{{Size: 512, Unit: 3}}}}})
	vm := s.VM("web")
	for name, spec := range map[string]DiskSpec{
		"no size":              {},
		"half a sector":        {Size: 700},
		"a missing file":       {Content: File("/nonexistent/image.raw")},
		"a directory":          {Content: File(t.TempDir())},
		"a taken unit":         {Size: 512, Unit: 3},
		"the controller's own": {Size: 512, Unit: 7},
		"a unit too far":       {Size: 512, Unit: 99},
		"no such controller":   {Size: 512, Controller: "floppy"},
		"no such datastore":    {Size: 512, Datastore: "x"},
		"no such RDM":          {Size: 512, RDM: "x"},
		"an impossible mix":    {Content: Generated(Pattern{Random: 60, Text: 60}, 512)},
	} {
		if _, err := vm.AddDisk(spec); err == nil {
			t.Errorf("%s passed", name)
		}
	}
	if n := len(vm.Disks()); n != 1 {
		t.Errorf("%d disks are left", n)
	}
}
