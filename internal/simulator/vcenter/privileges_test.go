package vcenter

import (
	"testing"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func TestPrivilegesAreAnsweredForEachObject(t *testing.T) {
	s := start(t, Config{
		Servers: []ServerSpec{{Name: "web", Folder: "prod"}, {Name: "db"}},
		Denied:  []string{"VApp.Export@web", "Datastore.Browse@datastore1", "VirtualMachine.State.CreateSnapshot@prod"},
	})
	c := login(t, s)
	web, db := s.VM("web").Reference(), s.VM("db").Reference()
	store := s.places.datastores["datastore1"].Self
	answers := func() map[string]bool {
		got := map[string]bool{}
		list, err := methods.HasPrivilegeOnEntities(t.Context(), c, &types.HasPrivilegeOnEntities{
			This: *c.ServiceContent.AuthorizationManager, Entity: []types.ManagedObjectReference{web, db, store},
			PrivId: []string{"VApp.Export", "VirtualMachine.State.CreateSnapshot", "Datastore.Browse"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, entity := range list.Returnval {
			if entity.Entity != []types.ManagedObjectReference{web, db, store}[i] {
				t.Errorf("the %d. answer is about %v", i, entity.Entity)
			}
			for _, p := range entity.PrivAvailability {
				if !p.IsGranted {
					got[p.PrivId+"@"+entity.Entity.Value] = true
				}
			}
		}
		return got
	}
	check := func(want ...string) {
		t.Helper()
		got := answers()
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s is granted", w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("denied are %v", got)
		}
	}
	check("VApp.Export@"+web.Value, "VirtualMachine.State.CreateSnapshot@"+web.Value, "Datastore.Browse@"+store.Value)
	s.Deny("VApp.Export@" + db.Value)
	check("VApp.Export@" + db.Value)
	s.Deny("VApp.Export@" + web.String())
	check("VApp.Export@" + web.Value)
	s.Deny("VApp.Export")
	check("VApp.Export@"+web.Value, "VApp.Export@"+db.Value, "VApp.Export@"+store.Value)
	s.Deny()
	check()
}

// TestOperationsNeedTheirPrivileges takes privileges away one by one and makes
// the calls that need them.
func TestOperationsNeedTheirPrivileges(t *testing.T) {
	s, c, h := frozenOn(t, Config{}, noise(1, mib))
	vm := s.VM("web")
	m := machineOf(c, vm)
	snapshot := func() types.ManagedObjectReference { return vm.snapshots[0].obj.Self }
	reconfigure := func(spec types.VirtualMachineConfigSpec) error {
		_, err := m.Reconfigure(t.Context(), spec)
		return err
	}
	for _, test := range []struct {
		privilege string
		object    types.ManagedObjectReference
		call      func() error
	}{
		{"VirtualMachine.State.CreateSnapshot", vm.Reference(), func() error {
			_, err := m.CreateSnapshot(t.Context(), "x", "", false, false)
			return err
		}},
		{"VirtualMachine.State.RemoveSnapshot", vm.Reference(), func() error {
			_, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{This: snapshot()})
			return err
		}},
		{"VirtualMachine.State.RemoveSnapshot", vm.Reference(), func() error {
			_, err := methods.ConsolidateVMDisks_Task(t.Context(), c, &types.ConsolidateVMDisks_Task{This: vm.Reference()})
			return err
		}},
		{"VirtualMachine.State.RevertToSnapshot", vm.Reference(), func() error {
			_, err := methods.RevertToSnapshot_Task(t.Context(), c, &types.RevertToSnapshot_Task{This: snapshot()})
			return err
		}},
		{"VirtualMachine.Provisioning.DiskRandomRead", vm.Reference(), func() error {
			_, _, err := changed(t, c, vm, snapshot(), vm.Disk(0), "*")
			return err
		}},
		{"VApp.Export", vm.Reference(), func() error {
			_, err := methods.ExportSnapshot(t.Context(), c, &types.ExportSnapshot{This: snapshot()})
			return err
		}},
		{"VirtualMachine.Config.ChangeTracking", vm.Reference(), func() error {
			return reconfigure(types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)})
		}},
		{"VirtualMachine.Config.AdvancedConfig", vm.Reference(), func() error {
			return reconfigure(types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "a", Value: "b"}}})
		}},
		{"VirtualMachine.Interact.PowerOff", vm.Reference(), func() error { return m.ShutdownGuest(t.Context()) }},
		{"System.View", *c.ServiceContent.SessionManager, func() error {
			_, _, err := ticketFor(t, c, h.ip, "httpGet", flatFile)
			return err
		}},
	} {
		t.Run(test.privilege, func(t *testing.T) {
			s.Deny(test.privilege)
			err := test.call()
			if !faultOf[types.NoPermission](err) {
				t.Fatalf("without the privilege: %v", err)
			}
			f := soap.ToSoapFault(err).VimFault().(types.NoPermission)
			if f.PrivilegeId != test.privilege || f.Object == nil || *f.Object != test.object {
				t.Errorf("the fault names %v and %s", f.Object, f.PrivilegeId)
			}
			s.Deny("Some.Other", test.privilege+"@somewhere")
			switch test.privilege {
			case "VirtualMachine.State.RemoveSnapshot", "VirtualMachine.State.RevertToSnapshot", "VApp.Export":
				return // the snapshot is needed for what follows, and a lease would be in its way
			}
			if err := test.call(); err != nil {
				t.Errorf("with the privilege: %v", err)
			}
		})
	}
}

func TestFilesNeedTheirPrivileges(t *testing.T) {
	s, c, h := frozenOn(t, Config{}, noise(1, mib))
	for _, test := range []struct {
		denied string
		want   int
	}{
		{"Datastore.Browse", 403}, {"Datastore.FileManagement@datastore1", 403}, {"Datastore.FileManagement@elsewhere", 200}, {"Datastore.AllocateSpace", 200},
	} {
		s.Deny(test.denied)
		if status, _, _ := get(t, s, flatFile, "", nil); status != test.want {
			t.Errorf("without %s, through vCenter: status %d, want %d", test.denied, status, test.want)
		}
		ticket, u, err := ticketFor(t, c, h.ip, "httpGet", flatFile)
		if err != nil {
			t.Fatal(err)
		}
		status, _, err := h.fetch(t, h.client(t), "GET", u, ticket.Id)
		if status != test.want || err != nil {
			t.Errorf("without %s, from the host: status %d, want %d: %v", test.denied, status, test.want, err)
		}
	}
}
