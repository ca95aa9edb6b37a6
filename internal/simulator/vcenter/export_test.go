package vcenter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
