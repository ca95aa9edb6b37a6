package vcenter

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func TestALeaseTellsWhatItHolds(t *testing.T) {
	s := start(t, Config{Servers: []ServerSpec{{Name: "web", Disks: []DiskSpec{
		{Size: 4 * mib}, {Size: 8 * mib, Controller: "sata", Bus: 1}, {Size: mib, Mode: "independent_persistent"},
		{Size: 2 * mib, Controller: "nvme"},
	}}}})
	c, vm := login(t, s), s.VM("web")
	put(t, vm.Disk(0), 0, noise(1, 10))
	snap := snapshotNow(t, c, vm, "s")
	l, info := mustExport(t, c, snap)
	ref := vm.Reference().Value
	keys := []string{"ParaVirtualSCSIController0:0", "VirtualAHCIController1:0", "VirtualNVMEController0:0"}
	if len(info.DeviceUrl) != len(keys) || info.TotalDiskCapacityInKB != 14<<10 || info.LeaseTimeout != 300 || info.Entity != vm.Reference() || info.Lease != l.Reference() {
		t.Fatalf("the lease tells %+v", info)
	}
	for i, u := range info.DeviceUrl {
		name := fmt.Sprintf("disk-%d.vmdk", i)
		if u.Key != "/"+ref+"/"+keys[i] || u.ImportKey != "/web/"+keys[i] || u.TargetId != name || u.Disk == nil || !*u.Disk ||
			u.Url != u.DatastoreKey+name || len(u.SslThumbprint) != 59 {
			t.Errorf("device %d is %+v", i, u)
		}
	}
	if size := info.DeviceUrl[0].FileSize; size != grain {
		t.Errorf("the first disk takes %d bytes, want %d", size, grain)
	}
	p, err := l.Properties(t.Context())
	if err != nil || p.State != "ready" || p.InitializeProgress != 100 || p.Error != nil {
		t.Errorf("the lease is %+v: %v", p, err)
	}
	if open := s.OpenLeases(); !slices.Equal(open, []string{"web/s"}) {
		t.Errorf("open leases: %v", open)
	}
	if err := l.Progress(t.Context(), 42); err != nil {
		t.Error(err)
	}
	if p, err = l.Properties(t.Context(), "transferProgress"); err != nil || p.TransferProgress != 42 {
		t.Errorf("%+v: %v", p, err)
	}
	if err := l.Progress(t.Context(), 101); !faultOf[types.InvalidArgument](err) {
		t.Errorf("101 percent: %v", err)
	}
	// The other leases that may be held at the same time.
	second, other := mustExport(t, c, snap)
	if other.DeviceUrl[0].Url == info.DeviceUrl[0].Url {
		t.Error("two leases share their URLs")
	}
	fault := &types.LocalizedMethodFault{Fault: &types.FileFault{File: "x"}, LocalizedMessage: "gave up"}
	if err := second.Abort(t.Context(), fault); err != nil {
		t.Error(err)
	}
	if p, err = second.Properties(t.Context()); err != nil || p.State != "error" || p.Error == nil || p.Error.LocalizedMessage != "gave up" || p.Info != nil {
		t.Errorf("the aborted lease is %+v: %v", p, err)
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Error(err)
	}
	if p, err = l.Properties(t.Context()); err != nil || p.State != "done" || p.Info != nil {
		t.Errorf("the completed lease is %+v: %v", p, err)
	}
	for what, err := range map[string]error{
		"complete": l.Complete(t.Context()), "abort": l.Abort(t.Context(), nil), "progress": l.Progress(t.Context(), 1),
	} {
		if !faultOf[types.InvalidState](err) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	if _, err := l.GetManifest(t.Context()); !faultOf[types.MethodNotFound](err) || len(s.Refused()) != 1 {
		t.Errorf("a manifest: %v, refused %v", err, s.Refused())
	}
	if res := fetch(t, s, info.DeviceUrl[0].Url, ""); res.StatusCode != 404 || len(s.Refused()) != 1 {
		t.Errorf("a download after the end: status %d", res.StatusCode)
	}
	if res := fetch(t, s, "https://"+s.URL.Host+"/nfc/52-invented/disk-0.vmdk", ""); res.StatusCode != 404 || len(s.Refused()) != 2 {
		t.Errorf("an invented ticket: status %d", res.StatusCode)
	}
}

func TestALeaseBlocksWhatWouldAlterTheServer(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	snap := snapshotNow(t, c, vm, "s")
	l, _ := mustExport(t, c, snap)
	remove := func() error {
		res, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{This: snap})
		if err != nil {
			return err
		}
		return waitTask(t, c, res.Returnval, nil)
	}
	if err := remove(); !faultOf[*types.TaskInProgress](err) || len(s.OpenSnapshots()) != 1 {
		t.Errorf("removing the snapshot that is exported: %v", err)
	}
	task, err := machineOf(c, vm).PowerOff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Wait(t.Context()); !faultOf[*types.TaskInProgress](err) {
		t.Errorf("switching off: %v", err)
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Error(err)
	}
	if err := remove(); err != nil {
		t.Errorf("after the lease: %v", err)
	}
}

func TestALeaseWithoutProgressTimesOut(t *testing.T) {
	cfg := one(DiskSpec{Size: mib})
	cfg.LeaseTimeout = 100 * time.Millisecond
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	ref, err := exportCall(t.Context(), c, snapshotNow(t, c, vm, "s"))
	if err != nil {
		t.Fatal(err)
	}
	l := nfc.NewLease(c.Client, ref)
	<-s.leaseOf(ref).released
	p, err := l.Properties(t.Context())
	if err != nil || p.State != "error" || p.Error == nil {
		t.Fatalf("the lease is %+v: %v", p, err)
	}
	if _, ok := p.Error.Fault.(*types.Timedout); !ok {
		t.Errorf("the lease's error is %+v", p.Error)
	}
	if err := l.Progress(t.Context(), 1); !faultOf[types.Timedout](err) {
		t.Errorf("progress after the end: %v", err)
	}
	if err := l.Complete(t.Context()); !faultOf[types.Timedout](err) {
		t.Errorf("completing after the end: %v", err)
	}
	if n := pinned(vm); n != 0 || len(s.OpenLeases()) != 0 {
		t.Errorf("%d things are held, leases %v", n, s.OpenLeases())
	}
}

// leaseOf is a lease by its reference.
func (s *Server) leaseOf(ref types.ManagedObjectReference) *lease {
	s.world.RLock()
	defer s.world.RUnlock()
	return s.model.Map().Get(ref).(*lease)
}

func TestProgressKeepsALeaseAlive(t *testing.T) {
	cfg := one(DiskSpec{Size: mib})
	cfg.LeaseTimeout = time.Second
	s := start(t, cfg)
	c := login(t, s)
	l, info := mustExport(t, c, snapshotNow(t, c, s.VM("web"), "s"))
	held := s.leaseOf(info.Lease)
	began, tick := time.Now(), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < 3*cfg.LeaseTimeout/2 {
		select {
		case <-held.stop:
			t.Fatal("the lease ended")
		case <-tick.C:
			if err := l.Progress(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAnAbortCutsADownloadThatNobodyReads(t *testing.T) {
	s := start(t, one(DiskSpec{Content: Generated(Pattern{Seed: 1, Random: 100}, 64*mib)}))
	c, vm := login(t, s), s.VM("web")
	snap := snapshotNow(t, c, vm, "s")
	l, info := mustExport(t, c, snap)
	res := fetch(t, s, info.DeviceUrl[0].Url, "")
	put(t, vm.Disk(0), 0, noise(1, mib))
	if err := l.Abort(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); err == nil || n > 32*mib {
		t.Errorf("%d bytes came, %v", n, err)
	}
	if n := pinned(vm); n != 0 || len(s.OpenLeases()) != 0 {
		t.Errorf("%d things are held, leases %v", n, s.OpenLeases())
	}
	removeSnapshot(t, c, snap)
}

func TestWhatGoesAwayEndsItsLeases(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c, vm := login(t, s), s.VM("web")
	snapshotNow(t, c, vm, "kept")
	snap := snapshotNow(t, c, vm, "removed by the owner")
	l, info := mustExport(t, c, snap)
	vm.op.Lock()
	err := vm.removeSnapshots(vm.snapshots[1:])
	vm.op.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	<-s.leaseOf(info.Lease).released
	if p, err := l.Properties(t.Context()); err != nil || p.State != "error" {
		t.Errorf("the lease is %+v: %v", p, err)
	}
	_, info = mustExport(t, c, vm.snapshots[0].obj.Self)
	if err := s.RemoveServer("web"); err != nil {
		t.Fatal(err)
	}
	<-s.leaseOf(info.Lease).released
	if open := s.OpenLeases(); len(open) != 0 {
		t.Errorf("open leases: %v", open)
	}
}

func TestClosingEndsLeasesAndDownloads(t *testing.T) {
	s := start(t, one(DiskSpec{Content: Generated(Pattern{Seed: 1, Random: 100}, 64*mib)}))
	c, vm := login(t, s), s.VM("web")
	_, info := mustExport(t, c, snapshotNow(t, c, vm, "s"))
	res := fetch(t, s, info.DeviceUrl[0].Url, "")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the download came to its end")
	}
	if n := pinned(vm); n != 0 || len(s.OpenLeases()) != 0 {
		t.Errorf("%d things are held, leases %v", n, s.OpenLeases())
	}
}

func TestOfManyEndedLeasesTheFirstAreForgotten(t *testing.T) {
	s := start(t, one(DiskSpec{Size: mib}))
	c := login(t, s)
	snap := snapshotNow(t, c, s.VM("web"), "s")
	first, _ := mustExport(t, c, snap)
	if err := first.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range keepTasks {
		ref, err := exportCall(t.Context(), c, snap)
		if err != nil {
			t.Fatal(err)
		}
		if err := nfc.NewLease(c.Client, ref).Abort(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := first.Properties(t.Context(), "state"); !faultOf[types.ManagedObjectNotFound](err) || len(s.leases) != keepTasks {
		t.Errorf("the first of %d leases: %v", len(s.leases), err)
	}
}
