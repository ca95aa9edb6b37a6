package vcenter

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func TestChangesArePagedUntilTheDisksEnd(t *testing.T) {
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprintf("empty pages: %v", empty), func(t *testing.T) {
			cfg := one(DiskSpec{Size: 100*grain + 512})
			cfg.AreasPerPage, cfg.EmptyPages = 3, empty
			s := start(t, cfg)
			c, vm := login(t, s), s.VM("web")
			d := vm.Disk(0)
			id := changeIDOf(t, c, snapshotNow(t, c, vm, "base"), d)
			var want []Extent
			for g := int64(2); g < 40; g += 4 { // ten areas
				put(t, d, g*grain+7, []byte("x"))
				want = append(want, Extent{g * grain, grain})
			}
			put(t, d, 100*grain, make([]byte, 512)) // the end, which is no whole grain
			want = append(want, Extent{100 * grain, 512})
			snap := snapshotNow(t, c, vm, "next")
			areas, pages, err := changed(t, c, vm, snap, d, id)
			if err != nil || !slices.Equal(areas, want) {
				t.Errorf("areas %v, want %v: %v", areas, want, err)
			}
			if wantPages := map[bool]int{false: 4, true: 8}[empty]; pages != wantPages {
				t.Errorf("%d pages, want %d", pages, wantPages)
			}
			areas, _, err = changed(t, c, vm, snap, d, "*")
			if err != nil || !slices.Equal(areas, want) {
				t.Errorf("allocated areas %v, want %v: %v", areas, want, err)
			}
		})
	}
}

func TestAPageCanBeginInsideOfAnArea(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 10 * grain}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	put(t, d, 0, make([]byte, 4*grain))
	snap := snapshotNow(t, c, vm, "s")
	res, err := methods.QueryChangedDiskAreas(t.Context(), c, &types.QueryChangedDiskAreas{
		This: vm.Reference(), Snapshot: &snap, DeviceKey: d.Key(), StartOffset: grain + 512, ChangeId: "*",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []types.DiskChangeExtent{{Start: grain + 512, Length: 3*grain - 512}}
	if !slices.Equal(res.Returnval.ChangedArea, want) {
		t.Errorf("areas %v", res.Returnval.ChangedArea)
	}
}

func TestChangesAreThoseBetweenTwoSnapshots(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 10 * grain}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	write := func(g int64) { put(t, d, g*grain, []byte("x")) }
	write(0)
	a := snapshotNow(t, c, vm, "a")
	write(1)
	b := snapshotNow(t, c, vm, "b")
	write(2)
	cc := snapshotNow(t, c, vm, "c")
	write(3)
	ids := []string{changeIDOf(t, c, a, d), changeIDOf(t, c, b, d), changeIDOf(t, c, cc, d)}
	for _, q := range []struct {
		name  string
		since string
		snap  types.ManagedObjectReference
		want  []Extent
	}{
		{"from a snapshot to the next", ids[0], b, []Extent{{grain, grain}}},
		{"over a snapshot in between", ids[0], cc, []Extent{{grain, 2 * grain}}},
		{"from a snapshot to itself", ids[2], cc, nil},
		{"all that is allocated", "*", b, []Extent{{0, 2 * grain}}},
	} {
		areas, _, err := changed(t, c, vm, q.snap, d, q.since)
		if err != nil || !slices.Equal(areas, q.want) {
			t.Errorf("%s: %v, want %v: %v", q.name, areas, q.want, err)
		}
	}
	if _, _, err := changed(t, c, vm, a, d, ids[1]); !faultOf[types.FileFault](err) {
		t.Errorf("changes from the future: %v", err)
	}
}

func TestQueriesThatCannotBeAnsweredGetTheFaultsOfESXi(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 10 * grain}, DiskSpec{Size: grain, CtkDisabled: true},
		DiskSpec{Size: grain, Mode: "independent_persistent"}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	snap := snapshotNow(t, c, vm, "s")
	id := changeIDOf(t, c, snap, d)
	if err := vm.ResetTracking(); err != nil {
		t.Fatal(err)
	}
	after := snapshotNow(t, c, vm, "after")
	missing := types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: "snapshot-1"}
	query := func(snap types.ManagedObjectReference, key int32, at int64, id string) error {
		_, err := methods.QueryChangedDiskAreas(t.Context(), c, &types.QueryChangedDiskAreas{
			This: vm.Reference(), Snapshot: &snap, DeviceKey: key, StartOffset: at, ChangeId: id,
		})
		return err
	}
	for name, ok := range map[string]bool{
		"an ID from before a reset":            faultOf[types.FileFault](query(after, d.Key(), 0, id)),
		"a snapshot from before a reset":       faultOf[types.FileFault](query(snap, d.Key(), 0, id)),
		"no ID":                                faultOf[types.InvalidArgument](query(after, d.Key(), 0, "")),
		"a malformed ID":                       faultOf[types.InvalidArgument](query(after, d.Key(), 0, "52/x")),
		"an offset at the end":                 faultOf[types.InvalidArgument](query(after, d.Key(), 10*grain, "*")),
		"a negative offset":                    faultOf[types.InvalidArgument](query(after, d.Key(), -1, "*")),
		"no such disk":                         faultOf[types.InvalidArgument](query(after, 2015, 0, "*")),
		"a disk that snapshots leave out":      faultOf[types.InvalidArgument](query(after, vm.Disk(2).Key(), 0, "*")),
		"no such snapshot":                     faultOf[types.ManagedObjectNotFound](query(missing, d.Key(), 0, "*")),
		"a disk that is not tracked":           faultOf[types.FileFault](query(after, vm.Disk(1).Key(), 0, "*")),
		"an ID of another disk, but well made": faultOf[types.FileFault](query(after, d.Key(), 0, "52 00/1")),
	} {
		if !ok {
			t.Errorf("%s does not get its fault", name)
		}
	}
	if err := query(after, d.Key(), 0, "*"); err != nil {
		t.Errorf("the allocated areas after a reset: %v", err)
	}
}

func TestTrackingBeginsWithTheNextStun(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{{Name: "web", Disks: []DiskSpec{{Size: 10 * grain}}}}})
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	untracked := snapshotNow(t, c, vm, "untracked")
	if id := changeIDOf(t, c, untracked, d); id != "" {
		t.Errorf("change ID %q although tracking is off", id)
	}
	if _, _, err := changed(t, c, vm, untracked, d, "*"); !faultOf[types.FileFault](err) {
		t.Errorf("asked although tracking is off: %v", err)
	}
	removeSnapshot(t, c, untracked)

	task, err := machineOf(c, vm).Reconfigure(t.Context(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)})
	if err != nil || task.Wait(t.Context()) != nil {
		t.Fatal(err)
	}
	cycle := snapshotNow(t, c, vm, "cycle")
	if id := changeIDOf(t, c, cycle, d); id != "" {
		t.Errorf("the snapshot that starts tracking already has change ID %q", id)
	}
	if id := changeIDOf(t, c, snapshotNow(t, c, vm, "over it"), d); !strings.HasSuffix(id, "/1") {
		t.Errorf("the next snapshot has change ID %q", id)
	}
	removeSnapshot(t, c, cycle)
	tracked := snapshotNow(t, c, vm, "tracked")
	id := changeIDOf(t, c, tracked, d)
	if !strings.HasPrefix(id, "52 ") || !strings.HasSuffix(id, "/2") || len(id) != len("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/1") {
		t.Errorf("change ID %q", id)
	}

	task, err = machineOf(c, vm).Reconfigure(t.Context(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)})
	if err != nil || task.Wait(t.Context()) != nil {
		t.Fatal(err)
	}
	removeSnapshot(t, c, tracked)
	if id := changeIDOf(t, c, snapshotNow(t, c, vm, "off again"), d); id != "" {
		t.Errorf("change ID %q after tracking was switched off", id)
	}
}

func TestOnlyEligibleDisksHaveChangeIDs(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{
		{Name: "old", ChangeTracking: true, HardwareVersion: 6, Disks: []DiskSpec{{Size: 512}}},
		{Name: "lies", ChangeTracking: true, ExtraConfig: map[string]string{"SCSI0:0.CTKENABLED": "false"}, Disks: []DiskSpec{{Size: 512}}},
		{Name: "off", ChangeTracking: true, Disks: []DiskSpec{{Size: 512, CtkDisabled: true}, {Size: 512, RDM: "virtualMode"}}},
	}})
	c := login(t, s)
	for _, name := range []string{"old", "lies", "off"} {
		vm := s.VM(name)
		snap := snapshotNow(t, c, vm, "s")
		if id := changeIDOf(t, c, snap, vm.Disk(0)); id != "" {
			t.Errorf("%s has change ID %q", name, id)
		}
	}
	d := diskOf(t, c, s.VM("off").Reference(), s.VM("off").Disk(1).Key())
	if b := d.Backing.(*types.VirtualDiskRawDiskMappingVer1BackingInfo); b.ChangeId == "" || b.Uuid != s.VM("off").Disk(1).UUID() {
		t.Errorf("the virtual RDM's backing is %+v", b)
	}
}

func TestAllocatedAreasAreKnownOnlyWhereVSphereKnowsThem(t *testing.T) {
	areas, whole := []Extent{{grain, grain}}, []Extent{{0, 10 * grain}}
	for _, test := range []struct {
		name   string
		store  string
		quirks Quirks
		late   bool
		want   []Extent
	}{
		{name: "on VMFS", store: "VMFS", want: areas},
		{name: "on NFS", store: "NFS", want: whole},
		{name: "on NFS that knows", store: "NFS", quirks: Quirks{Allocated: AllocatedAreas}, want: areas},
		{name: "on VMFS that does not", store: "VMFS", quirks: Quirks{Allocated: AllocatedWhole}, want: whole},
		{name: "with an error", store: "VMFS", quirks: Quirks{Allocated: AllocatedFails}},
		{name: "when tracking was enabled over a snapshot", store: "VMFS", late: true, want: whole},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, Config{Datastores: []Datastore{{Name: "d", Type: test.store}}, Servers: []ServerSpec{{
				Name: "web", ChangeTracking: !test.late, Quirks: test.quirks, Disks: []DiskSpec{{Size: 10 * grain}},
			}}})
			c, vm := login(t, s), s.VM("web")
			put(t, vm.Disk(0), grain, []byte("x"))
			if test.late {
				foreign := snapshotNow(t, c, vm, "foreign")
				task, err := machineOf(c, vm).Reconfigure(t.Context(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)})
				if err != nil || task.Wait(t.Context()) != nil {
					t.Fatal(err)
				}
				removeSnapshot(t, c, foreign)
			}
			got, _, err := changed(t, c, vm, snapshotNow(t, c, vm, "s"), vm.Disk(0), "*")
			if test.want == nil && !faultOf[types.FileFault](err) || test.want != nil && err != nil || !slices.Equal(got, test.want) {
				t.Errorf("areas %v, want %v: %v", got, test.want, err)
			}
		})
	}
}

func TestGrowingADisk(t *testing.T) {
	for _, test := range []struct {
		name   string
		how    ResizedAnswer
		want   []Extent
		failed bool
	}{
		{"is tracked", ResizedRight, []Extent{{0, grain}, {12 * grain, grain}}, false},
		{"makes ESXi fail", ResizedFails, nil, true},
		{"resets tracking", ResizedResets, nil, true},
		{"makes ESXi lie", ResizedWrong, []Extent{{0, grain}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := one(DiskSpec{Size: 10 * grain})
			cfg.Servers[0].Quirks.Resized = test.how
			s := start(t, cfg)
			c, vm := login(t, s), s.VM("web")
			d := vm.Disk(0)
			uuid := d.UUID()
			before := snapshotNow(t, c, vm, "before")
			id := changeIDOf(t, c, before, d)
			if err := d.Grow(20 * grain); err == nil {
				t.Error("a disk with snapshots grew")
			}
			removeSnapshot(t, c, before)
			put(t, d, 0, []byte("x"))
			if err := d.Grow(20 * grain); err != nil {
				t.Fatal(err)
			}
			put(t, d, 12*grain, []byte("x"))
			snap := snapshotNow(t, c, vm, "after")
			disk := diskOf(t, c, snap, d.Key())
			if disk.CapacityInBytes != 20*grain || disk.CapacityInKB != 20*grain/1024 || flatBacking(t, disk).Uuid != uuid {
				t.Errorf("the grown disk is %d bytes large, its UUID %s, was %s", disk.CapacityInBytes, flatBacking(t, disk).Uuid, uuid)
			}
			areas, _, err := changed(t, c, vm, snap, d, id)
			if faultOf[types.FileFault](err) != test.failed || !slices.Equal(areas, test.want) {
				t.Errorf("areas %v, want %v: %v", areas, test.want, err)
			}
			if areas, _, err := changed(t, c, vm, snap, d, changeIDOf(t, c, snap, d)); err != nil || len(areas) > 0 {
				t.Errorf("changes since the growth: %v, %v", areas, err)
			}
			for size := range map[int64]bool{20 * grain: true, 512: true, 30*grain + 1: true} {
				if err := d.Grow(size); err == nil {
					t.Errorf("grew from %d to %d", 20*grain, size)
				}
			}
		})
	}
}

func TestTrackingThatLiesLeavesAreasOut(t *testing.T) {
	cfg := one(DiskSpec{Size: 10 * grain})
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	id := changeIDOf(t, c, snapshotNow(t, c, vm, "base"), d)
	put(t, d, 0, []byte("x"))
	put(t, d, 5*grain, []byte("x"))
	lie := Quirks{OmitChange: func(key int32, e Extent) bool { return key == d.Key() && e.Offset == 0 }}
	if err := vm.SetQuirks(lie); err != nil {
		t.Fatal(err)
	}
	areas, _, err := changed(t, c, vm, snapshotNow(t, c, vm, "s"), d, id)
	if err != nil || !slices.Equal(areas, []Extent{{5 * grain, grain}}) {
		t.Errorf("areas %v: %v", areas, err)
	}
}

func TestWithoutASnapshotOnlyAServerThatIsOffIsAnswered(t *testing.T) {
	s := start(t, one(DiskSpec{Size: 10 * grain}))
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	id := changeIDOf(t, c, snapshotNow(t, c, vm, "base"), d)
	put(t, d, grain, []byte("x"))
	query := func() ([]types.DiskChangeExtent, error) {
		res, err := methods.QueryChangedDiskAreas(t.Context(), c, &types.QueryChangedDiskAreas{
			This: vm.Reference(), DeviceKey: d.Key(), ChangeId: id,
		})
		if err != nil {
			return nil, err
		}
		return res.Returnval.ChangedArea, nil
	}
	if _, err := query(); !faultOf[types.InvalidArgument](err) {
		t.Errorf("a running server: %v", err)
	}
	if err := vm.SetPower(types.VirtualMachinePowerStatePoweredOff); err != nil {
		t.Fatal(err)
	}
	if areas, err := query(); err != nil || !slices.Equal(areas, []types.DiskChangeExtent{{Start: grain, Length: grain}}) {
		t.Errorf("areas %v: %v", areas, err)
	}
}

// TestNoWriteFallsBetweenTwoSnapshots lets a guest write without pause while
// snapshots follow each other: applying every answer's areas, read from the
// frozen bytes, to a copy must give exactly the next frozen bytes.
func TestNoWriteFallsBetweenTwoSnapshots(t *testing.T) {
	events := make(chan SnapshotEvent, 1)
	cfg := one(DiskSpec{Size: 40*grain + 512})
	cfg.OnSnapshot = func(e SnapshotEvent) { events <- e }
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	d := vm.Disk(0)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := uint64(0); ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			r := mix(9, n)
			p := noise(r, int(r%(2*grain)+1))
			if _, err := d.WriteAt(p, int64(r>>32)%(d.Size()-int64(len(p)))); err != nil {
				stopped <- err
				return
			}
		}
	}()
	disk := make([]byte, d.Size())
	since, size := "*", d.Size()
	for round := range 8 {
		snap := snapshotNow(t, c, vm, fmt.Sprint("round ", round))
		event := <-events
		areas, _, err := changed(t, c, vm, snap, d, since)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range areas {
			status, body, _ := get(t, s, "web/web-flat.vmdk", fmt.Sprintf("bytes=%d-%d", a.Offset, a.End()-1), nil)
			if status != 206 {
				t.Fatalf("status %d", status)
			}
			copy(disk[a.Offset:], body)
		}
		since = event.Disks[0].ChangeID
		if since != changeIDOf(t, c, snap, d) {
			t.Error("the event's change ID is not the snapshot's")
		}
		removeSnapshot(t, c, snap)
		frozen, err := io.ReadAll(io.NewSectionReader(event.Disks[0], 0, size))
		if err != nil || !bytes.Equal(frozen, disk) {
			t.Fatalf("round %d: what was carried off differs from what was frozen: %v", round, err)
		}
		if err := event.Release(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func FuzzParseChangeID(f *testing.F) {
	for _, s := range []string{"", "*", "52 de/1", "/", "52/-1", "52/01", "52/9999999999999999999", "a/b/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseChangeID(s); err == nil && c.String() != s {
			t.Errorf("%q became %q", s, c)
		}
	})
}
