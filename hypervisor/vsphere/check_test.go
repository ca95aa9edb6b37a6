package vsphere

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/internal/problem"
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
	s := &Source{prefix: "skylift-test-", limits: Limits{}.withDefaults()}
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
		}, "", false},
		{"a sparse disk", func(v *vm) {
			v.Config.Hardware.Device[1] = diskAt(2000, 1000, 0, &types.VirtualDiskSparseVer2BackingInfo{Uuid: "u"})
		}, "", false},
		{"old virtual hardware", func(v *vm) { v.Config.Version = "vmx-06" }, "vsphere-tracking-unavailable", false},
		{"tracking off", func(v *vm) { v.Config.ChangeTrackingEnabled = nil }, "vsphere-tracking-off", false},
		{"tracking that disagrees", func(v *vm) { v.Config.ExtraConfig = nil }, "vsphere-tracking-flawed", false},
		{"foreign snapshots", func(v *vm) { v.Snapshot = tower(2, "backup") }, "vsphere-foreign-snapshots", false},
		{"our own snapshot", func(v *vm) { v.Snapshot = tower(1, "skylift-test-r") }, "", false},
		{"a full tower of snapshots", func(v *vm) { v.Snapshot = tower(snapshotDepth, "skylift-test-r") }, "vsphere-snapshots-too-deep", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := machineWith(c.spoil)
			expectOne(t, &inspection{source: s, v: v}, c.code, c.blocks)
		})
	}
}

// expectOne has the inspection judged: one finding of the code, none for an empty one.
func expectOne(t *testing.T, in *inspection, code string, blocks bool) {
	t.Helper()
	in.look()
	found := in.Findings
	if code == "" {
		if len(found) > 0 {
			t.Errorf("found %+v", found)
		}
		return
	}
	if len(found) != 1 || found[0].Code != code || found[0].Blocks != blocks || found[0].Subject == "" || found[0].What == "" || found[0].Hint == "" {
		t.Errorf("found %+v, want one %s that blocks: %v", found, code, blocks)
	}
}

func TestWhatOnlyACheckReadsIsJudged(t *testing.T) {
	s := &Source{prefix: "skylift-test-", limits: Limits{}.withDefaults()}
	store := func(kind string, free int64, accessible bool) func(*inspection) {
		return func(in *inspection) {
			in.stores = []mo.Datastore{{Summary: types.DatastoreSummary{Name: "ds", Type: kind, Capacity: 100 << 30, FreeSpace: free << 30, Accessible: accessible}}}
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func(*inspection)
		code   string
		blocks bool
	}{
		{"Tools do not run in a running guest", func(in *inspection) { in.v.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOn }, "vsphere-tools-not-running", false},
		{"Tools run", func(in *inspection) {
			in.v.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOn
			in.v.Guest = &types.GuestInfo{ToolsRunningStatus: "guestToolsRunning"}
		}, "", false},
		{"a server that is off needs no Tools", func(in *inspection) { in.v.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff }, "", false},
		{"Fault Tolerance", func(in *inspection) {
			in.more.Runtime.FaultToleranceState = types.VirtualMachineFaultToleranceStateRunning
		}, "vsphere-fault-tolerance", false},
		{"no Fault Tolerance", func(in *inspection) {
			in.more.Runtime.FaultToleranceState = types.VirtualMachineFaultToleranceStateNotConfigured
		}, "", false},
		{"a question", func(in *inspection) {
			in.more.Runtime.Question = &types.VirtualMachineQuestionInfo{Text: "moved or copied?"}
		}, "vsphere-question-pending", true},
		{"an encrypted disk", func(in *inspection) {
			b := flatBacking("u")
			b.KeyId = &types.CryptoKeyId{}
			in.v.Config.Hardware.Device[1] = diskAt(2000, 1000, 0, b)
		}, "vsphere-encrypted", true},
		{"a snapshot with a change ID", func(in *inspection) { in.frozen = map[int32]hypervisor.ChangeID{2000: "id"} }, "", false},
		{"a snapshot without one", func(in *inspection) { in.frozen = map[int32]hypervisor.ChangeID{2000: ""} }, "vsphere-tracking-flawed", false},
		{"a key of another case", func(in *inspection) {
			in.v.Config.ExtraConfig = []types.BaseOptionValue{&types.OptionValue{Key: "SCSI0:0.ctkenabled", Value: "true"}}
		}, "", false},
		{"VMFS", store("VMFS", 50, true), "", false},
		{"vSAN", store("vsan", 50, true), "vsphere-no-disk-files", false},
		{"virtual volumes", store("VVOL", 50, true), "vsphere-no-disk-files", false},
		{"a full datastore", store("NFS", 4, true), DatastoreFull.Code, true},
		{"a datastore out of reach", store("NFS", 50, false), "vsphere-datastore-inaccessible", true},
		{"a datastore that is hidden", func(in *inspection) {
			in.hidden = []hypervisor.Finding{{Code: PermissionDenied.Code, Blocks: true, Subject: "s", What: "w", Hint: "h"}}
		}, PermissionDenied.Code, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := &inspection{source: s, v: machineWith(nil)}
			c.spoil(in)
			expectOne(t, in, c.code, c.blocks)
		})
	}
}

// TestFactsTellEveryThingThatIsLookedAt pins the names that people and
// programs look for.
func TestFactsTellEveryThingThatIsLookedAt(t *testing.T) {
	in := &inspection{source: &Source{prefix: "skylift-test-", limits: Limits{}.withDefaults()}, v: machineWith(nil)}
	in.v.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff
	in.v.Guest = &types.GuestInfo{ToolsRunningStatus: "guestToolsNotRunning"}
	in.more.Guest = &types.GuestInfo{ToolsVersion: "12389", ToolsVersionStatus2: "guestToolsCurrent"}
	in.frozen = map[int32]hypervisor.ChangeID{2000: "id"}
	in.stores = []mo.Datastore{{Summary: types.DatastoreSummary{Name: "ds", Type: "VMFS", Capacity: 2 << 40, FreeSpace: 1 << 40, Accessible: true}}}
	in.look()
	want := []hypervisor.Fact{
		{Name: "power", Value: "poweredOff"},
		{Name: "connection", Value: "connected"},
		{Name: "hardware version", Value: "vmx-19"},
		{Name: "VMware Tools", Value: "guestToolsNotRunning, version 12389 (guestToolsCurrent)"},
		{Name: "fault tolerance", Value: "no"},
		{Name: "disabled operations", Value: "none that Skylift needs"},
		{Name: "encryption by vSphere", Value: "no"},
		{Name: "virtual TPM", Value: "no"},
		{Subject: "Hard disk 0", Name: "file", Value: ""},
		{Subject: "Hard disk 0", Name: "size", Value: "1048576 bytes"},
		{Subject: "Hard disk 0", Name: "mode", Value: "persistent"},
		{Subject: "Hard disk 0", Name: "kind", Value: "flat"},
		{Name: "change tracking", Value: "on"},
		{Subject: "Hard disk 0", Name: "change tracking", Value: "on, the present snapshot has a change ID"},
		{Name: "snapshots", Value: "0 of Skylift's, 0 of others; 0 on top of each other, of 31 allowed"},
		{Name: "consolidation needed", Value: "no"},
		{Subject: "datastore ds", Name: "kind", Value: "VMFS"},
		{Subject: "datastore ds", Name: "free space", Value: "1024 of 2048 GiB"},
	}
	if !slices.Equal(in.Facts, want) {
		t.Errorf("the facts are %+v", in.Facts)
	}
}

var codeForm = regexp.MustCompile(`Code: +(?:"(vsphere-[a-z-]+)"|(\w+)\.Code)`)

// TestThePackageDocumentationListsEveryFinding reads the checks' source.
func TestThePackageDocumentationListsEveryFinding(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]*problem.Kind{
		"MethodDisabled": MethodDisabled, "DatastoreFull": DatastoreFull, "PermissionDenied": PermissionDenied, "LicenseRestricted": LicenseRestricted,
	}
	found := map[string]bool{}
	for _, file := range []string{"check.go", "checkdisks.go", "checkstorage.go", "privileges.go", "checksource.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range codeForm.FindAllStringSubmatch(string(text), -1) {
			code := m[1]
			if k := kinds[m[2]]; k != nil {
				code = k.Code
			}
			found[code] = true
			if code == "" || !strings.Contains(string(doc), "\t"+code+" ") {
				t.Errorf("%s: %s is not listed", file, m[0])
			}
		}
	}
	if len(found) != strings.Count(string(doc), "\n//\tvsphere-") {
		t.Errorf("%d codes are found, and others listed", len(found))
	}
}
