package vcenter

import (
	"net/url"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func TestOnlyTheOneUserCanLogIn(t *testing.T) {
	s := start(t, Config{User: "backup@vsphere.local", Password: "right"})
	vc, err := vim25.NewClient(t.Context(), soapClient(t, s))
	if err != nil {
		t.Fatal(err)
	}
	m := session.NewManager(vc)
	for name, user := range map[string]*url.Userinfo{
		"a wrong password": url.UserPassword("backup@vsphere.local", "wrong"),
		"no password":      url.User("backup@vsphere.local"),
		"a wrong user":     url.UserPassword("root", "right"),
	} {
		if err := m.Login(t.Context(), user); !faultOf[types.InvalidLogin](err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if u, err := m.UserSession(t.Context()); u != nil || err != nil {
		t.Errorf("there is a session %+v: %v", u, err)
	}
	if err := m.Login(t.Context(), url.UserPassword("backup@vsphere.local", "right")); err != nil {
		t.Fatal(err)
	}
	if u, err := m.UserSession(t.Context()); err != nil || u == nil || u.UserName != "backup@vsphere.local" {
		t.Errorf("the session is %+v: %v", u, err)
	}
	if err := m.Logout(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := methods.GetCurrentTime(t.Context(), vc); !faultOf[types.NotAuthenticated](err) {
		t.Errorf("after logout: %v", err)
	}
}

func TestExpiredSessionsGetNotAuthenticatedUntilTheNextLogin(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c := login(t, s)
	var o mo.VirtualMachine
	retrieve := func() error { return c.RetrieveOne(t.Context(), s.VM("web").Reference(), []string{"name"}, &o) }
	if err := retrieve(); err != nil {
		t.Fatal(err)
	}
	s.ExpireSessions()
	if err := retrieve(); !faultOf[types.NotAuthenticated](err) {
		t.Errorf("an expired session: %v", err)
	}
	if err := c.Login(t.Context(), url.UserPassword(s.User, s.Password)); err != nil {
		t.Fatal(err)
	}
	if err := retrieve(); err != nil {
		t.Errorf("after the login: %v", err)
	}
}

func TestUnsupportedCallsAreRefusedAndRecorded(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	m := machineOf(c, vm)
	_, err := m.Destroy(t.Context())
	if !faultOf[types.MethodNotFound](err) || !strings.Contains(err.Error(), "Destroy_Task") {
		t.Errorf("destroying a server: %v", err)
	}
	_, err = methods.LoginByToken(t.Context(), c, &types.LoginByToken{This: *c.ServiceContent.SessionManager})
	if !faultOf[types.MethodNotFound](err) {
		t.Errorf("logging in by a token: %v", err)
	}
	task, err := m.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Wait(t.Context()); !faultOf[*types.NotSupported](err) {
		t.Errorf("renaming by ReconfigVM: %v", err)
	}
	_, err = methods.CreateFilter(t.Context(), c, &types.CreateFilter{This: c.ServiceContent.PropertyCollector, Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: c.ServiceContent.RootFolder, SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "Folder", Path: "childEntity"},
		}}},
	}})
	if !faultOf[types.InvalidArgument](err) {
		t.Errorf("a filter over a folder's children: %v", err)
	}
	if n := len(s.Refused()); n != 4 {
		t.Errorf("recorded %d of 4: %v", n, s.Refused())
	}
}

func TestDeniedPrivilegesAreSaidToBeMissing(t *testing.T) {
	s := start(t, Config{Denied: []string{"Datastore.Browse"}})
	c := login(t, s)
	res, err := methods.HasPrivilegeOnEntities(t.Context(), c, &types.HasPrivilegeOnEntities{
		This: *c.ServiceContent.AuthorizationManager, Entity: []types.ManagedObjectReference{c.ServiceContent.RootFolder},
		PrivId: []string{"Datastore.Browse", "VirtualMachine.State.CreateSnapshot"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := res.Returnval[0].PrivAvailability
	if p[0].IsGranted || !p[1].IsGranted {
		t.Errorf("granted: %+v", p)
	}
}

func TestDisabledMethodsAreRefusedUntilTheyAreAllowedAgain(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	snap := snapshotNow(t, c, vm, "s")
	if err := vm.Disable("CreateSnapshot_Task", "RemoveSnapshot_Task"); err != nil {
		t.Fatal(err)
	}
	var o mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"disabledMethod"}, &o); err != nil || len(o.DisabledMethod) != 2 {
		t.Errorf("disabled: %v, %v", o.DisabledMethod, err)
	}
	if _, err := machineOf(c, vm).CreateSnapshot(t.Context(), "s", "", false, false); !faultOf[types.MethodDisabled](err) {
		t.Errorf("creating a snapshot: %v", err)
	}
	if _, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{This: snap}); !faultOf[types.MethodDisabled](err) {
		t.Errorf("removing a snapshot: %v", err)
	}
	if err := vm.Disable(); err != nil {
		t.Fatal(err)
	}
	removeSnapshot(t, c, snap)
}

func TestPowerAndExtraConfig(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	m := machineOf(c, vm)
	wait := func(task *object.Task, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		return task.Wait(t.Context())
	}
	power := func() types.VirtualMachinePowerState {
		p, err := m.PowerState(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := m.ShutdownGuest(t.Context()); err != nil || power() != types.VirtualMachinePowerStatePoweredOff {
		t.Errorf("after the shutdown the power is %s: %v", power(), err)
	}
	if err := m.ShutdownGuest(t.Context()); !faultOf[types.InvalidPowerState](err) {
		t.Errorf("a second shutdown: %v", err)
	}
	if err := wait(m.PowerOn(t.Context())); err != nil || power() != types.VirtualMachinePowerStatePoweredOn {
		t.Errorf("after power on the power is %s: %v", power(), err)
	}
	if err := wait(m.PowerOn(t.Context())); !faultOf[*types.InvalidPowerState](err) {
		t.Errorf("a second power on: %v", err)
	}
	if err := wait(m.PowerOff(t.Context())); err != nil || power() != types.VirtualMachinePowerStatePoweredOff {
		t.Errorf("after power off the power is %s: %v", power(), err)
	}
	set := func(key, value string) {
		spec := types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: key, Value: value}}}
		if err := wait(m.Reconfigure(t.Context(), spec)); err != nil {
			t.Fatal(err)
		}
	}
	values := func() map[string]string {
		var o mo.VirtualMachine
		if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"config.extraConfig"}, &o); err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, v := range o.Config.ExtraConfig {
			all[v.GetOptionValue().Key] = v.GetOptionValue().Value.(string)
		}
		return all
	}
	set("Skylift.note", "1")
	set("skylift.NOTE", "2")
	if v := values(); v["skylift.NOTE"] != "2" || v["Skylift.note"] != "" || v["ctkEnabled"] != "TRUE" || v["scsi0:0.ctkEnabled"] != "TRUE" {
		t.Errorf("extra config %v", v)
	}
	set("skylift.note", "")
	if v := values(); len(v) != 2 {
		t.Errorf("extra config %v", v)
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add(`<Envelope><Body><Login xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this></Login></Body></Envelope>`)
	f.Add(`<Envelope><Header/><Body></Body></Envelope>`)
	f.Add(`<Body><A><B/></A></Body>`)
	f.Fuzz(func(t *testing.T, s string) {
		if method, _, err := parseCall(strings.NewReader(s)); err == nil && method == "" {
			t.Errorf("%q has no method", s)
		}
	})
}

func TestParseCallFindsMethodAndObject(t *testing.T) {
	method, object, err := parseCall(strings.NewReader(`<e:Envelope xmlns:e="x"><e:Header><operationID>7</operationID></e:Header><e:Body>` +
		`<Login xmlns="urn:vim25"><_this type="SessionManager">sm</_this></Login></e:Body></e:Envelope>`))
	if method != "Login" || object != (types.ManagedObjectReference{Type: "SessionManager", Value: "sm"}) || err != nil {
		t.Errorf("%s on %v: %v", method, object, err)
	}
	for _, bad := range []string{"", "<a/>", "<Body><Login/></Body>", "<Body><Login><user/></Login></Body>", "<Body><Login><_this>x"} {
		if _, _, err := parseCall(strings.NewReader(bad)); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}
