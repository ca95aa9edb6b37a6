package vsphere

import (
	"fmt"
	"testing"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// machineWith makes a healthy machine and spoils it.
func machineWith(spoil func(*vm)) *vm {
	v := &vm{VirtualMachine: mo.VirtualMachine{Config: &types.VirtualMachineConfigInfo{
		Version: "vmx-19", ChangeTrackingEnabled: types.NewBool(true),
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "scsi0:0.ctkEnabled", Value: "TRUE"}},
	}}}
	v.Name = "web"
	v.Runtime.ConnectionState = types.VirtualMachineConnectionStateConnected
	v.Config.Hardware.Device = []types.BaseVirtualDevice{scsi(1000, 0, ""), diskAt(2000, 1000, 0, flatBacking("u"))}
	if spoil != nil {
		spoil(v)
	}
	return v
}

func tower(height int, name string) *types.VirtualMachineSnapshotInfo {
	var list []types.VirtualMachineSnapshotTree
	for i := range height {
		list = []types.VirtualMachineSnapshotTree{{Name: fmt.Sprintf("%s%d", name, i), ChildSnapshotList: list}}
	}
	return &types.VirtualMachineSnapshotInfo{RootSnapshotList: list}
}

func TestWhatStandsInTheWayIsFound(t *testing.T) {
	s := &Source{prefix: "skylift-test-"}
	for _, c := range []struct {
		name   string
		spoil  func(*vm)
		code   string // empty for no finding
		blocks bool
	}{
		{"a healthy server", nil, "", false},
		{"a disconnected server", func(v *vm) { v.Runtime.ConnectionState = types.VirtualMachineConnectionStateInaccessible }, "vsphere-not-connected", true},
		{"snapshots disabled", func(v *vm) { v.DisabledMethod = []string{"CreateSnapshot_Task"} }, MethodDisabled.Code, true},
		{"removal disabled without snapshots", func(v *vm) { v.DisabledMethod = []string{"RemoveSnapshot_Task"} }, "", false},
		{"removal disabled with snapshots of ours", func(v *vm) {
			v.DisabledMethod, v.Snapshot = []string{"RemoveSnapshot_Task"}, tower(1, "skylift-test-r")
		}, MethodDisabled.Code, true},
		{"another method disabled", func(v *vm) { v.DisabledMethod = []string{"MigrateVM_Task"} }, "", false},
		{"consolidation needed", func(v *vm) { v.Runtime.ConsolidationNeeded = true }, "vsphere-consolidation-needed", false},
		{"an encrypted server", func(v *vm) { v.Config.KeyId = &types.CryptoKeyId{} }, "vsphere-encrypted", true},
		{"a virtual TPM", func(v *vm) { v.Config.Hardware.Device = append(v.Config.Hardware.Device, &types.VirtualTPM{}) }, "vsphere-virtual-tpm", false},
		{"a linked clone", func(v *vm) {
			b := flatBacking("u")
			b.Parent = flatBacking("u")
			v.Config.Hardware.Device[1] = diskAt(2000, 1000, 0, b)
		}, "vsphere-disk-linked", true},
		{"a sparse disk", func(v *vm) {
			v.Config.Hardware.Device[1] = diskAt(2000, 1000, 0, &types.VirtualDiskSparseVer2BackingInfo{Uuid: "u"})
		}, "vsphere-disk-not-flat", true},
		{"old virtual hardware", func(v *vm) { v.Config.Version = "vmx-06" }, "vsphere-tracking-unavailable", false},
		{"tracking off", func(v *vm) { v.Config.ChangeTrackingEnabled = nil }, "vsphere-tracking-off", false},
		{"tracking that disagrees", func(v *vm) { v.Config.ExtraConfig = nil }, "vsphere-tracking-flawed", false},
		{"foreign snapshots", func(v *vm) { v.Snapshot = tower(2, "backup") }, "vsphere-foreign-snapshots", false},
		{"our own snapshot", func(v *vm) { v.Snapshot = tower(1, "skylift-test-r") }, "", false},
		{"a full tower of snapshots", func(v *vm) { v.Snapshot = tower(snapshotDepth, "skylift-test-r") }, "vsphere-snapshots-too-deep", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := machineWith(c.spoil)
			var found []hypervisor.Finding
			for _, look := range []func(*vm) []hypervisor.Finding{checkState, checkDisks, checkTracking, s.checkSnapshots} {
				found = append(found, look(v)...)
			}
			if c.code == "" {
				if len(found) > 0 {
					t.Errorf("found %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Code != c.code || found[0].Blocks != c.blocks || found[0].Subject == "" || found[0].What == "" || found[0].Hint == "" {
				t.Errorf("found %+v, want one %s that blocks: %v", found, c.code, c.blocks)
			}
		})
	}
}
