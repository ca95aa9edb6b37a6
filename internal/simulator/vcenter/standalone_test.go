package vcenter

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	views "github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func TestAStandaloneHostIsWhatRealOnesAre(t *testing.T) {
	cfg := one(DiskSpec{Size: mib})
	cfg.Standalone = true
	s := start(t, cfg)
	c := login(t, s)
	if s.User != "root" {
		t.Errorf("the user is %s", s.User)
	}
	about := c.ServiceContent.About
	if about.ApiType != "HostAgent" || about.InstanceUuid != "" || c.IsVC() || c.ServiceContent.ExtensionManager != nil {
		t.Errorf("it says that it is %+v", about)
	}
	inventory := map[string]int{}
	v, err := views.NewManager(c.Client).CreateContainerView(t.Context(), c.ServiceContent.RootFolder, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	all, err := v.Find(t.Context(), []string{"ManagedEntity"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range all {
		inventory[ref.Type]++
	}
	for kind, n := range map[string]int{"Datacenter": 1, "HostSystem": 1, "ComputeResource": 1, "ClusterComputeResource": 0, "VirtualMachine": 1, "Datastore": 1} {
		if inventory[kind] != n {
			t.Errorf("there are %d %s, want %d", inventory[kind], kind, n)
		}
	}
	found, err := object.NewSearchIndex(c.Client).FindByInventoryPath(t.Context(), "ha-datacenter/vm/web")
	if err != nil || found == nil || found.Reference() != s.VM("web").Reference() {
		t.Errorf("by its path the server is %v: %v", found, err)
	}
	var host mo.HostSystem
	if err := c.RetrieveOne(t.Context(), s.Host("esx-1.example.com").obj.Self, []string{"name", "summary.hardware.uuid"}, &host); err != nil || len(host.Summary.Hardware.Uuid) != 36 {
		t.Errorf("the host is %+v: %v", host.Summary.Hardware, err)
	}
	if _, err := s.AddServer(ServerSpec{Name: "x", Folder: "a"}); err == nil {
		t.Error("a host took a folder, which only vCenter has")
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
}

func TestAServersLifeOnAStandaloneHost(t *testing.T) {
	data := noise(3, mib)
	cfg := one(DiskSpec{Size: mib})
	cfg.Standalone = true
	s := start(t, cfg)
	vm, c := s.VM("web"), login(t, s)
	put(t, vm.Disk(0), 0, data)
	w := watch(t, c, narrow())
	w.all(t)
	first := snapshotNow(t, c, vm, "first")
	id := changeIDOf(t, c, first, vm.Disk(0))
	removeSnapshot(t, c, first)
	put(t, vm.Disk(0), 0, noise(4, 4096))
	second := snapshotNow(t, c, vm, "second")
	areas, _, err := changed(t, c, vm, second, vm.Disk(0), id)
	if err != nil || len(areas) != 1 || areas[0].Length != grain {
		t.Errorf("changed areas %v: %v", areas, err)
	}
	copy(data, noise(4, 4096))
	for _, dc := range []string{"ha-datacenter", ""} {
		u := object.NewDatastoreURL(*s.URL, dc, "datastore1", flatFile)
		client := s.Host("esx-1.example.com").client(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(s.User, s.Password)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(res.Body); err != nil || res.StatusCode != 200 || !bytes.Equal(body.Bytes(), data) {
			t.Errorf("dcPath %q: status %d, %v", dc, res.StatusCode, err)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	ticket, u, err := ticketFor(t, c, s.URL.Host, "httpGet", flatFile)
	if err != nil || ticket.HostName != s.URL.Host {
		t.Fatalf("the ticket is %+v: %v", ticket, err)
	}
	h := s.Host("esx-1.example.com")
	for _, want := range []int{200, 401} {
		if status, _, err := h.fetch(t, h.client(t), "GET", u, ticket.Id); status != want || err != nil {
			t.Errorf("status %d, want %d: %v", status, want, err)
		}
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
}

func TestTheFreeLicenseAllowsReadingOnly(t *testing.T) {
	cfg := one(DiskSpec{Size: mib})
	cfg.Standalone, cfg.FreeLicense = true, true
	s := start(t, cfg)
	c, vm := login(t, s), machineOf(login(t, s), s.VM("web"))
	if _, err := vm.CreateSnapshot(t.Context(), "s", "", false, false); !faultOf[types.RestrictedVersion](err) || !strings.Contains(err.Error(), "Current license") {
		t.Errorf("a snapshot: %v", err)
	}
	if _, err := vm.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)}); !faultOf[types.RestrictedVersion](err) {
		t.Errorf("a change: %v", err)
	}
	if _, err := vm.PowerOff(t.Context()); !faultOf[types.RestrictedVersion](err) {
		t.Errorf("power off: %v", err)
	}
	var m mo.LicenseManager
	if err := c.RetrieveOne(t.Context(), *c.ServiceContent.LicenseManager, []string{"licenses"}, &m); err != nil || len(m.Licenses) != 1 || m.Licenses[0].EditionKey != "esxBasic" {
		t.Errorf("the licenses are %+v: %v", m.Licenses, err)
	}
	if _, err := methods.GetCurrentTime(t.Context(), c); err != nil {
		t.Error(err)
	}
	if len(s.OpenSnapshots()) > 0 || len(s.Refused()) > 0 {
		t.Error(s.OpenSnapshots(), s.Refused())
	}
}
