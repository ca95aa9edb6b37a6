package vcenter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// VM is a server of the simulated vCenter, as a test sees it.
type VM struct {
	s     *Server
	op    sync.Mutex // one operation at a time; taken before world
	waits waits
	task  *task // that holds op

	// Guarded by world.
	spec          ServerSpec
	obj           *machine
	host          *Host
	connection    types.VirtualMachineConnectionState
	dir           string                         // of its files, which a rename does not move
	home          string                         // the datastore of its configuration
	recent        []types.ManagedObjectReference // tasks
	disks         []*Disk
	detached      []*Disk // removed, and still part of snapshots
	made          int     // disks ever made: files are not named twice
	snapshots     []*snapshot
	current       *snapshot
	lastID        int32
	tracked       bool // config.changeTrackingEnabled; in effect from the next stun on
	trackedLate   bool // it was set while there were snapshots
	quirks        Quirks
	disabled      []string
	consolidation bool     // runtime.consolidationNeeded
	leases        []*lease // that are held
}

// machine is the managed object of a VM. Its methods are what clients can call.
type machine struct {
	mo.VirtualMachine
	worldLocked
	vm *VM
}

func (s *Server) newVM(spec ServerSpec, dir string, folder *simulator.Folder) (*VM, error) {
	spec.ExtraConfig = maps.Clone(spec.ExtraConfig)
	vm := &VM{
		s: s, spec: spec, dir: dir, home: s.cfg.Datastores[0].Name, tracked: spec.ChangeTracking, quirks: spec.Quirks,
		connection: types.VirtualMachineConnectionStateConnected,
	}
	vm.host = s.places.hosts[int(s.next.Load())%len(s.places.hosts)]
	if spec.Host != "" {
		if vm.host = s.Host(spec.Host); vm.host == nil {
			return nil, fmt.Errorf("there is no host %q", spec.Host)
		}
	}
	vm.obj = &machine{vm: vm}
	vm.obj.Self = s.reference("VirtualMachine", "vm")
	parent := folder.Self
	vm.obj.Parent = &parent
	for i, d := range spec.Disks {
		if _, err := vm.newDisk(d); err != nil {
			return nil, errors.Join(fmt.Errorf("disk %d: %w", i, err), vm.retire(true))
		}
	}
	for _, d := range vm.disks {
		d.stun()
	}
	vm.render()
	return vm, nil
}

// retire closes the contents of all disks, at once or when their last reader is done.
func (vm *VM) retire(atOnce bool) error {
	var errs []error
	for _, d := range slices.Concat(vm.disks, vm.detached) {
		errs = append(errs, d.v.retire(atOnce))
	}
	return errors.Join(errs...)
}

// retireDetached closes the contents of removed disks that no snapshot holds.
func (vm *VM) retireDetached() error {
	var errs []error
	vm.detached = slices.DeleteFunc(slices.Clone(vm.detached), func(d *Disk) bool {
		d.v.mu.RLock()
		held := len(d.v.held) > 0
		d.v.mu.RUnlock()
		if !held {
			errs = append(errs, d.v.retire(false))
		}
		return !held
	})
	return errors.Join(errs...)
}

// Name is the server's name in the inventory.
func (vm *VM) Name() string {
	vm.s.world.RLock()
	defer vm.s.world.RUnlock()
	return vm.spec.Name
}

// Reference is the VM's managed object reference.
func (vm *VM) Reference() types.ManagedObjectReference { return vm.obj.Self }

// Disks lists the disks in the order in which they were added.
func (vm *VM) Disks() []*Disk {
	vm.s.world.RLock()
	defer vm.s.world.RUnlock()
	return slices.Clone(vm.disks)
}

// Disk returns the i-th of Disks; it panics where there is none.
func (vm *VM) Disk(i int) *Disk { return vm.Disks()[i] }

// change runs f while nothing else happens to the server, and shows the result
// to clients.
func (vm *VM) change(f func() error) error {
	vm.op.Lock()
	defer vm.op.Unlock()
	vm.s.world.Lock()
	defer vm.s.world.Unlock()
	if vm.s.vms[vm.obj.Self] != vm {
		return fmt.Errorf("server %q is gone", vm.spec.Name)
	}
	if err := f(); err != nil {
		return err
	}
	vm.render()
	vm.s.revisions.touch(vm.obj.Self)
	return nil
}

// Rename changes the name in the inventory. The files keep theirs.
func (vm *VM) Rename(name string) error {
	return vm.change(func() error {
		for _, o := range vm.s.vms {
			if o.spec.Name == name || name == "" {
				return fmt.Errorf("rename %q to %q: the name is empty or taken", vm.spec.Name, name)
			}
		}
		vm.spec.Name = name
		return nil
	})
}

// SetPower switches the server on or off, as its owner would.
func (vm *VM) SetPower(state types.VirtualMachinePowerState) error {
	return vm.change(func() error {
		vm.setPower(state)
		return nil
	})
}

func (vm *VM) setPower(state types.VirtualMachinePowerState) {
	if vm.spec.Power != types.VirtualMachinePowerStatePoweredOn && state == types.VirtualMachinePowerStatePoweredOn {
		vm.breakLeases(func(l *lease) bool { return l.snap == nil }, "The server that is exported was switched on.")
		vm.stun() // disks are opened
	}
	vm.spec.Power = state
}

// Disable has the server refuse methods, as backup products do while they work:
// names as in disabledMethod, CreateSnapshot_Task for one. None allows all again.
func (vm *VM) Disable(methods ...string) error {
	return vm.change(func() error {
		vm.disabled = slices.Clone(methods)
		return nil
	})
}

// SetAnnotation changes the server's notes.
func (vm *VM) SetAnnotation(text string) error {
	return vm.change(func() error {
		vm.spec.Annotation = text
		return nil
	})
}

// SetQuirks changes what is wrong with the server from now on.
func (vm *VM) SetQuirks(q Quirks) error {
	return vm.change(func() error {
		vm.quirks = q
		return nil
	})
}

// ResetTracking loses what was known about changes, as a power failure or a
// storage migration does: all disks get new tracking UUIDs.
func (vm *VM) ResetTracking() error {
	return vm.change(func() error {
		for _, d := range vm.disks {
			d.resetTracking()
		}
		return nil
	})
}

// AddDisk adds a disk to the server while it runs.
func (vm *VM) AddDisk(spec DiskSpec) (*Disk, error) {
	var d *Disk
	err := vm.change(func() (err error) {
		if d, err = vm.newDisk(spec); err != nil {
			return err
		}
		d.stun()
		return nil
	})
	return d, err
}

// stun is the moment in which vSphere closes and opens a server's disks, and
// changed settings of tracking take effect.
func (vm *VM) stun() {
	for _, d := range vm.disks {
		d.stun()
	}
}

// extra is an ExtraConfig value by its key, whatever the letters' case.
func (vm *VM) extra(key string) string {
	for k, v := range vm.spec.ExtraConfig {
		if strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}
