package vcenter

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// render puts the VM's state into its managed object. Every value is made anew
// and never changed afterwards: property filters compare old and new ones. The
// caller holds world, or is alone with the VM.
func (vm *VM) render() {
	o, spec := &vm.obj.VirtualMachine, vm.spec
	host, pool := vm.host.obj.Self, vm.s.places.pool.Self
	boot := now()
	if o.Config != nil {
		boot = o.Config.CreateDate
	}
	o.Name, o.ResourcePool = spec.Name, &pool
	o.DisabledMethod, o.RecentTask = vm.disabled, vm.recent
	o.Config = vm.config(vm.disks, vm.live)
	o.Config.CreateDate = boot
	o.Runtime = types.VirtualMachineRuntimeInfo{
		Host: &host, PowerState: spec.Power, ConnectionState: vm.connection,
		ConsolidationNeeded: vm.consolidation,
	}
	o.Guest = &types.GuestInfo{
		GuestId: spec.GuestID, GuestFullName: spec.GuestFullName,
		ToolsStatus: types.VirtualMachineToolsStatusToolsOk, ToolsRunningStatus: "guestToolsNotRunning", GuestState: "notRunning",
	}
	if spec.Power == types.VirtualMachinePowerStatePoweredOn {
		o.Guest.ToolsRunningStatus, o.Guest.GuestState = "guestToolsRunning", "running"
	}
	o.Capability = types.VirtualMachineCapability{ChangeTrackingSupported: spec.HardwareVersion >= 7}
	o.Summary = types.VirtualMachineSummary{
		Vm: &vm.obj.Self, Runtime: o.Runtime, OverallStatus: types.ManagedEntityStatusGreen,
		Config: types.VirtualMachineConfigSummary{
			Name: spec.Name, Uuid: spec.UUID, InstanceUuid: spec.InstanceUUID, VmPathName: o.Config.Files.VmPathName,
			MemorySizeMB: int32(spec.MemoryMB), NumCpu: int32(spec.CPUs), NumVirtualDisks: int32(len(vm.disks)), NumEthernetCards: 1,
			GuestId: spec.GuestID, GuestFullName: spec.GuestFullName, Annotation: spec.Annotation,
			HwVersion: fmt.Sprintf("vmx-%02d", spec.HardwareVersion),
		},
		Guest: &types.VirtualMachineGuestSummary{
			GuestId: spec.GuestID, GuestFullName: spec.GuestFullName,
			ToolsStatus: o.Guest.ToolsStatus, ToolsRunningStatus: o.Guest.ToolsRunningStatus,
		},
	}
	vm.renderFiles(o)
	vm.renderSnapshots(o)
}

// config is config.* of the VM or of one of its snapshots, whose disks are at
// the states that backing knows.
func (vm *VM) config(disks []*Disk, state func(*Disk) diskState) *types.VirtualMachineConfigInfo {
	spec := vm.spec
	dir := fmt.Sprintf("[%s] %s/", vm.home, vm.dir)
	c := &types.VirtualMachineConfigInfo{
		Name: spec.Name, Uuid: spec.UUID, InstanceUuid: spec.InstanceUUID,
		Version: fmt.Sprintf("vmx-%02d", spec.HardwareVersion), Firmware: spec.Firmware,
		GuestId: spec.GuestID, GuestFullName: spec.GuestFullName, Annotation: spec.Annotation,
		ChangeTrackingEnabled: types.NewBool(vm.tracked), Template: spec.Template,
		Files: types.VirtualMachineFileInfo{
			VmPathName: dir + vm.dir + ".vmx", SnapshotDirectory: dir, SuspendDirectory: dir, LogDirectory: dir,
		},
		BootOptions: &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(false)},
		ExtraConfig: vm.extraConfig(disks),
	}
	if spec.Encrypted {
		c.KeyId = &types.CryptoKeyId{KeyId: "key-1", ProviderId: &types.KeyProviderId{Id: "kms-1"}}
	}
	c.Hardware = types.VirtualHardware{
		NumCPU: int32(spec.CPUs), NumCoresPerSocket: types.NewInt32(1), MemoryMB: int32(spec.MemoryMB),
		Device: vm.devices(disks, state),
	}
	return c
}

func (vm *VM) extraConfig(disks []*Disk) []types.BaseOptionValue {
	values := map[string]string{}
	if vm.tracked {
		values["ctkEnabled"] = "TRUE"
	}
	for _, d := range disks {
		switch {
		case d.spec.CtkDisabled:
			values[d.node()+".ctkEnabled"] = "FALSE"
		case d.v.isTracked():
			values[d.node()+".ctkEnabled"] = "TRUE"
		}
	}
	for k, v := range vm.spec.ExtraConfig {
		values[k] = v
	}
	var list []types.BaseOptionValue
	for k, v := range values {
		list = append(list, &types.OptionValue{Key: k, Value: v})
	}
	slices.SortFunc(list, func(a, b types.BaseOptionValue) int {
		return cmp.Compare(a.GetOptionValue().Key, b.GetOptionValue().Key)
	})
	return list
}

func (v *volume) isTracked() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.tracking.active
}

// devices lists the hardware: a small set of what every VM has, the disks'
// controllers, a network card, the disks, and what the configuration adds.
func (vm *VM) devices(disks []*Disk, state func(*Disk) diskState) []types.BaseVirtualDevice {
	device := func(key int32, label string) types.VirtualDevice {
		return types.VirtualDevice{Key: key, DeviceInfo: &types.Description{Label: label, Summary: label}}
	}
	list := []types.BaseVirtualDevice{
		&types.VirtualPCIController{VirtualController: types.VirtualController{VirtualDevice: device(100, "PCI controller 0")}},
	}
	seen := map[int32]bool{}
	for _, d := range disks {
		if seen[d.controller] {
			continue
		}
		seen[d.controller] = true
		var attached []int32
		for _, o := range disks {
			if o.controller == d.controller {
				attached = append(attached, o.key)
			}
		}
		list = append(list, d.controllerDevice(attached))
	}
	card := &types.VirtualVmxnet3{}
	card.VirtualDevice = device(4000, "Network adapter 1")
	card.ControllerKey, card.UnitNumber = 100, types.NewInt32(7)
	card.AddressType, card.MacAddress = "assigned", vm.mac()
	network := vm.s.places.network
	card.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"}, Network: &network,
	}
	list = append(list, card)
	for i, d := range disks {
		list = append(list, d.device(fmt.Sprintf("Hard disk %d", i+1), state(d)))
	}
	return append(list, vm.spec.Devices...)
}

// mac is made of the UUID, in VMware's range.
func (vm *VM) mac() string {
	u := vm.spec.InstanceUUID
	if len(u) < 36 {
		u = newUUID("50")
	}
	return fmt.Sprintf("00:50:56:%s:%s:%s", u[30:32], u[32:34], u[34:36])
}

func (d *Disk) controllerDevice(attached []int32) types.BaseVirtualDevice {
	key := d.controller
	c := types.VirtualController{Device: attached}
	c.Key = key
	scsi := types.VirtualSCSIController{
		VirtualController: c, SharedBus: types.VirtualSCSISharingNoSharing, ScsiCtlrUnitNumber: 7,
		HotAddRemove: types.NewBool(true),
	}
	scsi.BusNumber, scsi.ControllerKey = key-1000, 100
	scsi.DeviceInfo = &types.Description{Label: fmt.Sprintf("SCSI controller %d", scsi.BusNumber)}
	switch d.spec.Controller {
	case "lsilogic":
		return &types.VirtualLsiLogicController{VirtualSCSIController: scsi}
	case "lsilogic-sas":
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: scsi}
	case "sata":
		c.BusNumber, c.ControllerKey = key-15000, 100
		return &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{VirtualController: c}}
	case "nvme":
		c.BusNumber, c.ControllerKey = key-31000, 100
		return &types.VirtualNVMEController{VirtualController: c}
	case "ide":
		c.BusNumber = key - 200
		return &types.VirtualIDEController{VirtualController: c}
	}
	return &types.ParaVirtualSCSIController{VirtualSCSIController: scsi}
}

// diskState is a disk at some time: now, or at a snapshot.
type diskState struct {
	top    *layer
	change changeID
	size   int64
}

func (vm *VM) live(d *Disk) diskState {
	d.v.mu.RLock()
	defer d.v.mu.RUnlock()
	return diskState{d.v.live, d.v.tracking.now(), d.v.size}
}

func (d *Disk) device(label string, s diskState) *types.VirtualDisk {
	disk := &types.VirtualDisk{
		CapacityInKB: s.size >> 10, CapacityInBytes: s.size, DiskObjectId: fmt.Sprintf("1-%d", d.key),
		VDiskId: &types.ID{Id: d.uuid},
	}
	disk.Key, disk.ControllerKey, disk.UnitNumber = d.key, d.controller, types.NewInt32(d.unit)
	disk.DeviceInfo = &types.Description{Label: label, Summary: fmt.Sprintf("%d KB", s.size>>10)}
	d.v.mu.RLock()
	defer d.v.mu.RUnlock()
	sharing := types.VirtualDiskSharingSharingNone
	if d.spec.MultiWriter {
		sharing = types.VirtualDiskSharingSharingMultiWriter
	}
	if d.spec.RDM != "" {
		b := &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			LunUuid: "0200000000" + d.uuid[:8], DeviceName: "vml." + d.uuid[:8], CompatibilityMode: d.spec.RDM,
			DiskMode: d.spec.Mode, Uuid: d.uuid, ChangeId: s.change.String(), Sharing: string(sharing),
		}
		b.VirtualDeviceFileBackingInfo = d.file(s.top)
		disk.Backing = b
		return disk
	}
	if d.vm.quirks.SeSparseBackings && s.top.parent != nil && d.deltas() == DeltasSESparse {
		b := d.seSparse(s.top)
		b.ChangeId = s.change.String()
		disk.Backing = b
		return disk
	}
	top := d.flat(s.top)
	top.ChangeId, top.Sharing = s.change.String(), string(sharing)
	disk.Backing = top
	return disk
}

// flat is the backing of a chain of files. The caller holds the volume's lock.
func (d *Disk) flat(l *layer) *types.VirtualDiskFlatVer2BackingInfo {
	b := &types.VirtualDiskFlatVer2BackingInfo{
		DiskMode: d.spec.Mode, ThinProvisioned: types.NewBool(!d.spec.Thick), WriteThrough: types.NewBool(false),
		EagerlyScrub: types.NewBool(false), Split: types.NewBool(false), DigestEnabled: types.NewBool(false),
		Uuid: d.uuid, ContentId: fmt.Sprintf("%08x", l.cid),
	}
	b.VirtualDeviceFileBackingInfo = d.file(l)
	if l.parent != nil {
		b.Parent = d.flat(l.parent)
		b.DeltaDiskFormat = string(types.VirtualDiskDeltaDiskFormatSeSparseFormat)
		if d.deltas() == DeltasVMFSSparse {
			b.DeltaDiskFormat = string(types.VirtualDiskDeltaDiskFormatRedoLogFormat)
		}
	}
	return b
}

// seSparse is flat's other way: vSphere's types allow no mixed chains.
func (d *Disk) seSparse(l *layer) *types.VirtualDiskSeSparseBackingInfo {
	b := &types.VirtualDiskSeSparseBackingInfo{
		DiskMode: d.spec.Mode, WriteThrough: types.NewBool(false), DigestEnabled: types.NewBool(false),
		Uuid: d.uuid, ContentId: fmt.Sprintf("%08x", l.cid),
	}
	b.VirtualDeviceFileBackingInfo = d.file(l)
	if l.parent != nil {
		b.Parent = d.seSparse(l.parent)
		b.DeltaDiskFormat, b.GrainSize = string(types.VirtualDiskDeltaDiskFormatSeSparseFormat), seSparseGrain>>10
	}
	return b
}

func (d *Disk) file(l *layer) types.VirtualDeviceFileBackingInfo {
	ds := d.vm.s.places.datastores[d.spec.Datastore].Self
	p := object.DatastorePath{Datastore: d.spec.Datastore, Path: l.file}
	return types.VirtualDeviceFileBackingInfo{FileName: p.String(), Datastore: &ds}
}

// renderFiles fills layoutEx and what depends on it.
func (vm *VM) renderFiles(o *mo.VirtualMachine) {
	layout := &types.VirtualMachineFileLayoutEx{Timestamp: *now()}
	add := func(store, name, kind string, size int64) int32 {
		p := object.DatastorePath{Datastore: store, Path: name}
		key := int32(len(layout.File))
		layout.File = append(layout.File, types.VirtualMachineFileLayoutExFileInfo{
			Key: key, Name: p.String(), Type: kind, Size: size, UniqueSize: size, Accessible: types.NewBool(true),
		})
		return key
	}
	add(vm.home, path.Join(vm.dir, vm.dir+".vmx"), "config", 4<<10)
	o.Datastore = []types.ManagedObjectReference{vm.s.places.datastores[vm.home].Self}
	var committed, provisioned int64
	for _, d := range vm.disks {
		d.v.mu.RLock()
		disk := types.VirtualMachineFileLayoutExDiskLayout{Key: d.key}
		for l := d.v.live; l != nil; l = l.parent {
			size := int64(len(l.pages)) * grain
			if l.parent == nil && d.spec.Thick {
				size = d.v.size
			}
			committed += size
			disk.Chain = slices.Insert(disk.Chain, 0, types.VirtualMachineFileLayoutExDiskUnit{FileKey: []int32{
				add(d.spec.Datastore, l.file, "diskDescriptor", 1<<10),
				add(d.spec.Datastore, d.dataFile(l), "diskExtent", size),
			}})
		}
		provisioned += d.v.size
		d.v.mu.RUnlock()
		layout.Disk = append(layout.Disk, disk)
		if ds := vm.s.places.datastores[d.spec.Datastore].Self; !slices.Contains(o.Datastore, ds) {
			o.Datastore = append(o.Datastore, ds)
		}
	}
	o.LayoutEx = layout
	o.Summary.Storage = &types.VirtualMachineStorageSummary{
		Committed: committed, Uncommitted: max(provisioned-committed, 0), Unshared: committed, Timestamp: *now(),
	}
}
