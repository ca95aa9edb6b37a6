package vsphere

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// virtualDisk is a disk of a virtual machine or of a snapshot's configuration.
type virtualDisk struct {
	key      int32
	id       hypervisor.DiskID
	label    string
	size     int64
	file     string   // "[datastore] web/web.vmdk": the descriptor
	parents  []string // the descriptors it asks for what it does not hold, the nearest first
	flat     bool     // one file made by the usual (flat) format
	parent   bool     // it asks a parent for what it does not hold
	changeID hypervisor.ChangeID
	node     string // its place in the settings: "scsi0:1"
	mode     string // "persistent"
	kind     string // of its backing, for people: "flat"
	sealed   bool   // encrypted by vSphere
	skip     string // why it cannot be replicated, or empty
	shared   bool   // several machines may write: such a disk forbids every snapshot
}

// disksOf reads the disks of a configuration, in the order in which the
// firmware sees them: those it was told to start from, then by controller and
// unit.
func disksOf(devices []types.BaseVirtualDevice, boot []int32) []virtualDisk {
	controllers := map[int32]types.BaseVirtualDevice{}
	for _, d := range devices {
		controllers[d.GetVirtualDevice().Key] = d
	}
	type placed struct {
		virtualDisk
		rank             int
		controller, unit int32
	}
	var found []placed
	for _, device := range devices {
		d, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		p := placed{virtualDisk: describeDisk(d), rank: len(boot), controller: d.ControllerKey}
		if i := slices.Index(boot, d.Key); i >= 0 {
			p.rank = i
		}
		if d.UnitNumber != nil {
			p.unit = *d.UnitNumber
		}
		controller := controllers[d.ControllerKey]
		p.node = nodeName(controller, p.unit)
		if scsi, ok := controller.(types.BaseVirtualSCSIController); ok && p.skip == "" {
			if bus := scsi.GetVirtualSCSIController().SharedBus; bus != "" && bus != types.VirtualSCSISharingNoSharing {
				p.skip, p.shared = "its SCSI controller shares the bus with other virtual machines", true
			}
		}
		found = append(found, p)
	}
	slices.SortStableFunc(found, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.controller, b.controller), cmp.Compare(a.unit, b.unit))
	})
	seen := map[hypervisor.DiskID]int{}
	for _, d := range found {
		seen[d.id]++
	}
	disks := make([]virtualDisk, len(found))
	for i, d := range found {
		disks[i] = d.virtualDisk
		switch {
		case d.skip != "":
		case d.id == "":
			disks[i].skip = "vSphere gives it no UUID"
		case seen[d.id] > 1:
			disks[i].skip = "another disk of the server has the same UUID"
		}
	}
	return disks
}

func describeDisk(d *types.VirtualDisk) virtualDisk {
	v := virtualDisk{key: d.Key, label: fmt.Sprintf("disk %d", d.Key), size: d.CapacityInBytes}
	if v.size == 0 { // set by version 5.5 and later
		v.size = d.CapacityInKB << 10
	}
	if d.DeviceInfo != nil {
		if label := d.DeviceInfo.GetDescription().Label; label != "" {
			v.label = label
		}
	}
	v.parents = parentsOf(d.Backing)
	var sharing string
	switch b := d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		v.id, v.file, v.changeID = hypervisor.DiskID(b.Uuid), b.FileName, hypervisor.ChangeID(b.ChangeId)
		v.flat, v.parent = true, b.Parent != nil
		v.mode, sharing = b.DiskMode, b.Sharing
		v.kind, v.sealed = "flat", b.KeyId != nil
	case *types.VirtualDiskSeSparseBackingInfo:
		v.id, v.file, v.changeID, v.parent = hypervisor.DiskID(b.Uuid), b.FileName, hypervisor.ChangeID(b.ChangeId), b.Parent != nil
		v.mode, v.kind, v.sealed = b.DiskMode, "SEsparse", b.KeyId != nil
	case *types.VirtualDiskSparseVer2BackingInfo:
		v.id, v.file, v.changeID, v.parent = hypervisor.DiskID(b.Uuid), b.FileName, hypervisor.ChangeID(b.ChangeId), b.Parent != nil
		v.mode, v.kind, v.sealed = b.DiskMode, "sparse", b.KeyId != nil
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		v.id, v.file, v.changeID, v.parent = hypervisor.DiskID(b.Uuid), b.FileName, hypervisor.ChangeID(b.ChangeId), b.Parent != nil
		v.mode, sharing = b.DiskMode, b.Sharing
		v.kind = "raw device mapping, " + b.CompatibilityMode
		if b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode) {
			v.skip = "it is a raw device mapping in physical mode, which snapshots leave out"
			return v
		}
	default:
		v.skip = fmt.Sprintf("its kind of backing is not known to Skylift (%T)", d.Backing)
		return v
	}
	switch {
	case sharing == string(types.VirtualDiskSharingSharingMultiWriter):
		v.skip, v.shared = "it may be written by several virtual machines (multi-writer)", true
	case strings.HasPrefix(strings.ToLower(v.mode), "independent"):
		v.skip = "it is independent, which snapshots leave out"
	}
	return v
}

// parentsOf lists the descriptors below a backing's own, the nearest first.
func parentsOf(backing types.BaseVirtualDeviceBackingInfo) (files []string) {
	for {
		switch b := backing.(type) {
		case *types.VirtualDiskFlatVer2BackingInfo:
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case *types.VirtualDiskSeSparseBackingInfo:
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case *types.VirtualDiskSparseVer2BackingInfo:
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
			if b.Parent == nil {
				return files
			}
			backing = b.Parent
		default:
			return files
		}
		files = append(files, backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName)
	}
}

// nodeName is how a virtual machine's settings call a place on a controller.
func nodeName(controller types.BaseVirtualDevice, unit int32) string {
	c, ok := controller.(types.BaseVirtualController)
	if !ok {
		return ""
	}
	var bus string
	switch controller.(type) {
	case types.BaseVirtualSCSIController:
		bus = "scsi"
	case types.BaseVirtualSATAController:
		bus = "sata"
	case *types.VirtualIDEController:
		bus = "ide"
	case *types.VirtualNVMEController:
		bus = "nvme"
	default:
		return ""
	}
	return fmt.Sprintf("%s%d:%d", bus, c.GetVirtualController().BusNumber, unit)
}

// trackingFlaw says why change tracking of a disk cannot be relied on, or
// nothing. The machine's flag and the disk's own setting can each lie, so both
// must say yes.
func trackingFlaw(enabled *bool, settings []types.BaseOptionValue, node string) string {
	if enabled == nil || !*enabled {
		return "changed block tracking is off"
	}
	name := node + ".ctkEnabled"
	for _, o := range settings {
		v := o.GetOptionValue()
		if v != nil && strings.EqualFold(v.Key, name) {
			if strings.EqualFold(fmt.Sprint(v.Value), "true") {
				return ""
			}
			return fmt.Sprintf("changed block tracking is on for the virtual machine, but its setting %s is %v", name, v.Value)
		}
	}
	return fmt.Sprintf("changed block tracking is on for the virtual machine, but its setting %s is missing", name)
}
