package vsphere_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

func TestTrackingIsEnabledOnce(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size}}})
	s, _ := p.source(t, p.config())
	must(t, s.EnableTracking(t.Context(), id))
	must(t, s.EnableTracking(t.Context(), id))
	calls := p.Calls()
	if calls["ReconfigVM_Task"] != 1 || calls["CreateSnapshot_Task"] != 1 || calls["RemoveSnapshot_Task"] != 1 || len(p.OpenSnapshots()) != 0 {
		t.Errorf("calls were %v, snapshots are %q", calls, p.OpenSnapshots())
	}
	d := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0]
	if d.Info().ChangeID == "" {
		t.Error("the next snapshot has no change ID")
	}
}

func TestTrackingIsRefusedWhereItWouldLie(t *testing.T) {
	p := newPlatform(t)
	old := p.add(t, vcenter.ServerSpec{Name: "old", HardwareVersion: 4, Disks: []vcenter.DiskSpec{{Size: size}}})
	snapped := p.add(t, vcenter.ServerSpec{Name: "snapped", Disks: []vcenter.DiskSpec{{Size: size}}})
	p.TakeForeign(t, snapped, "before the upgrade")
	s, _ := p.source(t, p.config())
	has(t, s.EnableTracking(t.Context(), old), vsphere.TrackingRefused)
	has(t, s.EnableTracking(t.Context(), snapped), vsphere.TrackingRefused)
	has(t, s.EnableTracking(t.Context(), "no-such"), vsphere.ServerUnknown)
}

func TestDisksThatSnapshotsLeaveOutAreReportedAndNotRead(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{
		{Size: size},
		{Size: size, Mode: "independent_persistent"},
		{Size: size, RDM: "physicalMode"},
	}})
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	blocking := 0
	for _, f := range report.Findings {
		if f.Code == "vsphere-disk-not-snapshotted" && f.Blocks && f.Hint != "" && f.Subject != "" {
			blocking++
		}
	}
	if blocking != 2 || report.Ready() {
		t.Errorf("the report is %+v", report)
	}
	if disks := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks(); len(disks) != 1 {
		t.Errorf("there are %d disks to read, want one", len(disks))
	}
}

func TestAMultiWriterDiskBlocks(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size, MultiWriter: true}}})
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, "vsphere-disk-shared"); f == nil || !f.Blocks {
		t.Errorf("the report is %+v", report)
	}
	_, err = s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	has(t, err, vsphere.SnapshotFailed)
}

func TestMissingPrivilegesAreNamedWithObjectAndOperation(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Denied = []string{"VirtualMachine.State.RemoveSnapshot@web", "Datastore.FileManagement@datastore1"}
	})
	id, other := p.AddServer(t, "web", size), p.AddServer(t, "other", size)
	s, _ := p.source(t, p.config())
	for name, c := range map[string]struct {
		id    hypervisor.ServerID
		deny  []string
		blunt []string // findings that block,
		mild  []string // and those that do not
	}{
		"on the server and a datastore": {id, []string{"VirtualMachine.State.RemoveSnapshot@web", "Datastore.FileManagement@datastore1"},
			[]string{"VirtualMachine.State.RemoveSnapshot on web, needed for removing our snapshot"},
			[]string{"Datastore.FileManagement on datastore datastore1, needed for reading disk files; without it, disks are read by snapshot export instead"}},
		"on another server": {other, []string{"VirtualMachine.State.RemoveSnapshot@web"}, nil, nil},
		"to export":         {id, []string{"VApp.Export"}, nil, []string{"VApp.Export on web, needed for exporting snapshots; without it, disks that cannot be read from their datastore"}},
		"to read in any way": {id, []string{"VApp.Export", "Datastore.Browse"},
			[]string{"VApp.Export on web", "Datastore.Browse on datastore datastore1, needed for finding disk files"}, nil},
		"to switch tracking on": {id, []string{"VirtualMachine.Config.ChangeTracking"}, nil, []string{"it has to be enabled by somebody else"}},
	} {
		t.Run(name, func(t *testing.T) {
			p.Deny(c.deny...)
			report, err := s.Check(t.Context(), c.id)
			must(t, err)
			wanted := map[bool][]string{true: c.blunt, false: c.mild}
			found := map[bool]int{}
			for _, f := range report.Findings {
				ok := f.Code == vsphere.PermissionDenied.Code && slices.ContainsFunc(wanted[f.Blocks], func(want string) bool { return strings.Contains(f.What, want) })
				if found[f.Blocks]++; !ok || f.Hint == "" || f.Subject == "" {
					t.Errorf("found %+v", f)
				}
			}
			if found[true] != len(c.blunt) || found[false] != len(c.mild) {
				t.Errorf("findings are %+v", report.Findings)
			}
			want := fmt.Sprintf("%d of 10", 10-len(c.blunt)-len(c.mild))
			if i := slices.IndexFunc(report.Facts, func(f hypervisor.Fact) bool { return f.Name == "privileges" }); i < 0 || report.Facts[i].Value != want {
				t.Errorf("the facts are %+v, want privileges %s", report.Facts, want)
			}
		})
	}
}

func TestCheckOfAPlainServerFindsNothingThatBlocks(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if len(report.Findings) != 0 {
		t.Errorf("the report is %+v", report)
	}
	p.TakeForeign(t, id, "before the upgrade")
	report, err = s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, "vsphere-foreign-snapshots"); f == nil || f.Blocks || !strings.Contains(f.What, "before the upgrade") {
		t.Errorf("the report is %+v", report)
	}
	off := p.add(t, vcenter.ServerSpec{Name: "untracked", Disks: []vcenter.DiskSpec{{Size: size}}})
	report, err = s.Check(t.Context(), off)
	must(t, err)
	if f := finding(report, "vsphere-tracking-off"); f == nil || f.Blocks {
		t.Errorf("the report is %+v", report)
	}
}

func TestAMethodThatAnotherProductDisabledIsNotAskedFor(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	must(t, p.vm(t, id).Disable("CreateSnapshot_Task"))
	c := p.config()
	c.Limits.Older = 100 * time.Millisecond
	s, _ := p.source(t, c)
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, vsphere.MethodDisabled.Code); f == nil || !f.Blocks {
		t.Errorf("the report is %+v", report)
	}
	told := ""
	ctx := hypervisor.WithWaits(t.Context(), func(what string) func() { told = what; return func() {} })
	_, err = s.Snapshot(ctx, "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	has(t, err, vsphere.MethodDisabled)
	if !strings.Contains(told, "has disabled snapshots of web") {
		t.Errorf("what is waited for is told as %q", told)
	}
	if n := p.Calls()["CreateSnapshot_Task"]; n != 0 {
		t.Errorf("vSphere was asked %d times", n)
	}
}

func TestATemplateIsNoServer(t *testing.T) {
	p := newPlatform(t)
	template := p.add(t, vcenter.ServerSpec{Name: "golden", Template: true, Power: types.VirtualMachinePowerStatePoweredOff, Disks: []vcenter.DiskSpec{{Size: size}}})
	s, _ := p.source(t, p.config())
	_, err := s.Check(t.Context(), template)
	has(t, err, vsphere.ServerUnknown)
}
