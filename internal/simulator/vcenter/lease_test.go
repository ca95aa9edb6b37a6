package vcenter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/internal/need"
)

// export takes a lease on a snapshot, or on the server itself, and waits until
// it is ready.
func export(t testing.TB, c *govmomi.Client, of types.ManagedObjectReference) (*nfc.Lease, *types.HttpNfcLeaseInfo, error) {
	t.Helper()
	ref, err := exportCall(t.Context(), c, of)
	if err != nil {
		return nil, nil, err
	}
	l := nfc.NewLease(c.Client, ref)
	info, err := l.Wait(t.Context(), nil)
	if err != nil {
		return l, nil, err
	}
	return l, &info.HttpNfcLeaseInfo, nil
}

func exportCall(ctx context.Context, c *govmomi.Client, of types.ManagedObjectReference) (types.ManagedObjectReference, error) {
	if of.Type == "VirtualMachine" {
		res, err := methods.ExportVm(ctx, c, &types.ExportVm{This: of})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	}
	res, err := methods.ExportSnapshot(ctx, c, &types.ExportSnapshot{This: of})
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return res.Returnval, nil
}

func mustExport(t testing.TB, c *govmomi.Client, of types.ManagedObjectReference) (*nfc.Lease, *types.HttpNfcLeaseInfo) {
	t.Helper()
	l, info, err := export(t, c, of)
	if err != nil {
		t.Fatal(err)
	}
	return l, info
}

// fetch begins a download, with nothing but the URL.
func fetch(t testing.TB, s *Server, url, rang string) *http.Response {
	t.Helper()
	transport := soapClient(t, s).DefaultTransport()
	for _, h := range s.places.hosts {
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(h.CertificatePEM())
	}
	t.Cleanup(transport.CloseIdleConnections)
	url = strings.Replace(url, "//*:", "//127.0.0.1:", 1)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rang != "" {
		req.Header.Set("Range", rang)
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func fetchAll(t testing.TB, s *Server, url string) []byte {
	t.Helper()
	res := fetch(t, s, url, "")
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("status %d: %v", res.StatusCode, err)
	}
	return body
}

// pinned counts what is still held of the server's disks.
func pinned(vm *VM) (n int) {
	for _, d := range vm.Disks() {
		d.v.mu.RLock()
		n += d.v.pins + len(d.v.dying)
		d.v.mu.RUnlock()
	}
	return n
}

func TestAnExportIsAStreamThatQEMUReads(t *testing.T) {
	for name, test := range map[string]struct {
		disk  DiskSpec
		write func(t *testing.T, d *Disk, truth []byte)
	}{
		"one sector":                     {DiskSpec{Size: sector}, nil},
		"nothing":                        {DiskSpec{Size: 70 * mib}, nil},
		"a little":                       {DiskSpec{Size: 40*mib + 3*sector}, scribbles},
		"zeros that were written":        {DiskSpec{Size: 2 * mib}, func(t *testing.T, d *Disk, truth []byte) { put(t, d, 0, make([]byte, mib)) }},
		"noise to the last byte":         {DiskSpec{Size: 5*mib + 7*sector, Content: Generated(Pattern{Seed: 2, Random: 100}, 5*mib+7*sector)}, scribbles},
		"text in two tables":             {DiskSpec{Size: 36 * mib, Content: Generated(Pattern{Seed: 2, Text: 20, Run: grain}, 36*mib)}, nil},
		"more than what was there":       {DiskSpec{Size: 6 * mib, Content: Generated(Pattern{Seed: 3, Random: 50, Text: 50}, 3*mib+100)}, scribbles},
		"on an IDE disk, kept in a file": {DiskSpec{Size: 3 * mib, Content: Sparse(), Controller: "ide"}, scribbles},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, one(test.disk))
			c, vm := login(t, s), s.VM("web")
			d := vm.Disk(0)
			truth := make([]byte, d.Size())
			if _, err := d.ReadAt(truth, 0); err != nil {
				t.Fatal(err)
			}
			if test.write != nil {
				test.write(t, d, truth)
			}
			snap := snapshotNow(t, c, vm, "s")
			l, info := mustExport(t, c, snap)
			put(t, d, 0, noise(99, sector))
			file := filepath.Join(t.TempDir(), "disk.vmdk")
			if err := os.WriteFile(file, fetchAll(t, s, info.DeviceUrl[0].Url), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, need.Program(t, "qemu-img"), "check", "-f", "vmdk", file)
			sameBytes(t, "the disk", readByQEMU(t, file), truth)
			if err := l.Complete(t.Context()); err != nil {
				t.Error(err)
			}
			if n := pinned(vm); n != 0 || len(s.OpenLeases()) != 0 {
				t.Errorf("%d things are held, leases %v", n, s.OpenLeases())
			}
			if len(s.Refused()) > 0 {
				t.Error(s.Refused())
			}
		})
	}
}

func scribbles(t *testing.T, d *Disk, truth []byte) {
	scribble(t, rand.New(rand.NewPCG(5, 5)), d, truth)
}

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

func TestRangesOfExportsAreIgnored(t *testing.T) {
	s := start(t, one(DiskSpec{Content: Generated(Pattern{Seed: 1, Random: 100}, mib)}))
	c := login(t, s)
	l, info := mustExport(t, c, snapshotNow(t, c, s.VM("web"), "s"))
	res := fetch(t, s, info.DeviceUrl[0].Url, "bytes=100-200")
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || res.ContentLength >= 0 || !bytes.HasPrefix(body, []byte("KDMV")) || len(body) < mib {
		t.Errorf("status %d, length %d, %d bytes: %v", res.StatusCode, res.ContentLength, len(body), err)
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAServerThatIsOffIsExportedAsItIs(t *testing.T) {
	cfg := one(DiskSpec{Size: mib}, DiskSpec{Size: mib, Mode: "independent_persistent"})
	cfg.Servers[0].Power = types.VirtualMachinePowerStatePoweredOff
	cfg.Servers[0].Quirks.ExportReversed = true
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	put(t, vm.Disk(0), 0, []byte("before"))
	snapshotNow(t, c, vm, "s")
	put(t, vm.Disk(0), 0, []byte("now"))
	l, info := mustExport(t, c, vm.Reference())
	if len(info.DeviceUrl) != 2 || !strings.HasSuffix(info.DeviceUrl[1].Key, "0:0") || info.DeviceUrl[1].TargetId != "disk-1.vmdk" {
		t.Fatalf("the devices are %+v", info.DeviceUrl)
	}
	file := filepath.Join(t.TempDir(), "disk.vmdk")
	if err := os.WriteFile(file, fetchAll(t, s, info.DeviceUrl[1].Url), 0o600); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, mib)
	copy(want, "nowore")
	sameBytes(t, "the disk", readByQEMU(t, file), want)
	if err := s.VM("web").SetPower(types.VirtualMachinePowerStatePoweredOn); err != nil {
		t.Fatal(err)
	}
	if p, err := l.Properties(t.Context()); err != nil || p.State != "error" {
		t.Errorf("the server was switched on, the lease is %+v: %v", p, err)
	}
	if _, _, err := export(t, c, vm.Reference()); !faultOf[types.InvalidPowerState](err) {
		t.Errorf("an export of a running server: %v", err)
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

func TestExportsFailInTheWaysThatTheyAreToldTo(t *testing.T) {
	var fault func(Call) error
	cfg := Config{
		Fault: func(c Call) error {
			if fault == nil {
				return nil
			}
			return fault(c)
		},
		Servers: []ServerSpec{
			{Name: "web", Disks: []DiskSpec{{Content: Generated(Pattern{Seed: 1, Random: 100}, 4*mib)}}},
			{Name: "fails", Quirks: Quirks{ExportFails: true}, Disks: []DiskSpec{{Size: mib}}},
			{Name: "alone", Quirks: Quirks{ExportAlone: true}, Disks: []DiskSpec{{Size: mib}}},
			{Name: "secret", Encrypted: true, Disks: []DiskSpec{{Size: mib}}},
		},
	}
	s := start(t, cfg)
	c := login(t, s)
	snap := func(name string) types.ManagedObjectReference { return snapshotNow(t, c, s.VM(name), "s") }
	if _, _, err := export(t, c, snap("fails")); !faultOf[types.InvalidState](err) {
		t.Errorf("a server whose exports fail: %v", err)
	}
	if _, _, err := export(t, c, snap("secret")); !faultOf[types.NotSupported](err) {
		t.Errorf("an encrypted server: %v", err)
	}
	alone := snap("alone")
	l, _ := mustExport(t, c, alone)
	if _, _, err := export(t, c, alone); !faultOf[types.TaskInProgress](err) {
		t.Errorf("a second lease: %v", err)
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Error(err)
	}
	web := snap("web")
	fault = func(c Call) error {
		if c.Method == "ExportSnapshot" && c.Task {
			return SOAPFault{&types.FileFault{File: "x"}, "no such file"}
		}
		return nil
	}
	if _, _, err := export(t, c, web); !faultOf[*types.FileFault](err) {
		t.Errorf("a lease that does not get ready: %v", err)
	}
	fault = func(c Call) error {
		if c.Method == "ExportSnapshot" && c.Task {
			<-c.Context.Done()
		}
		return nil
	}
	ref, err := exportCall(t.Context(), c, web)
	if err != nil {
		t.Fatal(err)
	}
	slow := nfc.NewLease(c.Client, ref)
	if p, err := slow.Properties(t.Context()); err != nil || p.State != "initializing" {
		t.Errorf("the lease is %+v: %v", p, err)
	}
	if err := slow.Progress(t.Context(), 1); !faultOf[types.InvalidState](err) {
		t.Errorf("progress before the beginning: %v", err)
	}
	if err := slow.Abort(t.Context(), nil); err != nil {
		t.Error(err)
	}
	var path string
	fault = func(c Call) error {
		if c.Method == "GET /nfc" {
			path = c.Path
			return []error{DropAfter(100_000), HTTPStatus(503), errors.New("else")}[min(c.N-1, 2)]
		}
		return nil
	}
	l, info := mustExport(t, c, web)
	res := fetch(t, s, info.DeviceUrl[0].Url, "")
	if n, err := io.Copy(io.Discard, res.Body); n != 100_000 || err == nil || !strings.HasSuffix(path, "/disk-0.vmdk") {
		t.Errorf("%d bytes of %s came: %v", n, path, err)
	}
	for _, want := range []int{503, 500} {
		if res := fetch(t, s, info.DeviceUrl[0].Url, ""); res.StatusCode != want {
			t.Errorf("status %d, want %d", res.StatusCode, want)
		}
	}
	if err := l.Abort(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if calls := s.Calls(); calls["GET /nfc"] != 3 || calls["ExportSnapshot (task)"] != 4 {
		t.Errorf("the calls are %v", calls)
	}
	for _, name := range []string{"web", "alone", "fails", "secret"} {
		if n := pinned(s.VM(name)); n != 0 {
			t.Errorf("%s: %d things are held", name, n)
		}
	}
	if len(s.OpenLeases()) > 0 || len(s.Refused()) > 0 {
		t.Error(s.OpenLeases(), s.Refused())
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

func TestLeasesNameWhoServesThem(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  Config
		want func(s *Server, vm *VM) (address, thumbprint string)
	}{
		"the server's host":         {Config{}, func(s *Server, vm *VM) (string, string) { return vm.host.Address(), vm.host.Thumbprint() }},
		"vCenter, for silent hosts": {Config{NoHostListeners: true}, func(s *Server, _ *VM) (string, string) { return s.URL.Host, s.thumbprint() }},
		"whom the client reached":   {Config{Standalone: true}, func(s *Server, _ *VM) (string, string) { return "*:" + s.URL.Port(), s.thumbprint() }},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.HostTransfers = 1
			test.cfg.Servers = []ServerSpec{{Name: "web", Disks: []DiskSpec{{Content: Generated(Pattern{Seed: 1, Random: 100}, 32*mib)}}}}
			s := start(t, test.cfg)
			c, vm := login(t, s), s.VM("web")
			l, info := mustExport(t, c, snapshotNow(t, c, vm, "s"))
			address, thumbprint := test.want(s, vm)
			d := info.DeviceUrl[0]
			if !strings.HasPrefix(d.Url, "https://"+address+"/nfc/") || d.SslThumbprint != thumbprint || thumbprint == "" {
				t.Errorf("%s with %s, want %s with %s", d.Url, d.SslThumbprint, address, thumbprint)
			}
			if err := s.Move("web", "esx-2.example.com", ""); err == nil {
				t.Error("the server was moved from below its export")
			}
			res := fetch(t, s, d.Url, "")
			if _, err := io.CopyN(io.Discard, res.Body, mib); err != nil || res.StatusCode != 200 {
				t.Errorf("status %d: %v", res.StatusCode, err)
			}
			if res := fetch(t, s, d.Url, ""); res.StatusCode != 503 {
				t.Errorf("one transfer too many: status %d", res.StatusCode)
			}
			if err := l.Abort(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	s := start(t, one(DiskSpec{Size: mib}))
	c := login(t, s)
	l, info := mustExport(t, c, snapshotNow(t, c, s.VM("web"), "s"))
	_, file, _ := strings.Cut(info.DeviceUrl[0].Url, "/nfc/")
	for i, h := range []string{s.URL.Host, s.Host("esx-1.example.com").Address(), s.Host("esx-2.example.com").Address()} {
		want := 404
		if h == s.VM("web").host.Address() {
			want = 200
		}
		if res := fetch(t, s, "https://"+h+"/nfc/"+file, ""); res.StatusCode != want {
			t.Errorf("host %d: status %d, want %d", i, res.StatusCode, want)
		}
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Error(err)
	}
	s.Deny("VApp.Export")
	if _, _, err := export(t, c, s.VM("web").snapshots[0].obj.Self); !faultOf[types.NoPermission](err) {
		t.Errorf("an export without the privilege: %v", err)
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
