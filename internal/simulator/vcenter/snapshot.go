package vcenter

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// snapshot is one node of a VM's snapshot tree.
type snapshot struct {
	obj         *snapshotObject
	parent      *snapshot
	name        string
	description string
	id          int32
	created     time.Time
	quiesced    bool
	memory      bool
	power       types.VirtualMachinePowerState // to go back to
	disks       []*Disk
	states      map[*Disk]diskState
}

// snapshotObject is the managed object of a snapshot.
type snapshotObject struct {
	mo.VirtualMachineSnapshot
	worldLocked
	vm   *VM
	snap *snapshot
}

// SnapshotEvent is a snapshot in the moment it is taken.
type SnapshotEvent struct {
	Server   string
	Name     string
	Ref      types.ManagedObjectReference
	Quiesced bool
	Disks    []FrozenDisk
}

// FrozenDisk is a disk as the snapshot holds it. It reads the same until the
// event is released, whatever happens to the snapshot. Disks that snapshots
// leave out are not listed.
type FrozenDisk struct {
	Key      int32
	UUID     string
	ChangeID string
	Size     int64
	io.ReaderAt
	view *view
}

// Release lets go of the frozen disks. It must be called once for every event,
// from wherever the reading ends; not doing so costs the memory of what the
// guest overwrites.
func (e SnapshotEvent) Release() error {
	var errs []error
	for _, d := range e.Disks {
		errs = append(errs, d.view.release())
	}
	return errors.Join(errs...)
}

const maxSnapshotDepth = 32

// createSnapshot freezes the server's disks, all at one moment. It runs as a task.
func (vm *VM) createSnapshot(name, description string, memory, quiesce bool) (any, error) {
	if err := vm.snapshotPossible(quiesce); err != nil {
		return nil, err
	}
	if err := vm.takes(vm.quirks.SnapshotTakes); err != nil {
		return nil, err
	}
	snap := &snapshot{
		parent: vm.current, name: name, description: description, created: *now(),
		quiesced: quiesce, memory: memory, power: types.VirtualMachinePowerStatePoweredOff,
		states: map[*Disk]diskState{},
	}
	if memory {
		snap.power = vm.spec.Power
	}
	snap.obj = &snapshotObject{vm: vm, snap: snap}
	snap.obj.Self = vm.s.reference("VirtualMachineSnapshot", "snapshot")
	snap.obj.Vm = vm.obj.Self
	event := SnapshotEvent{Server: vm.spec.Name, Name: name, Ref: snap.obj.Self, Quiesced: quiesce}
	event.Disks = vm.freeze(snap)
	if vm.s.cfg.OnSnapshot != nil {
		vm.s.cfg.OnSnapshot(event)
	}
	vm.publish(func() {
		vm.lastID++
		snap.id = vm.lastID
		vm.snapshots = append(slices.Clone(vm.snapshots), snap)
		vm.current = snap
		vm.s.model.Map().Put(snap.obj)
	})
	return snap.obj.Self, nil
}

func (vm *VM) snapshotPossible(quiesce bool) error {
	if err := vm.gone(); err != nil {
		return err
	}
	if quiesce && vm.quirks.QuiesceFails && vm.spec.Power == types.VirtualMachinePowerStatePoweredOn {
		return SOAPFault{&types.ApplicationQuiesceFault{},
			"An error occurred while quiescing the virtual machine. See the virtual machine's event log for details."}
	}
	for _, d := range vm.disks {
		if d.spec.MultiWriter && d.frozenBySnapshots() {
			return SOAPFault{&types.SnapshotIncompatibleDeviceInVm{Fault: types.LocalizedMethodFault{
				Fault: &types.SharedBusControllerNotSupported{}, LocalizedMessage: "multi-writer disk",
			}}, fmt.Sprintf("The disk %s is shared by multi-writer and cannot be part of a snapshot.", d.node())}
		}
	}
	depth := 0
	for snap := vm.current; snap != nil; snap = snap.parent {
		depth++
	}
	if depth >= maxSnapshotDepth {
		return SOAPFault{&types.TooManySnapshotLevels{}, "The snapshot tree is too deep."}
	}
	return nil
}

// freeze holds all disks still for one moment, in which each starts a new delta
// file. Tracking that was asked for since the last stun begins with it: this
// snapshot has no change IDs yet, the next one will.
func (vm *VM) freeze(snap *snapshot) []FrozenDisk {
	for _, d := range vm.disks {
		if d.frozenBySnapshots() {
			snap.disks = append(snap.disks, d)
			d.v.mu.Lock()
		}
	}
	var frozen []FrozenDisk
	for _, d := range snap.disks {
		want := d.trackable()
		if !want {
			d.v.tracking.stop()
		}
		state := diskState{change: d.v.tracking.turn(), size: d.v.size, top: d.v.freeze()}
		if want && !d.v.tracking.active {
			d.v.tracking.start()
			d.trackedLate = vm.trackedLate
		}
		snap.states[d] = state
		if vm.s.cfg.OnSnapshot != nil {
			w := d.v.pin(state.top, state.size)
			frozen = append(frozen, FrozenDisk{
				Key: d.key, UUID: d.uuid, ChangeID: state.change.String(), Size: state.size, ReaderAt: w, view: w,
			})
		}
	}
	for _, d := range snap.disks {
		d.v.mu.Unlock()
	}
	return frozen
}

// removeSnapshots takes snapshots out of the tree and merges what only they
// needed. It runs as a task.
func (vm *VM) removeSnapshots(list []*snapshot) error {
	if err := vm.gone(); err != nil {
		return err
	}
	for _, snap := range list {
		if !slices.Contains(vm.snapshots, snap) {
			return SOAPFault{&types.ManagedObjectNotFound{Obj: snap.obj.Self}, "The snapshot is gone."}
		}
	}
	leave := vm.quirks.ConsolidationNeeded
	if vm.quirks.ConsolidationTakes > 0 && !leave {
		vm.publish(func() { vm.forget(list...) })
		if err := vm.takes(vm.quirks.ConsolidationTakes); err != nil {
			return err
		}
	}
	left := false
	for _, d := range slices.Concat(vm.disks, vm.detached) {
		d.v.mu.Lock()
		for _, snap := range list {
			if state, ok := snap.states[d]; ok {
				d.v.release(state.top)
			}
		}
		if !leave {
			d.v.consolidate()
		}
		left = left || d.v.mergeable()
		d.v.mu.Unlock()
	}
	var err error
	vm.publish(func() {
		vm.forget(list...)
		vm.breakLeases(func(l *lease) bool { return slices.Contains(list, l.snap) }, "The snapshot that is exported was removed.")
		vm.stun()
		vm.consolidation = left
		err = vm.retireDetached()
	})
	return err
}

// forget takes snapshots out of the tree; those that left it already may be
// among them.
func (vm *VM) forget(list ...*snapshot) {
	for _, snap := range list {
		if slices.Contains(vm.snapshots, snap) {
			vm.forgetOne(snap)
		}
	}
}

// forgetOne makes a snapshot's children its parent's.
func (vm *VM) forgetOne(gone *snapshot) {
	vm.snapshots = slices.DeleteFunc(slices.Clone(vm.snapshots), func(s *snapshot) bool { return s == gone })
	for _, snap := range vm.snapshots {
		if snap.parent == gone {
			snap.parent = gone.parent
		}
	}
	if vm.current == gone {
		vm.current = gone.parent
	}
	vm.s.model.Map().Remove(vm.s.context(), gone.obj.Self)
}

// below lists a snapshot and all its descendants.
func (vm *VM) below(top *snapshot) []*snapshot {
	list := []*snapshot{top}
	for _, snap := range vm.snapshots {
		if snap.parent == top {
			list = append(list, vm.below(snap)...)
		}
	}
	return list
}

// consolidateDisks merges what removed snapshots left behind. It runs as a task.
func (vm *VM) consolidateDisks() error {
	if err := vm.gone(); err != nil {
		return err
	}
	if err := vm.takes(vm.quirks.ConsolidationTakes); err != nil {
		return err
	}
	for _, d := range vm.disks {
		d.v.mu.Lock()
		d.v.consolidate()
		d.v.mu.Unlock()
	}
	vm.publish(func() {
		vm.consolidation = false
		vm.stun()
	})
	return nil
}

// revert goes back to a snapshot: its disks start over from the frozen state,
// and tracking starts over too, so that older change IDs no longer count. It
// runs as a task.
func (vm *VM) revert(to *snapshot) error {
	if err := vm.gone(); err != nil {
		return err
	}
	if !slices.Contains(vm.snapshots, to) {
		return SOAPFault{&types.ManagedObjectNotFound{Obj: to.obj.Self}, "The snapshot is gone."}
	}
	for _, d := range to.disks {
		d.v.mu.Lock()
		d.v.startDelta(to.states[d].top)
		d.v.consolidate()
		if d.v.tracking.active {
			d.v.tracking.start()
		}
		d.v.mu.Unlock()
	}
	var err error
	vm.publish(func() {
		before := slices.Concat(vm.disks, vm.detached)
		vm.disks = slices.DeleteFunc(slices.Clone(vm.disks), func(d *Disk) bool {
			return d.frozenBySnapshots() && !slices.Contains(to.disks, d)
		})
		for _, d := range to.disks {
			if !slices.Contains(vm.disks, d) {
				vm.disks = append(vm.disks, d)
			}
		}
		vm.detached = slices.DeleteFunc(before, func(d *Disk) bool { return slices.Contains(vm.disks, d) })
		vm.current = to
		vm.setPower(to.power)
		err = vm.retireDetached()
	})
	return err
}

// renderSnapshots fills snapshot and rootSnapshot, and brings the snapshots'
// own objects up to date: merging renames files. The caller holds world.
func (vm *VM) renderSnapshots(o *mo.VirtualMachine) {
	o.Snapshot, o.RootSnapshot = nil, nil
	if len(vm.snapshots) == 0 {
		return
	}
	o.Snapshot = &types.VirtualMachineSnapshotInfo{RootSnapshotList: vm.tree(nil)}
	for _, root := range o.Snapshot.RootSnapshotList {
		o.RootSnapshot = append(o.RootSnapshot, root.Snapshot)
	}
	if vm.current != nil {
		ref := vm.current.obj.Self
		o.Snapshot.CurrentSnapshot = &ref
	}
	for _, snap := range vm.snapshots {
		snap.obj.Config = *vm.config(snap.disks, func(d *Disk) diskState { return snap.states[d] })
		snap.obj.Config.CreateDate = o.Config.CreateDate
		snap.obj.ChildSnapshot = nil
		for _, child := range vm.snapshots {
			if child.parent == snap {
				snap.obj.ChildSnapshot = append(snap.obj.ChildSnapshot, child.obj.Self)
			}
		}
		vm.s.revisions.touch(snap.obj.Self)
	}
}

func (vm *VM) tree(parent *snapshot) []types.VirtualMachineSnapshotTree {
	var list []types.VirtualMachineSnapshotTree
	for _, snap := range vm.snapshots {
		if snap.parent != parent {
			continue
		}
		list = append(list, types.VirtualMachineSnapshotTree{
			Snapshot: snap.obj.Self, Vm: vm.obj.Self, Name: snap.name, Description: snap.description, Id: snap.id,
			CreateTime: snap.created, State: snap.power, Quiesced: snap.quiesced,
			ReplaySupported: types.NewBool(false), ChildSnapshotList: vm.tree(snap),
		})
	}
	return list
}
