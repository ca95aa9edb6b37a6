package vcenter

import (
	"bytes"
	"slices"
	"testing"
)

func one(disks ...DiskSpec) Config {
	return Config{Servers: []ServerSpec{{Name: "web", ChangeTracking: true, Disks: disks}}}
}

func TestASnapshotKeepsTheBytesAndTheChangesThatTheGuestMakesMeanwhile(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 8 * mib}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	put(t, d, 0, bytes.Repeat([]byte("a"), mib))
	first := snapshotNow(t, c, vm, "first")
	put(t, d, 3*mib+5, []byte("b"))
	put(t, d, 10, []byte("c"))

	status, body, _ := get(t, s, "web/web-flat.vmdk", "", nil)
	want := append(bytes.Repeat([]byte("a"), mib), make([]byte, 7*mib)...)
	if status != 200 || !bytes.Equal(body, want) {
		t.Fatalf("status %d; the frozen bytes differ from those at the snapshot", status)
	}
	id := changeIDOf(t, c, first, d)
	removeSnapshot(t, c, first)
	second := snapshotNow(t, c, vm, "second")
	put(t, d, 5*mib, []byte("later"))
	areas, _, err := changed(t, c, vm, second, d, id)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(areas, []Extent{{0, grain}, {3 * mib, grain}}) {
		t.Fatalf("changed areas are %v", areas)
	}
	if r := s.Refused(); len(r) > 0 {
		t.Fatal(r)
	}
}
