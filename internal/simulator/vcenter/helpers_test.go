package vcenter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const mib = 1 << 20

// start runs a vCenter for the test, which fails if it leaves something that
// was refused unnoticed.
func start(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func soapClient(t testing.TB, s *Server) *soap.Client {
	t.Helper()
	c := soap.NewClient(s.URL, false)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CertificatePEM) {
		t.Fatal("the certificate is not PEM")
	}
	c.DefaultTransport().TLSClientConfig = &tls.Config{RootCAs: pool}
	return c
}

// login is how clients of govmomi come in.
func login(t testing.TB, s *Server) *govmomi.Client {
	t.Helper()
	vc, err := vim25.NewClient(t.Context(), soapClient(t, s))
	if err != nil {
		t.Fatal(err)
	}
	c := &govmomi.Client{Client: vc, SessionManager: session.NewManager(vc)}
	if err := c.Login(t.Context(), url.UserPassword(s.User, s.Password)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.Logout(ctx) // the session may have been expired by the test
		c.CloseIdleConnections()
	})
	return c
}

func machineOf(c *govmomi.Client, vm *VM) *object.VirtualMachine {
	return object.NewVirtualMachine(c.Client, vm.Reference())
}

func snapshotNow(t testing.TB, c *govmomi.Client, vm *VM, name string) types.ManagedObjectReference {
	t.Helper()
	task, err := machineOf(c, vm).CreateSnapshot(t.Context(), name, "", false, false)
	if err != nil {
		t.Fatal(err)
	}
	info, err := task.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Result.(types.ManagedObjectReference)
}

func waitTask(t testing.TB, c *govmomi.Client, ref types.ManagedObjectReference, err error) error {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return object.NewTask(c.Client, ref).Wait(t.Context())
}

func removeSnapshot(t testing.TB, c *govmomi.Client, ref types.ManagedObjectReference) {
	t.Helper()
	res, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{This: ref})
	if err != nil {
		t.Fatal(err)
	}
	if err := waitTask(t, c, res.Returnval, nil); err != nil {
		t.Fatal(err)
	}
}

// diskOf reads a disk's device from the VM or from one of its snapshots.
func diskOf(t testing.TB, c *govmomi.Client, owner types.ManagedObjectReference, key int32) *types.VirtualDisk {
	t.Helper()
	var devices object.VirtualDeviceList
	if owner.Type == "VirtualMachineSnapshot" {
		var snap mo.VirtualMachineSnapshot
		if err := c.RetrieveOne(t.Context(), owner, []string{"config"}, &snap); err != nil {
			t.Fatal(err)
		}
		devices = snap.Config.Hardware.Device
	} else {
		var vm mo.VirtualMachine
		if err := c.RetrieveOne(t.Context(), owner, []string{"config.hardware.device"}, &vm); err != nil {
			t.Fatal(err)
		}
		devices = vm.Config.Hardware.Device
	}
	d, _ := devices.FindByKey(key).(*types.VirtualDisk)
	return d
}

func flatBacking(t testing.TB, d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	t.Helper()
	if d == nil {
		t.Fatal("there is no such disk")
	}
	return d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

func changeIDOf(t testing.TB, c *govmomi.Client, snap types.ManagedObjectReference, d *Disk) string {
	t.Helper()
	return flatBacking(t, diskOf(t, c, snap, d.Key())).ChangeId
}

// changed asks page by page until the disk's end, and counts the pages.
func changed(t testing.TB, c *govmomi.Client, vm *VM, snap types.ManagedObjectReference, d *Disk, since string) (areas []Extent, pages int, err error) {
	t.Helper()
	for at := int64(0); at < d.Size(); {
		res, err := methods.QueryChangedDiskAreas(t.Context(), c, &types.QueryChangedDiskAreas{
			This: vm.Reference(), Snapshot: &snap, DeviceKey: d.Key(), StartOffset: at, ChangeId: since,
		})
		if err != nil {
			return nil, pages, err
		}
		info := res.Returnval
		if info.StartOffset != at || info.Length <= 0 {
			t.Fatalf("a page at %d begins at %d and is %d long", at, info.StartOffset, info.Length)
		}
		for _, a := range info.ChangedArea {
			if a.Start < at || a.Start+a.Length > info.StartOffset+info.Length {
				t.Fatalf("area %+v lies outside of its page %d+%d", a, info.StartOffset, info.Length)
			}
			areas = append(areas, Extent{a.Start, a.Length})
		}
		at += info.Length
		pages++
	}
	return areas, pages, nil
}

// get asks for a file; an empty rang asks for all of it.
func get(t testing.TB, s *Server, file, rang string, auth func(*http.Request)) (int, []byte, http.Header) {
	t.Helper()
	u := object.NewDatastoreURL(*s.URL, "/DC0", "datastore1", file)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if rang != "" {
		req.Header.Set("Range", rang)
	}
	if auth == nil {
		auth = func(r *http.Request) { r.SetBasicAuth(s.User, s.Password) }
	}
	auth(req)
	client := http.Client{Transport: soapClient(t, s).DefaultTransport()}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body, res.Header
}

// faultOf says whether err is the vSphere fault F: a value type where a call
// failed, a pointer type where a task did.
func faultOf[F any](err error) bool {
	if soap.IsSoapFault(err) {
		_, ok := soap.ToSoapFault(err).VimFault().(F)
		return ok
	}
	var task interface{ Fault() types.BaseMethodFault }
	if errors.As(err, &task) {
		_, ok := task.Fault().(F)
		return ok
	}
	return false
}

func put(t testing.TB, d *Disk, off int64, p []byte) {
	t.Helper()
	if _, err := d.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}
