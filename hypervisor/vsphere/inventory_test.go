package vsphere

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// tree is an inventory under test and what it told.
type tree struct {
	*inventory
	told []string
}

func newTree() *tree {
	t := &tree{}
	t.inventory = &inventory{places: map[ref]*place{}, machines: map[ref]*machine{}, holder: map[hypervisor.ServerID]ref{}}
	t.emit = func(c hypervisor.Change) error {
		switch {
		case c.Server != nil:
			t.told = append(t.told, fmt.Sprintf("%s %s %s", c.Server.ID, c.Server.Path, c.Server.ManagerID))
		case c.Synced:
			t.told = append(t.told, "synced")
		default:
			t.told = append(t.told, "gone "+string(c.Gone))
		}
		return nil
	}
	return t
}

func vmRef(n int) ref { return ref{Type: "VirtualMachine", Value: fmt.Sprintf("vm-%d", n)} }

type props map[string]any

func update(kind types.ObjectUpdateKind, r ref, p props) types.ObjectUpdate {
	u := types.ObjectUpdate{Kind: kind, Obj: r}
	for name, v := range p {
		op := types.PropertyChangeOpAssign
		if v == nil {
			op = types.PropertyChangeOpIndirectRemove
		}
		u.ChangeSet = append(u.ChangeSet, types.PropertyChange{Name: name, Op: op, Val: v})
	}
	return u
}

func enter(r ref, p props) types.ObjectUpdate { return update(types.ObjectUpdateKindEnter, r, p) }
func modify(r ref, p props) types.ObjectUpdate {
	return update(types.ObjectUpdateKindModify, r, p)
}
func leave(r ref) types.ObjectUpdate { return update(types.ObjectUpdateKindLeave, r, nil) }

// step lets the tree see one set of updates, as a collector gives them, and
// returns what it told.
func (tr *tree) step(t *testing.T, first bool, updates ...types.ObjectUpdate) []string {
	t.Helper()
	tr.told = nil
	seen, dirty := map[ref]bool{}, map[ref]bool{}
	set := &types.UpdateSet{FilterSet: []types.PropertyFilterUpdate{{ObjectSet: updates}}}
	reload, err := tr.absorb(set, seen, dirty)
	if err != nil || len(reload) > 0 {
		t.Fatalf("reload %v, %v", reload, err)
	}
	if first {
		tr.forget(seen, dirty)
	}
	if err := tr.tell(dirty); err != nil {
		t.Fatal(err)
	}
	return tr.told
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestServersAreToldWithTheirPlace(t *testing.T) {
	tr := newTree()
	root, dc := ref{Type: "Folder", Value: "group-d1"}, ref{Type: "Datacenter", Value: "datacenter-2"}
	vms, web := ref{Type: "Folder", Value: "group-v3"}, ref{Type: "Folder", Value: "group-v4"}
	app := ref{Type: "VirtualApp", Value: "resgroup-v5"}
	expect(t, tr.step(t, true,
		enter(vmRef(7), props{"name": "web%2f01 100%", "parent": web, "config.uuid": "B", "config.instanceUuid": "A-1"}),
		enter(vmRef(8), props{"name": "in a vApp", "parentVApp": app, "config.uuid": "B2"}),
		enter(app, props{"name": "shop", "parentFolder": vms}),
		enter(web, props{"name": "web", "parent": vms}),
		enter(vms, props{"name": "vm", "parent": dc}),
		enter(dc, props{"name": "DC0", "parent": root}),
		enter(root, props{"name": "Datacenters"}),
	), "a-1 /DC0/vm/web/web%2f01 100% vm-7", "b2 /DC0/vm/shop/in a vApp vm-8", "synced")
	expect(t, tr.step(t, false, modify(vmRef(7), props{"name": "web%2f01"})), "a-1 /DC0/vm/web/web/01 vm-7")
	expect(t, tr.step(t, false, modify(web, props{"name": "www"})), "a-1 /DC0/vm/www/web/01 vm-7")
	expect(t, tr.step(t, false, modify(dc, props{"name": "DC0"})))
}

func TestPartialUpdatesKeepTheRest(t *testing.T) {
	tr := newTree()
	var last *hypervisor.Server
	tr.emit = func(c hypervisor.Change) error {
		if c.Server != nil {
			last = c.Server
		}
		return nil
	}
	disk := &types.VirtualDisk{CapacityInBytes: 1 << 30}
	disk.Key, disk.Backing = 2000, &types.VirtualDiskFlatVer2BackingInfo{Uuid: "d1"}
	host := ref{Type: "HostSystem", Value: "host-1"}
	tr.step(t, true, enter(host, props{"name": "esx-1"}), enter(vmRef(1), props{
		"name": "web", "config.uuid": "u", "runtime.host": host, "runtime.powerState": types.VirtualMachinePowerStatePoweredOn,
		"config.hardware.numCPU": int32(4), "config.hardware.memoryMB": int32(2048), "config.firmware": "efi",
		"config.bootOptions":     types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(true)},
		"config.hardware.device": types.ArrayOfVirtualDevice{VirtualDevice: []types.BaseVirtualDevice{disk, &types.VirtualTPM{}}},
	}))
	tr.step(t, false, modify(vmRef(1), props{"runtime.powerState": types.VirtualMachinePowerStatePoweredOff}))
	want := &hypervisor.Server{
		ID: "u", Name: "web", Path: "/web", ManagerID: "vm-1", Firmware: hypervisor.UEFI, SecureBoot: true, TPM: true,
		CPUs: 4, MemoryMiB: 2048, Host: "esx-1", Disks: []hypervisor.ServerDisk{{ID: "d1", Name: "disk 2000", Size: 1 << 30}},
	}
	if !reflect.DeepEqual(last, want) {
		t.Errorf("told %+v\nwant %+v", last, want)
	}
	tr.step(t, false, modify(vmRef(1), props{"config.firmware": nil}))
	if last.Firmware != hypervisor.BIOS {
		t.Errorf("a property that went away is still %q", last.Firmware)
	}
}

func TestUpdatesThatComeInPiecesAreReadWhole(t *testing.T) {
	tr := newTree()
	tr.step(t, true, enter(vmRef(1), props{"name": "web", "config.uuid": "u"}))
	for _, c := range []types.PropertyChange{
		{Name: "config.hardware.device[2000].backing", Op: types.PropertyChangeOpAssign, Val: nil},
		{Name: "config.hardware.device", Op: types.PropertyChangeOpAdd, Val: &types.VirtualDisk{}},
	} {
		set := &types.UpdateSet{FilterSet: []types.PropertyFilterUpdate{{ObjectSet: []types.ObjectUpdate{
			{Kind: types.ObjectUpdateKindModify, Obj: vmRef(1), ChangeSet: []types.PropertyChange{c}},
		}}}}
		reload, err := tr.absorb(set, map[ref]bool{}, map[ref]bool{})
		if err != nil || len(reload) != 1 || reload[0] != vmRef(1) {
			t.Errorf("%s: reload %v, %v", c.Name, reload, err)
		}
	}
}

func TestNoTwoServersHaveOneID(t *testing.T) {
	tr := newTree()
	expect(t, tr.step(t, true,
		enter(vmRef(10), props{"name": "copy", "config.instanceUuid": "u"}),
		enter(vmRef(9), props{"name": "oldest", "config.instanceUuid": "u"}),
		enter(vmRef(100), props{"name": "other copy", "config.instanceUuid": "U"}),
	), "u /oldest vm-9", "u@vm-10 /copy vm-10", "u@vm-100 /other copy vm-100", "synced")
	// The copies keep the IDs they have.
	expect(t, tr.step(t, false, leave(vmRef(9))), "gone u")
	expect(t, tr.step(t, false, modify(vmRef(10), props{"name": "renamed"})), "u@vm-10 /renamed vm-10")
	// One that gets an identity of its own is a new server.
	expect(t, tr.step(t, false, modify(vmRef(100), props{"config.instanceUuid": "v"})), "gone u@vm-100", "v /other copy vm-100")
}

func TestTemplatesAreNoServers(t *testing.T) {
	tr := newTree()
	expect(t, tr.step(t, true,
		enter(vmRef(1), props{"name": "golden", "config.uuid": "u", "config.template": true}),
		enter(vmRef(2), props{"name": "web", "config.uuid": "u"}),
	), "u /web vm-2", "synced")
	expect(t, tr.step(t, false, modify(vmRef(2), props{"config.template": true})), "gone u")
	expect(t, tr.step(t, false, modify(vmRef(2), props{"config.template": false})), "u /web vm-2")
}

func TestAServerOutOfReachIsNotGone(t *testing.T) {
	tr := newTree()
	expect(t, tr.step(t, true, enter(vmRef(1), props{"name": "never seen well"}), enter(vmRef(2), props{"name": "web", "config.uuid": "u"})), "u /web vm-2", "synced")
	expect(t, tr.step(t, false, modify(vmRef(2), props{"config.uuid": nil, "config.template": nil, "config.hardware.device": nil})))
	expect(t, tr.step(t, false, modify(vmRef(2), props{"config.uuid": "u"})))
	expect(t, tr.step(t, false, leave(vmRef(1))))
	expect(t, tr.step(t, false, modify(vmRef(2), props{"config.uuid": nil})))
	expect(t, tr.step(t, false, leave(vmRef(2))), "gone u")
}

func TestAListingAnewTellsOnlyDifferences(t *testing.T) {
	tr := newTree()
	tr.step(t, true, enter(vmRef(1), props{"name": "a", "config.uuid": "1"}), enter(vmRef(2), props{"name": "b", "config.uuid": "2"}))
	expect(t, tr.step(t, true,
		enter(vmRef(1), props{"name": "a", "config.uuid": "1"}),
		enter(vmRef(3), props{"name": "c", "config.uuid": "3"}),
	), "gone 2", "3 /c vm-3")
	// Registered again under another reference it is the same server.
	expect(t, tr.step(t, true, enter(vmRef(4), props{"name": "a", "config.uuid": "1"}), enter(vmRef(3), props{"name": "c", "config.uuid": "3"})),
		"gone 1", "1 /a vm-4")
}
