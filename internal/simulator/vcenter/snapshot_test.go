package vcenter

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
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

func TestRemovingASnapshotMergesItsFiles(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 4 * mib}, DiskSpec{Size: mib, Content: Sparse()}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	uuid := d.UUID()
	first := snapshotNow(t, c, vm, "first")
	put(t, d, mib, []byte("over first"))
	second := snapshotNow(t, c, vm, "second")
	put(t, d, 2*mib, []byte("over second"))

	live := flatBacking(t, diskOf(t, c, vm.Reference(), d.Key()))
	if got := chain(live); !slices.Equal(got, []string{"web/web-000002.vmdk", "web/web-000001.vmdk", "web/web.vmdk"}) {
		t.Errorf("the live chain is %v", got)
	}
	if got := chain(flatBacking(t, diskOf(t, c, second, d.Key()))); !slices.Equal(got, []string{"web/web-000001.vmdk", "web/web.vmdk"}) {
		t.Errorf("the second snapshot's chain is %v", got)
	}
	if got := chain(flatBacking(t, diskOf(t, c, first, d.Key()))); !slices.Equal(got, []string{"web/web.vmdk"}) {
		t.Errorf("the first snapshot's chain is %v", got)
	}

	removeSnapshot(t, c, first)
	snap := flatBacking(t, diskOf(t, c, second, d.Key()))
	if got := chain(snap); !slices.Equal(got, []string{"web/web.vmdk"}) || snap.Uuid != uuid {
		t.Errorf("after the merge the second snapshot's chain is %v of disk %s", got, snap.Uuid)
	}
	status, body, _ := get(t, s, "web/web-flat.vmdk", "bytes=1048576-1048585", nil)
	if status != 206 || string(body) != "over first" {
		t.Errorf("the merged base has %q, status %d", body, status)
	}
	removeSnapshot(t, c, second)
	live = flatBacking(t, diskOf(t, c, vm.Reference(), d.Key()))
	if got := chain(live); !slices.Equal(got, []string{"web/web.vmdk"}) || live.Uuid != uuid {
		t.Errorf("after all merges the live chain is %v of disk %s", got, live.Uuid)
	}
	got := make([]byte, 4*mib)
	want := make([]byte, 4*mib)
	copy(want[mib:], "over first")
	copy(want[2*mib:], "over second")
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the merged disk differs: %v", err)
	}
	if open := s.OpenSnapshots(); len(open) > 0 {
		t.Errorf("open snapshots %v", open)
	}
}

func chain(b *types.VirtualDiskFlatVer2BackingInfo) []string {
	var files []string
	for ; b != nil; b = b.Parent {
		var p object.DatastorePath
		p.FromString(b.FileName)
		files = append(files, p.Path)
	}
	return files
}

func TestASnapshotOverAForeignOne(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 4 * mib}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	put(t, d, 0, []byte("base"))
	foreign := snapshotNow(t, c, vm, "foreign")
	put(t, d, mib, []byte("delta"))
	ours := snapshotNow(t, c, vm, "ours")
	if files := chain(flatBacking(t, diskOf(t, c, ours, d.Key()))); !slices.Equal(files, []string{"web/web-000001.vmdk", "web/web.vmdk"}) {
		t.Errorf("the frozen chain is %v", files)
	}
	status, body, _ := get(t, s, "web/web-flat.vmdk", "", nil)
	if status != 200 || !bytes.HasPrefix(body, []byte("base")) || bytes.Contains(body, []byte("delta")) {
		t.Errorf("the base's bytes are wrong, status %d", status)
	}
	if status, body, _ := get(t, s, "web/web-000001-sesparse.vmdk", "", nil); status != 200 || !bytes.Contains(body, []byte("delta")) {
		t.Errorf("the delta's bytes are wrong, status %d", status)
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
	var tree mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"snapshot", "rootSnapshot"}, &tree); err != nil {
		t.Fatal(err)
	}
	root := tree.Snapshot.RootSnapshotList
	if len(root) != 1 || root[0].Snapshot != foreign || root[0].ChildSnapshotList[0].Name != "ours" ||
		*tree.Snapshot.CurrentSnapshot != ours || !slices.Equal(tree.RootSnapshot, []types.ManagedObjectReference{foreign}) {
		t.Errorf("the tree is %+v", tree.Snapshot)
	}
	removeSnapshot(t, c, ours)
	if open := s.OpenSnapshots(); !slices.Equal(open, []string{"web/foreign"}) {
		t.Errorf("open snapshots %v", open)
	}
}

func TestRevertingGoesBackAndResetsTracking(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 4 * mib}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	put(t, d, 0, []byte("then"))
	snap := snapshotNow(t, c, vm, "then")
	id := changeIDOf(t, c, snap, d)
	put(t, d, 0, []byte("now!"))
	later := snapshotNow(t, c, vm, "later")
	res, err := methods.RevertToSnapshot_Task(t.Context(), c, &types.RevertToSnapshot_Task{This: snap})
	if err := waitTask(t, c, res.Returnval, err); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := d.ReadAt(got, 0); err != nil || string(got) != "then" {
		t.Errorf("the disk holds %q: %v", got, err)
	}
	var vmo mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"runtime.powerState", "snapshot"}, &vmo); err != nil {
		t.Fatal(err)
	}
	if vmo.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff || *vmo.Snapshot.CurrentSnapshot != snap {
		t.Errorf("power %s, current %v", vmo.Runtime.PowerState, vmo.Snapshot.CurrentSnapshot)
	}
	branch := snapshotNow(t, c, vm, "branch")
	if now := changeIDOf(t, c, branch, d); now == "" || now[:48] == id[:48] {
		t.Errorf("change ID %q after %q: tracking was not reset", now, id)
	}
	if _, _, err := changed(t, c, vm, branch, d, id); !faultOf[types.FileFault](err) {
		t.Errorf("an ID from before the revert: %v", err)
	}
	// The branch that was left is still there, and can go.
	if files := chain(flatBacking(t, diskOf(t, c, later, d.Key()))); len(files) != 2 {
		t.Errorf("the other branch is %v", files)
	}
	removeSnapshot(t, c, later)
	removeSnapshot(t, c, branch)
	removeSnapshot(t, c, snap)
	if files := chain(flatBacking(t, diskOf(t, c, vm.Reference(), d.Key()))); !slices.Equal(files, []string{"web/web.vmdk"}) {
		t.Errorf("the live chain is %v", files)
	}
}

func TestRevertingBringsRemovedDisksBack(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}, DiskSpec{Size: mib, Content: Sparse()}))
	c, vm := login(t, s), s.VM("web")
	kept, removed := vm.Disk(0), vm.Disk(1)
	put(t, removed, 0, []byte("kept by the snapshot"))
	snapshotNow(t, c, vm, "both")
	if err := removed.Remove(); err != nil {
		t.Fatal(err)
	}
	added, err := vm.AddDisk(DiskSpec{Size: 2 * mib, Content: Sparse()})
	if err != nil {
		t.Fatal(err)
	}
	if d := diskOf(t, c, vm.Reference(), added.Key()); d.CapacityInBytes != 2*mib {
		t.Errorf("the added disk is %+v", d)
	}
	task, err := machineOf(c, vm).RevertToSnapshot(t.Context(), "both", true)
	if err != nil || task.Wait(t.Context()) != nil {
		t.Fatal(err)
	}
	if disks := vm.Disks(); !slices.Equal(disks, []*Disk{kept, removed}) {
		t.Errorf("disks after the revert: %v", disks)
	}
	got := make([]byte, 20)
	if _, err := removed.ReadAt(got, 0); err != nil || string(got) != "kept by the snapshot" {
		t.Errorf("the disk that came back holds %q: %v", got, err)
	}
}

func TestRemovalCanLeaveConsolidationToTheClient(t *testing.T) {
	cfg := one(DiskSpec{Size: mib})
	cfg.Servers[0].Quirks.ConsolidationNeeded = true
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	needed := func() bool {
		var o mo.VirtualMachine
		if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"runtime.consolidationNeeded"}, &o); err != nil {
			t.Fatal(err)
		}
		return o.Runtime.ConsolidationNeeded
	}
	for range 2 {
		snap := snapshotNow(t, c, vm, "s")
		put(t, d, 0, []byte("delta"))
		removeSnapshot(t, c, snap)
		if !needed() {
			t.Error("no consolidation is needed")
		}
	}
	if files := chain(flatBacking(t, diskOf(t, c, vm.Reference(), d.Key()))); len(files) != 3 {
		t.Errorf("the chain is %v", files)
	}
	res, err := methods.ConsolidateVMDisks_Task(t.Context(), c, &types.ConsolidateVMDisks_Task{This: vm.Reference()})
	if err := waitTask(t, c, res.Returnval, err); err != nil {
		t.Fatal(err)
	}
	if files := chain(flatBacking(t, diskOf(t, c, vm.Reference(), d.Key()))); len(files) != 1 || needed() {
		t.Errorf("after consolidation the chain is %v, needed: %v", files, needed())
	}
}

func TestRemovingChildrenAndRemovingAll(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	snapshotNow(t, c, vm, "root")
	middle := snapshotNow(t, c, vm, "middle")
	snapshotNow(t, c, vm, "leaf")
	res, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{This: middle, RemoveChildren: true})
	if err := waitTask(t, c, res.Returnval, err); err != nil {
		t.Fatal(err)
	}
	if open := s.OpenSnapshots(); !slices.Equal(open, []string{"web/root"}) {
		t.Errorf("open snapshots %v", open)
	}
	if _, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{This: middle}); !faultOf[types.ManagedObjectNotFound](err) {
		t.Errorf("removing a snapshot that is gone: %v", err)
	}
	snapshotNow(t, c, vm, "another")
	task, err := machineOf(c, vm).RemoveAllSnapshot(t.Context(), types.NewBool(true))
	if err != nil || task.Wait(t.Context()) != nil {
		t.Fatal(err)
	}
	var o mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"snapshot"}, &o); err != nil || o.Snapshot != nil {
		t.Errorf("snapshots are left: %+v, %v", o.Snapshot, err)
	}
}

func TestDisksThatSnapshotsLeaveOut(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{
		{Name: "web", ChangeTracking: true, Disks: []DiskSpec{
			{Size: mib}, {Size: mib, Mode: "independent_persistent"}, {Size: mib, RDM: "physicalMode"},
			{Size: mib, Mode: "independent_persistent", MultiWriter: true},
		}},
		{Name: "cluster", Disks: []DiskSpec{{Size: mib}, {Size: mib, MultiWriter: true}}},
	}})
	c, vm := login(t, s), s.VM("web")
	snap := snapshotNow(t, c, vm, "s")
	for i, d := range vm.Disks() {
		if in := diskOf(t, c, snap, d.Key()) != nil; in != (i == 0) {
			t.Errorf("disk %d is in the snapshot: %v", i, in)
		}
		if diskOf(t, c, vm.Reference(), d.Key()) == nil {
			t.Errorf("disk %d is not in the server", i)
		}
	}
	task, err := machineOf(c, s.VM("cluster")).CreateSnapshot(t.Context(), "s", "", false, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Wait(t.Context()); !faultOf[*types.SnapshotIncompatibleDeviceInVm](err) {
		t.Errorf("a snapshot of a multi-writer disk: %v", err)
	}
}

func TestWhatASnapshotRecords(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	take := func(memory, quiesce bool) error {
		task, err := machineOf(c, vm).CreateSnapshot(t.Context(), "name", "text", memory, quiesce)
		if err != nil {
			t.Fatal(err)
		}
		return task.Wait(t.Context())
	}
	if err := take(true, true); err != nil {
		t.Fatal(err)
	}
	var o mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"snapshot"}, &o); err != nil {
		t.Fatal(err)
	}
	snap := o.Snapshot.RootSnapshotList[0]
	if snap.Name != "name" || snap.Description != "text" || !snap.Quiesced || snap.State != types.VirtualMachinePowerStatePoweredOn || snap.CreateTime.IsZero() {
		t.Errorf("recorded: %+v", snap)
	}
	if err := vm.SetQuirks(Quirks{QuiesceFails: true}); err != nil {
		t.Fatal(err)
	}
	if err := take(false, true); !faultOf[*types.ApplicationQuiesceFault](err) {
		t.Errorf("a guest that cannot be quiesced: %v", err)
	}
	if err := take(false, false); err != nil {
		t.Errorf("without quiescing: %v", err)
	}
	for range maxSnapshotDepth - 2 {
		if err := take(false, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := take(false, false); !faultOf[*types.TooManySnapshotLevels](err) {
		t.Errorf("snapshot %d in a row: %v", maxSnapshotDepth+1, err)
	}
}

func TestAWitnessReadsTheFrozenDisksAfterTheSnapshotAndTheServerAreGone(t *testing.T) {
	for _, content := range []Content{Memory(), Sparse()} {
		events := make(chan SnapshotEvent, 1)
		cfg := one(DiskSpec{Size: 4 * mib, Content: content}, DiskSpec{Size: mib, Mode: "independent_persistent"})
		cfg.OnSnapshot = func(e SnapshotEvent) { events <- e }
		s := start(t, cfg)
		c, vm := login(t, s), s.VM("web")
		d := vm.Disk(0)
		want := noise(1, 4*mib)
		put(t, d, 0, want)
		snap := snapshotNow(t, c, vm, "ours")
		event := <-events
		if event.Server != "web" || event.Name != "ours" || event.Ref != snap || len(event.Disks) != 1 ||
			event.Disks[0].Key != d.Key() || event.Disks[0].UUID != d.UUID() || event.Disks[0].Size != 4*mib {
			t.Fatalf("the event is %+v", event)
		}
		put(t, d, 0, noise(2, 2*mib))
		removeSnapshot(t, c, snap)
		put(t, d, mib, noise(3, 3*mib))
		got := make([]byte, 4*mib)
		if _, err := event.Disks[0].ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("after the removal the frozen disk differs: %v", err)
		}
		if err := s.RemoveServer("web"); err != nil {
			t.Fatal(err)
		}
		clear(got)
		if _, err := event.Disks[0].ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("after the server's end the frozen disk differs: %v", err)
		}
		for range 2 { // releasing twice does no harm
			if err := event.Release(); err != nil {
				t.Error(err)
			}
		}
	}
}
