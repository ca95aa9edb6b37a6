package vcenter

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/property"
	views "github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// narrow is what an inventory of servers wants to know.
func narrow() []string {
	return []string{
		"name", "parent", "resourcePool", "config.uuid", "config.instanceUuid", "config.hardware.device",
		"config.changeTrackingEnabled", "config.version", "config.firmware", "config.guestId", "config.guestFullName",
		"config.extraConfig", "runtime.powerState", "runtime.host", "runtime.consolidationNeeded", "snapshot", "layoutEx.file",
	}
}

// watcher keeps a picture of all servers by a container view and its updates.
type watcher struct {
	c       *govmomi.Client
	pc      *property.Collector
	version string
	servers map[types.ManagedObjectReference]map[string]any
}

func watch(t testing.TB, c *govmomi.Client, paths []string) *watcher {
	t.Helper()
	v, err := views.NewManager(c.Client).CreateContainerView(t.Context(), c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := property.DefaultCollector(c.Client).Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = pc.CreateFilter(t.Context(), types.CreateFilter{Spec: types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: paths}},
		ObjectSet: []types.ObjectSpec{{Obj: v.Reference(), Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{c: c, pc: pc, servers: map[types.ManagedObjectReference]map[string]any{}}
}

func (w *watcher) wait(ctx context.Context, seconds *int32) (*types.UpdateSet, error) {
	res, err := methods.WaitForUpdatesEx(ctx, w.c, &types.WaitForUpdatesEx{
		This: w.pc.Reference(), Version: w.version, Options: &types.WaitOptions{MaxWaitSeconds: seconds},
	})
	if err != nil {
		return nil, err
	}
	return res.Returnval, nil
}

// next takes one answer, and returns what it said in words.
func (w *watcher) next(t testing.TB, wait *int32) (said []string, more bool) {
	t.Helper()
	set, err := w.wait(t.Context(), wait)
	if err != nil {
		t.Fatal(err)
	}
	if set == nil {
		return nil, false
	}
	w.version = set.Version
	for _, f := range set.FilterSet {
		for _, o := range f.ObjectSet {
			if len(o.MissingSet) > 0 {
				t.Fatalf("missing: %+v", o.MissingSet)
			}
			if o.Kind == types.ObjectUpdateKindLeave {
				said = append(said, "leave "+fmt.Sprint(w.servers[o.Obj]["name"]))
				delete(w.servers, o.Obj)
				continue
			}
			if w.servers[o.Obj] == nil {
				w.servers[o.Obj] = map[string]any{}
			}
			for _, ch := range o.ChangeSet {
				w.servers[o.Obj][ch.Name] = ch.Val
				if o.Kind == types.ObjectUpdateKindModify {
					said = append(said, fmt.Sprintf("%v %s", w.servers[o.Obj]["name"], ch.Name))
				}
			}
			if o.Kind == types.ObjectUpdateKindEnter {
				said = append(said, "enter "+fmt.Sprint(w.servers[o.Obj]["name"]))
			}
		}
	}
	return said, set.Truncated != nil && *set.Truncated
}

func (w *watcher) all(t testing.TB) (pages int) {
	t.Helper()
	for more := true; more; pages++ {
		_, more = w.next(t, nil)
	}
	return pages
}

func TestUpdatesShowWhatHappensToServers(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{{Name: "web", Disks: []DiskSpec{{Size: mib}}}, {Name: "db", Folder: "prod/data"}}})
	c := login(t, s)
	w := watch(t, c, narrow())
	said, more := w.next(t, nil)
	slices.Sort(said)
	if !slices.Equal(said, []string{"enter db", "enter web"}) || more {
		t.Fatalf("at first: %v", said)
	}
	web := w.servers[s.VM("web").Reference()]
	if _, ok := web["snapshot"]; ok || web["config.firmware"] != "bios" || web["config.version"] != "vmx-19" ||
		web["runtime.powerState"] != types.VirtualMachinePowerStatePoweredOn || web["config.guestFullName"] != "Ubuntu Linux (64-bit)" {
		t.Errorf("web is %v", web)
	}
	if said, _ := w.next(t, new(int32)); said != nil { // does not wait
		t.Errorf("nothing happened, and it was said: %v", said)
	}
	vm := s.VM("web")
	var snap types.ManagedObjectReference
	var disk *Disk
	steps := []struct {
		name string
		do   func() error
		want []string
	}{
		{"a snapshot", func() error { snap = snapshotNow(t, c, vm, "s"); return nil },
			[]string{"web config.hardware.device", "web snapshot", "web layoutEx.file"}},
		{"its removal", func() error { removeSnapshot(t, c, snap); return nil },
			[]string{"web config.hardware.device", "web snapshot", "web layoutEx.file"}},
		{"growth", func() error { return vm.Disk(0).Grow(2 * mib) }, []string{"web config.hardware.device"}},
		{"a new disk", func() (err error) { disk, err = vm.AddDisk(DiskSpec{Size: mib}); return err },
			[]string{"web config.hardware.device", "web layoutEx.file"}},
		{"a removed disk", func() error { return disk.Remove() }, []string{"web config.hardware.device", "web layoutEx.file"}},
		{"a new name", func() error { return vm.Rename("www") }, []string{"www name"}},
		{"power off", func() error { return vm.SetPower(types.VirtualMachinePowerStatePoweredOff) }, []string{"www runtime.powerState"}},
		{"a new server", func() error { _, err := s.AddServer(ServerSpec{Name: "new"}); return err }, []string{"enter new"}},
		{"a removed server", func() error { return s.RemoveServer("db") }, []string{"leave db"}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		said, _ := w.next(t, nil)
		slices.Sort(said)
		slices.Sort(step.want)
		if !slices.Equal(said, step.want) {
			t.Errorf("%s: said %v, want %v", step.name, said, step.want)
		}
	}
	if v := w.servers[vm.Reference()]["snapshot"]; v != nil {
		t.Errorf("the removed snapshot was not unset: %v", v)
	}
	if open := s.Refused(); len(open) > 0 {
		t.Error(open)
	}
}

func TestAWaitingCallIsWokenByAChangeAndByCanceling(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c := login(t, s)
	w := watch(t, c, []string{"name"})
	w.all(t)
	type result struct {
		set *types.UpdateSet
		err error
	}
	wait := func() chan result {
		done := make(chan result, 1)
		calls := s.Calls()["WaitForUpdatesEx"]
		go func() {
			set, err := w.wait(context.Background(), nil)
			done <- result{set, err}
		}()
		for s.Calls()["WaitForUpdatesEx"] == calls { // until the call has arrived
			if _, err := methods.GetCurrentTime(t.Context(), c); err != nil {
				t.Error(err)
			}
		}
		return done
	}
	done := wait()
	if err := s.VM("web").Rename("www"); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil || r.set.FilterSet[0].ObjectSet[0].ChangeSet[0].Val != "www" {
		t.Errorf("woken by %+v, %v", r.set, r.err)
	}
	w.version = r.set.Version
	done = wait()
	s.ExpireSessions()
	if r := <-done; !faultOf[types.NotAuthenticated](r.err) {
		t.Errorf("an expired session was answered %+v, %v", r.set, r.err)
	}
	c = login(t, s)
	w = watch(t, c, []string{"name"})
	w.all(t)
	done = wait()
	var canceled bool
	for !canceled { // it may arrive before the call waits
		if err := w.pc.CancelWaitForUpdates(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-done:
			canceled = true
			if !faultOf[types.RequestCanceled](r.err) {
				t.Errorf("a canceled call was answered %+v, %v", r.set, r.err)
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestARepeatedVersionGetsTheLostAnswerAgain(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	w := watch(t, login(t, s), []string{"name"})
	w.all(t)
	before := w.version
	if err := s.VM("web").Rename("www"); err != nil {
		t.Fatal(err)
	}
	first, _ := w.next(t, nil)
	w.version = before
	again, _ := w.next(t, nil)
	if !slices.Equal(first, again) || !slices.Equal(again, []string{"www name"}) {
		t.Errorf("said %v, and then %v", first, again)
	}
	w.version = "nonsense"
	if _, err := w.wait(t.Context(), nil); !faultOf[types.InvalidCollectorVersion](err) {
		t.Errorf("an invented version: %v", err)
	}
	w.version = ""
	if said, _ := w.next(t, nil); !slices.Equal(said, []string{"enter www"}) {
		t.Errorf("from the beginning: %v", said)
	}
}

func TestUnknownPropertiesAreMissing(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	w := watch(t, login(t, s), []string{"name", "config.nonsense"})
	set, err := w.wait(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	o := set.FilterSet[0].ObjectSet[0]
	if len(o.MissingSet) != 1 || o.MissingSet[0].Path != "config.nonsense" || len(o.ChangeSet) != 1 {
		t.Errorf("the update is %+v", o)
	}
}

func TestTheInventoryIsFoundByItsPaths(t *testing.T) {
	s := start(t, Config{
		Datacenter: "Paris", Hosts: []string{"h1", "h2"},
		Datastores: []Datastore{{Name: "fast", Free: 5}, {Name: "nfs", Type: "NFS", Capacity: 100}},
		Servers:    []ServerSpec{{Name: "db", Folder: "prod/data", Host: "h2", Disks: []DiskSpec{{Size: mib, Datastore: "nfs"}}}},
	})
	c := login(t, s)
	f := find.NewFinder(c.Client)
	vm, err := f.VirtualMachine(t.Context(), "/Paris/vm/prod/data/db")
	if err != nil || vm.Reference() != s.VM("db").Reference() {
		t.Fatalf("found %v: %v", vm, err)
	}
	var o mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"runtime.host", "datastore"}, &o); err != nil {
		t.Fatal(err)
	}
	var h mo.HostSystem
	if err := c.RetrieveOne(t.Context(), *o.Runtime.Host, []string{"name", "vm"}, &h); err != nil || h.Name != "h2" || len(h.Vm) != 1 {
		t.Errorf("the host is %s with %v: %v", h.Name, h.Vm, err)
	}
	var stores []mo.Datastore
	if err := c.Retrieve(t.Context(), o.Datastore, []string{"summary", "browser"}, &stores); err != nil || len(stores) != 2 {
		t.Fatalf("datastores %v: %v", stores, err)
	}
	for _, ds := range stores {
		switch sum := ds.Summary; sum.Name {
		case "fast":
			if sum.Type != "VMFS" || sum.FreeSpace != 5 {
				t.Errorf("fast is %+v", sum)
			}
		case "nfs":
			if sum.Type != "NFS" || sum.Capacity != 100 || sum.FreeSpace != 50 || ds.Browser.Value == "" {
				t.Errorf("nfs is %+v", sum)
			}
		default:
			t.Errorf("datastore %q", sum.Name)
		}
	}
	if err := s.SetDatastoreFree("nfs", 7); err != nil {
		t.Fatal(err)
	}
	var nfs mo.Datastore
	if err := c.RetrieveOne(t.Context(), o.Datastore[1], []string{"summary.freeSpace"}, &nfs); err != nil || nfs.Summary.FreeSpace != 7 {
		t.Errorf("free space %d: %v", nfs.Summary.FreeSpace, err)
	}
}

func TestANameIsGivenOnce(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{{Name: "a"}, {Name: "b", Disks: []DiskSpec{{Size: 512}}}}})
	for _, bad := range []string{"a", ""} {
		if _, err := s.AddServer(ServerSpec{Name: bad}); err == nil {
			t.Errorf("a server %q was added", bad)
		}
		if err := s.VM("b").Rename(bad); err == nil {
			t.Errorf("b was renamed to %q", bad)
		}
	}
	if err := s.VM("b").Rename("c"); err != nil {
		t.Fatal(err)
	}
	vm, err := s.AddServer(ServerSpec{Name: "b", Disks: []DiskSpec{{Size: 512}}})
	if err != nil {
		t.Fatal(err)
	}
	if vm.dir == s.VM("c").dir {
		t.Error("two servers have their files in one directory")
	}
	if err := s.RemoveServer("d"); err == nil {
		t.Error("a server that is not there was removed")
	}
	if _, err := s.AddServer(ServerSpec{Name: "e", Host: "nowhere"}); err == nil {
		t.Error("a server was put on a host that is not there")
	}
}

func TestTenThousandServersAreListedAndWatched(t *testing.T) {
	const n = 10_000
	s := start(t, Config{})
	began := time.Now()
	if err := s.AddServers(n, ServerSpec{Name: "vm", Disks: []DiskSpec{{Size: 10 << 30}}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("added %d servers in %v", n, time.Since(began))
	w := watch(t, login(t, s), []string{"name", "config.uuid", "runtime.powerState"})
	began = time.Now()
	pages := w.all(t)
	t.Logf("listed %d servers on %d pages in %v", len(w.servers), pages, time.Since(began))
	uuids := map[any]bool{}
	for _, v := range w.servers {
		uuids[v["config.uuid"]] = true
	}
	if len(w.servers) != n || len(uuids) != n || pages != n/defaultObjectUpdates {
		t.Errorf("%d servers with %d UUIDs on %d pages", len(w.servers), len(uuids), pages)
	}
	began = time.Now()
	if err := s.VM("vm-05000").Rename("changed"); err != nil {
		t.Fatal(err)
	}
	if said, _ := w.next(t, nil); !slices.Equal(said, []string{"changed name"}) {
		t.Errorf("after one change: %v", said)
	}
	t.Logf("heard of one change in %v", time.Since(began))
}
