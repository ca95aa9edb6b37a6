package vcenter

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// What owners of servers do while a migration goes on, and what clients must
// not be confused by.

// TakeSnapshot makes a snapshot of the disks, as somebody at the console or
// another product would.
func (vm *VM) TakeSnapshot(name string) error {
	vm.op.Lock()
	defer vm.op.Unlock()
	_, err := vm.createSnapshot(name, "", false, false)
	return err
}

// Revert goes back to the server's snapshot of that name, as somebody at the
// console would: tracking starts over.
func (vm *VM) Revert(name string) error {
	vm.op.Lock()
	defer vm.op.Unlock()
	for _, snap := range vm.listSnapshots() {
		if snap.name == name {
			return vm.revert(snap)
		}
	}
	return fmt.Errorf("server %q has no snapshot %q", vm.Name(), name)
}

// RemoveAllSnapshots removes the server's snapshots, whoever made them.
func (vm *VM) RemoveAllSnapshots() error {
	vm.op.Lock()
	defer vm.op.Unlock()
	return vm.removeSnapshots(vm.listSnapshots())
}

func (vm *VM) listSnapshots() []*snapshot {
	vm.s.world.RLock()
	defer vm.s.world.RUnlock()
	return slices.Clone(vm.snapshots)
}

// Move moves a server to another host (vMotion), all its disks to another
// datastore (storage vMotion), or both; empty is where it is. Moved disks lose
// their tracking, and their files are named after the server again.
func (s *Server) Move(name, host, datastore string) error {
	vm := s.VM(name)
	switch {
	case vm == nil:
		return fmt.Errorf("there is no server %q", name)
	case s.cfg.Standalone:
		return fmt.Errorf("server %q: a standalone host has nowhere to move it", name)
	}
	return vm.change(func() error {
		to := vm.host
		if host != "" {
			to = s.Host(host)
		}
		switch {
		case len(vm.leases) > 0:
			return fmt.Errorf("server %q cannot be moved: it is being exported", name)
		case to == nil:
			return fmt.Errorf("there is no host %q", host)
		case datastore != "" && s.places.datastores[datastore] == nil:
			return fmt.Errorf("there is no datastore %q", datastore)
		}
		vm.moveTo(to)
		if datastore != "" {
			vm.moveFiles(datastore)
		}
		return nil
	})
}

func (vm *VM) moveTo(to *Host) {
	from := vm.host
	if from == to {
		return
	}
	self := vm.obj.Self
	from.obj.Vm = slices.DeleteFunc(slices.Clone(from.obj.Vm), func(r types.ManagedObjectReference) bool { return r == self })
	to.obj.Vm = append(slices.Clone(to.obj.Vm), self)
	vm.host, vm.connection = to, types.VirtualMachineConnectionStateConnected
	if !to.connected() {
		vm.connection = types.VirtualMachineConnectionStateDisconnected
	}
	vm.s.revisions.touch(from.obj.Self)
	vm.s.revisions.touch(to.obj.Self)
}

// moveFiles moves the server's files to a datastore, into a folder that is
// named after the server.
func (vm *VM) moveFiles(datastore string) {
	dir := vm.spec.Name
	for n := 1; vm.s.dirs[dir] != nil && vm.s.dirs[dir] != vm; n++ {
		dir = fmt.Sprintf("%s_%d", vm.spec.Name, n)
	}
	old := path.Join(vm.dir, vm.dir)
	for _, d := range slices.Concat(vm.disks, vm.detached) {
		d.spec.Datastore = datastore
		d.v.mu.Lock()
		for _, l := range d.v.layers {
			l.delta = nil // the format may be another
			l.file = path.Join(dir, dir) + strings.TrimPrefix(l.file, old)
		}
		if d.v.tracking.active {
			d.v.tracking.start()
		}
		d.v.mu.Unlock()
	}
	delete(vm.s.dirs, vm.dir)
	vm.s.dirs[dir], vm.dir, vm.home = vm, dir, datastore
}
