package vcenter

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// Disk is a virtual disk as the guest, or a test, sees it.
type Disk struct {
	vm *VM
	v  *volume

	// Never change, but for spec.Datastore, which world guards.
	spec       DiskSpec
	key        int32
	controller int32 // key
	unit       int32
	uuid       string

	// Guarded by the volume's lock.
	trackedLate bool // tracking was asked for while there were snapshots
	grown       []growth
}

// growth is the size of a disk before it grew, and when that was.
type growth struct {
	size  int64
	after changeID
}

// newDisk opens the content and finds a place for the disk. The caller holds
// world, or is alone with the VM.
func (vm *VM) newDisk(spec DiskSpec) (*Disk, error) {
	if spec.Mode == "" {
		spec.Mode = string(types.VirtualDiskModePersistent)
	}
	if spec.Datastore == "" {
		spec.Datastore = vm.s.cfg.Datastores[0].Name
	}
	if vm.s.places.datastores[spec.Datastore] == nil {
		return nil, fmt.Errorf("there is no datastore %q", spec.Datastore)
	}
	if spec.RDM != "" && spec.RDM != "physicalMode" && spec.RDM != "virtualMode" {
		return nil, fmt.Errorf("RDM is physicalMode or virtualMode, not %q", spec.RDM)
	}
	if spec.UUID == "" {
		spec.UUID = newUUID("6000c29")
	}
	d := &Disk{vm: vm, spec: spec, uuid: spec.UUID}
	if err := d.place(); err != nil {
		return nil, err
	}
	content, err := spec.Content.start(vm.s.dir)
	if err != nil {
		return nil, err
	}
	size := spec.Size
	if size == 0 {
		size = (content.size + 511) / 512 * 512
	}
	if size <= 0 || size%512 != 0 {
		err := fmt.Errorf("a size of %d bytes is not a positive multiple of 512", size)
		if content.close != nil {
			err = errors.Join(err, content.close())
		}
		return nil, err
	}
	d.v = newVolume(content, size, diskFile(vm.dir, vm.made))
	vm.made++
	vm.disks = append(vm.disks, d)
	return d, nil
}

// place finds the disk's controller and unit. Keys follow vSphere's scheme.
func (d *Disk) place() error {
	controller, err := controllerKey(d.spec.Controller, d.spec.Bus)
	if err != nil {
		return err
	}
	base, units := diskKeys(controller)
	d.controller, d.unit = controller, int32(d.spec.Unit)
	taken := func() bool {
		ownUnit := units == 16 && d.unit == 7 // a SCSI controller's
		return ownUnit || slices.ContainsFunc(d.vm.disks, func(o *Disk) bool { return o.controller == d.controller && o.unit == d.unit })
	}
	for d.spec.Unit == 0 && taken() {
		d.unit++
	}
	if d.unit >= units || taken() {
		return fmt.Errorf("unit %d of controller %d is taken or does not exist", d.unit, controller)
	}
	d.key = base + d.unit
	return nil
}

func controllerKey(kind string, bus int) (int32, error) {
	keys := map[string]struct{ first, buses int }{
		"": {1000, 4}, "pvscsi": {1000, 4}, "lsilogic": {1000, 4}, "lsilogic-sas": {1000, 4},
		"sata": {15000, 4}, "ide": {200, 2}, "nvme": {31000, 4},
	}
	k, ok := keys[kind]
	if !ok || bus < 0 || bus >= k.buses {
		return 0, fmt.Errorf("there is no controller %q %d", kind, bus)
	}
	return int32(k.first + bus), nil
}

// diskKeys is the key of a controller's first disk, and how many it takes.
func diskKeys(controller int32) (first, units int32) {
	switch {
	case controller >= 31000:
		return 32000 + (controller-31000)*15, 15
	case controller >= 15000:
		return 16000 + (controller-15000)*30, 30
	case controller >= 1000:
		return 2000 + (controller-1000)*16, 16
	}
	return 3000 + (controller-200)*2, 2
}

// node is the disk's name in ExtraConfig, as scsi0:1.
func (d *Disk) node() string {
	kind, first := "scsi", int32(1000)
	switch {
	case d.controller >= 31000:
		kind, first = "nvme", 31000
	case d.controller >= 15000:
		kind, first = "sata", 15000
	case d.controller < 1000:
		kind, first = "ide", 200
	}
	return fmt.Sprintf("%s%d:%d", kind, d.controller-first, d.unit)
}

// Key is the disk's device key.
func (d *Disk) Key() int32 { return d.key }

// UUID is the disk's identity: the backing's uuid.
func (d *Disk) UUID() string { return d.uuid }

// Size is the capacity in bytes.
func (d *Disk) Size() int64 {
	d.v.mu.RLock()
	defer d.v.mu.RUnlock()
	return d.v.size
}

// ReadAt reads what the guest sees now.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.v.readLive(p, off) }

// WriteAt is a guest's write: the live disk changes, snapshots do not. It may
// run at the same time as anything else.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) { return d.v.write(p, off) }

// Allocated lists the extents that hold data, in units of 64 KiB.
func (d *Disk) Allocated() ([]Extent, error) {
	d.v.mu.RLock()
	defer d.v.mu.RUnlock()
	return d.v.allocated(d.v.live, d.v.size)
}

var (
	_ io.ReaderAt = (*Disk)(nil)
	_ io.WriterAt = (*Disk)(nil)
)

// Grow makes the disk larger; size is the new one in bytes. As in vSphere that
// is refused while the server has snapshots.
func (d *Disk) Grow(size int64) error {
	return d.vm.change(func() error {
		d.v.mu.Lock()
		defer d.v.mu.Unlock()
		if size <= d.v.size || size%512 != 0 {
			return fmt.Errorf("a disk of %d bytes cannot grow to %d", d.v.size, size)
		}
		if d.v.live.parent != nil {
			return fmt.Errorf("disk %s has snapshots and cannot grow", d.v.live.file)
		}
		d.grown = append(d.grown, growth{d.v.size, d.v.tracking.now()})
		d.v.size = size
		if d.vm.quirks.Resized == ResizedResets && d.v.tracking.active {
			d.v.tracking.start()
		}
		return nil
	})
}

// Remove takes the disk away from its server. Snapshots that hold it keep it.
func (d *Disk) Remove() error {
	return d.vm.change(func() error {
		i := slices.Index(d.vm.disks, d)
		if i < 0 {
			return fmt.Errorf("disk %s is already removed", d.uuid)
		}
		d.vm.disks = slices.Delete(slices.Clone(d.vm.disks), i, i+1)
		d.vm.detached = append(slices.Clone(d.vm.detached), d)
		return d.vm.retireDetached()
	})
}

// frozenBySnapshots says whether snapshots contain the disk.
func (d *Disk) frozenBySnapshots() bool {
	return !strings.HasPrefix(d.spec.Mode, "independent") && d.spec.RDM != "physicalMode"
}

// trackable says whether changes of the disk can be tracked.
func (d *Disk) trackable() bool {
	ctk := d.vm.extra(d.node() + ".ctkEnabled")
	return d.vm.tracked && d.vm.spec.HardwareVersion >= 7 && d.frozenBySnapshots() &&
		!d.spec.MultiWriter && !d.spec.CtkDisabled && !strings.EqualFold(ctk, "FALSE")
}

// stun lets the server's tracking settings take effect on the disk.
func (d *Disk) stun() {
	want := d.trackable()
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	switch {
	case want && !d.v.tracking.active:
		d.v.tracking.start()
		d.trackedLate = d.vm.trackedLate
	case !want:
		d.v.tracking.stop()
	}
}

func (d *Disk) resetTracking() {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	if d.v.tracking.active {
		d.v.tracking.start()
	}
}
