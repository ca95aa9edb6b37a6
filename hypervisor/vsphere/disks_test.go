package vsphere

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

func scsi(key, bus int32, shared types.VirtualSCSISharing) *types.ParaVirtualSCSIController {
	c := &types.ParaVirtualSCSIController{}
	c.Key, c.BusNumber, c.SharedBus = key, bus, shared
	return c
}

func diskAt(key, controller, unit int32, backing types.BaseVirtualDeviceBackingInfo) *types.VirtualDisk {
	d := &types.VirtualDisk{CapacityInBytes: 1 << 20}
	d.Key, d.ControllerKey, d.UnitNumber, d.Backing = key, controller, &unit, backing
	d.DeviceInfo = &types.Description{Label: "Hard disk " + string(rune('0'+key-2000))}
	return d
}

func flatBacking(uuid string) *types.VirtualDiskFlatVer2BackingInfo {
	return &types.VirtualDiskFlatVer2BackingInfo{Uuid: uuid, DiskMode: "persistent"}
}

func TestDisksThatCannotBeReplicatedSayWhy(t *testing.T) {
	rdm := func(mode string) *types.VirtualDiskRawDiskMappingVer1BackingInfo {
		return &types.VirtualDiskRawDiskMappingVer1BackingInfo{Uuid: "u", CompatibilityMode: mode}
	}
	for _, c := range []struct {
		name    string
		bus     types.VirtualSCSISharing
		backing types.BaseVirtualDeviceBackingInfo
		skip    string // part of it
		shared  bool
	}{
		{"an ordinary disk", types.VirtualSCSISharingNoSharing, flatBacking("u"), "", false},
		{"a virtual mapping", "", rdm("virtualMode"), "", false},
		{"a physical mapping", "", rdm("physicalMode"), "physical", false},
		{"an independent disk", "", &types.VirtualDiskFlatVer2BackingInfo{Uuid: "u", DiskMode: "independent_persistent"}, "independent", false},
		{"an independent disk that forgets", "", &types.VirtualDiskSeSparseBackingInfo{Uuid: "u", DiskMode: "independent_nonpersistent"}, "independent", false},
		{"a multi-writer disk", "", &types.VirtualDiskFlatVer2BackingInfo{Uuid: "u", Sharing: "sharingMultiWriter"}, "multi-writer", true},
		{"a shared bus", types.VirtualSCSISharingPhysicalSharing, flatBacking("u"), "shares the bus", true},
		{"no UUID", "", flatBacking(""), "no UUID", false},
		{"a backing of another kind", "", &types.VirtualDiskLocalPMemBackingInfo{}, "not known", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := disksOf([]types.BaseVirtualDevice{scsi(1000, 0, c.bus), diskAt(2000, 1000, 0, c.backing)}, nil)[0]
			if (d.skip == "") != (c.skip == "") || !strings.Contains(d.skip, c.skip) || d.shared != c.shared {
				t.Errorf("skip is %q, shared %v", d.skip, d.shared)
			}
		})
	}
}

func TestDisksWithOneUUIDAreNotReplicated(t *testing.T) {
	disks := disksOf([]types.BaseVirtualDevice{
		diskAt(2000, 1000, 0, flatBacking("same")), diskAt(2001, 1000, 1, flatBacking("other")), diskAt(2002, 1000, 2, flatBacking("same")),
	}, nil)
	if disks[0].skip == "" || disks[1].skip != "" || disks[2].skip == "" {
		t.Errorf("disks are %+v", disks)
	}
}

func TestDisksComeAsTheFirmwareSeesThem(t *testing.T) {
	nvme := &types.VirtualNVMEController{}
	nvme.Key, nvme.BusNumber = 31000, 0
	sata := &types.VirtualAHCIController{}
	sata.Key, sata.BusNumber = 15000, 1
	ide := &types.VirtualIDEController{}
	ide.Key, ide.BusNumber = 200, 0
	devices := []types.BaseVirtualDevice{
		diskAt(2004, 31000, 0, flatBacking("nvme0:0")), diskAt(2003, 1001, 0, flatBacking("scsi1:0")), diskAt(2002, 1000, 10, flatBacking("scsi0:10")),
		diskAt(2001, 1000, 9, flatBacking("scsi0:9")), diskAt(2005, 15000, 3, flatBacking("sata1:3")), diskAt(2006, 200, 1, flatBacking("ide0:1")),
		nvme, sata, ide, scsi(1000, 0, ""), scsi(1001, 1, ""),
	}
	order := func(boot ...int32) (ids []string) {
		for _, d := range disksOf(devices, boot) {
			if d.node != string(d.id) {
				t.Errorf("disk %s is said to be at %s", d.id, d.node)
			}
			ids = append(ids, string(d.id))
		}
		return ids
	}
	if got := strings.Join(order(), " "); got != "ide0:1 scsi0:9 scsi0:10 scsi1:0 sata1:3 nvme0:0" {
		t.Errorf("order is %s", got)
	}
	if got := strings.Join(order(2003, 2004), " "); got != "scsi1:0 nvme0:0 ide0:1 scsi0:9 scsi0:10 sata1:3" {
		t.Errorf("with a boot order: %s", got)
	}
}

func TestTrackingIsTrustedOnlyWhenBothSettingsAgree(t *testing.T) {
	setting := func(key string, value any) []types.BaseOptionValue {
		return []types.BaseOptionValue{&types.OptionValue{Key: "scsi0:0.present", Value: "TRUE"}, &types.OptionValue{Key: key, Value: value}}
	}
	on, off := types.NewBool(true), types.NewBool(false)
	for _, c := range []struct {
		name     string
		enabled  *bool
		settings []types.BaseOptionValue
		right    bool
	}{
		{"both say yes", on, setting("scsi0:0.ctkEnabled", "TRUE"), true},
		{"in other letters", on, setting("SCSI0:0.CTKENABLED", "true"), true},
		{"the server's flag is off", off, setting("scsi0:0.ctkEnabled", "TRUE"), false},
		{"the server's flag is missing", nil, setting("scsi0:0.ctkEnabled", "TRUE"), false},
		{"the disk's setting is off", on, setting("scsi0:0.ctkEnabled", "FALSE"), false},
		{"the disk's setting is missing", on, setting("scsi0:1.ctkEnabled", "TRUE"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if flaw := trackingFlaw(c.enabled, c.settings, "scsi0:0"); (flaw == "") != c.right {
				t.Errorf("flaw is %q", flaw)
			}
		})
	}
}

func TestSizesComeFromTheHardware(t *testing.T) {
	old := &types.VirtualDisk{CapacityInKB: 3}
	old.Backing = flatBacking("u")
	if d := disksOf([]types.BaseVirtualDevice{old}, nil)[0]; d.size != 3<<10 || d.id != hypervisor.DiskID("u") {
		t.Errorf("disk is %+v", d)
	}
}

func TestAFlawedDiskHasNoChangeID(t *testing.T) {
	d := &disk{virtualDisk: virtualDisk{changeID: "uuid/1"}}
	if d.Info().ChangeID != "uuid/1" {
		t.Errorf("a good disk's change ID is %q", d.Info().ChangeID)
	}
	d.flaw = "both settings disagree"
	if d.Info().ChangeID != "" {
		t.Errorf("its change ID is %q", d.Info().ChangeID)
	}
}
