package vcenter

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func TestAMoveToAnotherHostChangesNothingElse(t *testing.T) {
	data := noise(1, mib)
	s, c, from := frozenOn(t, Config{}, data)
	vm, to := s.VM("web"), s.Host("esx-2.example.com")
	before := changeIDOf(t, c, vm.snapshots[0].obj.Self, vm.Disk(0))
	put(t, vm.Disk(0), 0, noise(2, 4096))
	if err := s.Move("web", "esx-2.example.com", ""); err != nil {
		t.Fatal(err)
	}
	var m mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"runtime.host"}, &m); err != nil || *m.Runtime.Host != to.obj.Self {
		t.Errorf("the server runs on %v: %v", m.Runtime.Host, err)
	}
	for h, n := range map[*Host]int{from: 0, to: 1} {
		var host mo.HostSystem
		if err := c.RetrieveOne(t.Context(), h.obj.Self, []string{"vm", "name"}, &host); err != nil || len(host.Vm) != n {
			t.Errorf("host %s has %v: %v", host.Name, host.Vm, err)
		}
	}
	second := snapshotNow(t, c, vm, "second")
	if areas, _, err := changed(t, c, vm, second, vm.Disk(0), before); err != nil || !slices.Equal(areas, []Extent{{0, grain}}) {
		t.Errorf("changed areas %v: %v", areas, err)
	}
	if status, body, _ := get(t, s, flatFile, "", nil); status != 200 || !bytes.Equal(body, data) {
		t.Errorf("status %d, %d bytes", status, len(body))
	}
}

func TestAMoveToAnotherDatastoreLosesTracking(t *testing.T) {
	data := noise(1, mib)
	s, c, _ := frozenOn(t, Config{Datastores: []Datastore{{Name: "datastore1"}, {Name: "fast"}}}, data)
	vm := s.VM("web")
	snap := vm.snapshots[0].obj.Self
	before := changeIDOf(t, c, snap, vm.Disk(0))
	if err := vm.Rename("www"); err != nil {
		t.Fatal(err)
	}
	if err := s.Move("www", "", "fast"); err != nil {
		t.Fatal(err)
	}
	if name := flatBacking(t, diskOf(t, c, snap, vm.Disk(0).Key())).FileName; name != "[fast] www/www.vmdk" {
		t.Errorf("the frozen file is %s", name)
	}
	if name := flatBacking(t, diskOf(t, c, vm.Reference(), vm.Disk(0).Key())).FileName; name != "[fast] www/www-000001.vmdk" {
		t.Errorf("the live file is %s", name)
	}
	var m mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"config.files.vmPathName", "datastore"}, &m); err != nil ||
		m.Config.Files.VmPathName != "[fast] www/www.vmx" || !slices.Equal(m.Datastore, []types.ManagedObjectReference{s.places.datastores["fast"].Self}) {
		t.Errorf("the server is at %v on %v: %v", m.Config, m.Datastore, err)
	}
	if _, _, err := changed(t, c, vm, snapshotNow(t, c, vm, "s2"), vm.Disk(0), before); !faultOf[types.FileFault](err) {
		t.Errorf("changes since before the move: %v", err)
	}
	if status, _, _ := get(t, s, flatFile, "", nil); status != 404 {
		t.Errorf("the old file: status %d", status)
	}
	if len(s.Refused()) != 1 {
		t.Error(s.Refused())
	}
	f, failed := s.open("www/www-flat.vmdk", map[string][]string{"dcPath": {"DC0"}, "dsName": {"fast"}})
	if failed != nil {
		t.Fatal(failed.why)
	}
	got := make([]byte, len(data))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) || f.close() != nil {
		t.Errorf("the moved file differs: %v", err)
	}
	for _, wrong := range [][3]string{{"x", "", ""}, {"www", "x", ""}, {"www", "", "x"}} {
		if s.Move(wrong[0], wrong[1], wrong[2]) == nil {
			t.Errorf("%v moved", wrong)
		}
	}
}

func TestOwnersRevertAndRemoveSnapshots(t *testing.T) {
	data := noise(1, mib)
	s, c, _ := frozenOn(t, Config{}, data)
	vm := s.VM("web")
	before := changeIDOf(t, c, vm.snapshots[0].obj.Self, vm.Disk(0))
	put(t, vm.Disk(0), 0, noise(2, mib))
	if err := vm.Revert("nothing"); err == nil {
		t.Error("a server went back to a snapshot that it does not have")
	}
	if err := vm.Revert("s"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, mib)
	if _, err := vm.Disk(0).ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the revert the disk holds something else: %v", err)
	}
	second := snapshotNow(t, c, vm, "second")
	if _, _, err := changed(t, c, vm, second, vm.Disk(0), before); !faultOf[types.FileFault](err) {
		t.Errorf("changes since before the revert: %v", err)
	}
	for range 2 {
		if err := vm.RemoveAllSnapshots(); err != nil {
			t.Fatal(err)
		}
	}
	if open := s.OpenSnapshots(); len(open) > 0 {
		t.Errorf("open snapshots %v", open)
	}
}
