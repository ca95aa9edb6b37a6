package vsphere_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/hypervisor/sourcetest"
	"skylift/hypervisor/vsphere"
	"skylift/internal/secret"
	"skylift/internal/simulator/vcenter"
)

const installation = "test1"

// platform is the simulated vCenter under the conformance suite.
type platform struct {
	*vcenter.Server
	refusing bool // the test provokes what the simulator refuses
	quirks   vcenter.Quirks

	mu     sync.Mutex
	names  map[hypervisor.ServerID]string
	decide func(n int) sourcetest.Fate
	calls  int
	disks  map[hypervisor.ServerID][]*vcenter.Disk // of servers whose disks came or went
	spoilt []*regexp.Regexp                        // files that nobody can read
}

func newPlatform(t testing.TB, change ...func(*vcenter.Config)) *platform {
	p := &platform{names: map[hypervisor.ServerID]string{}}
	c := vcenter.Config{AreasPerPage: 50, EmptyPages: true, Fault: p.fault}
	for _, f := range change {
		f(&c)
	}
	server, err := vcenter.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Server = server
	t.Cleanup(func() {
		p.Intercept(nil)
		if refused := server.Refused(); len(refused) > 0 && !p.refusing {
			t.Errorf("the simulator refused %q", refused)
		}
		if open := server.OpenLeases(); len(open) > 0 {
			t.Errorf("there are still leases on %q", open)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *platform) fault(call vcenter.Call) error {
	p.mu.Lock()
	for _, files := range p.spoilt {
		if call.Path != "" && files.MatchString(call.Path) {
			p.mu.Unlock()
			return vcenter.HTTPStatus(http.StatusForbidden)
		}
	}
	decide := p.decide
	p.calls++
	n := p.calls
	p.mu.Unlock()
	if decide == nil {
		return nil
	}
	switch decide(n) {
	case sourcetest.Refuse:
		return io.ErrUnexpectedEOF
	case sourcetest.Lose:
		return vcenter.ErrAnswerLost
	}
	return nil
}

func (p *platform) Intercept(decide func(n int) sourcetest.Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide, p.calls = decide, 0
}

func (p *platform) Traits() sourcetest.Traits {
	traits := sourcetest.Traits{Quiesce: hypervisor.Quiesced, ForeignReadable: true, Calls: 100}
	if p.quirks.FlatLocked {
		traits.Every = 10
	}
	return traits
}

// config is what a source of the simulated vCenter needs.
func (p *platform) config() vsphere.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CertificatePEM)
	log := logrus.New()
	log.SetOutput(io.Discard)
	return vsphere.Config{
		URL: p.URL.String(), User: p.User, Password: secret.New(p.Password), Installation: installation,
		TLS: &tls.Config{RootCAs: roots}, Log: log,
	}
}

func (p *platform) Source(t testing.TB) (hypervisor.Source, func()) { return p.source(t, p.config()) }

func (p *platform) source(t testing.TB, c vsphere.Config) (*vsphere.Source, func()) {
	t.Helper()
	s, err := vsphere.New(c)
	if err != nil {
		t.Fatal(err)
	}
	stop := func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func (p *platform) AddServer(t testing.TB, name string, disks ...int64) hypervisor.ServerID {
	t.Helper()
	spec := vcenter.ServerSpec{Name: name, ChangeTracking: true, Quirks: p.quirks}
	for _, size := range disks {
		spec.Disks = append(spec.Disks, vcenter.DiskSpec{Size: size})
	}
	return p.add(t, spec)
}

func (p *platform) add(t testing.TB, spec vcenter.ServerSpec) hypervisor.ServerID {
	t.Helper()
	if spec.InstanceUUID == "" {
		spec.InstanceUUID = fmt.Sprintf("50000000-0000-4000-8000-%012x", len(p.names)+1)
	}
	if _, err := p.Server.AddServer(spec); err != nil {
		t.Fatal(err)
	}
	id := hypervisor.ServerID(spec.InstanceUUID)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names[id] = spec.Name
	return id
}

func (p *platform) vm(t testing.TB, id hypervisor.ServerID) *vcenter.VM {
	t.Helper()
	p.mu.Lock()
	name := p.names[id]
	p.mu.Unlock()
	vm := p.VM(name)
	if vm == nil {
		t.Fatalf("no server %s", id)
	}
	return vm
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *platform) RenameServer(t testing.TB, id hypervisor.ServerID, name string) {
	t.Helper()
	must(t, p.vm(t, id).Rename(name))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names[id] = name
}

func (p *platform) RemoveServer(t testing.TB, id hypervisor.ServerID) {
	t.Helper()
	must(t, p.Server.RemoveServer(p.vm(t, id).Name()))
}

func (p *platform) Write(t testing.TB, id hypervisor.ServerID, disk int, off int64, b []byte) {
	if _, err := p.disk(t, id, disk).WriteAt(b, off); err != nil {
		t.Error(err)
	}
}

func (p *platform) Grow(t testing.TB, id hypervisor.ServerID, disk int, size int64) {
	t.Helper()
	must(t, p.disk(t, id, disk).Grow(size))
}

// disk is the disk of that index, whatever other disks came and went.
func (p *platform) disk(t testing.TB, id hypervisor.ServerID, n int) *vcenter.Disk {
	t.Helper()
	vm := p.vm(t, id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.disks[id]; known != nil {
		return known[n]
	}
	return vm.Disk(n)
}

// indexed returns the server's disks by their indexes, which stay from here on.
func (p *platform) indexed(t testing.TB, id hypervisor.ServerID) []*vcenter.Disk {
	t.Helper()
	vm := p.vm(t, id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.disks == nil {
		p.disks = map[hypervisor.ServerID][]*vcenter.Disk{}
	}
	if p.disks[id] == nil {
		p.disks[id] = vm.Disks()
	}
	return p.disks[id]
}

func (p *platform) AddDisk(t testing.TB, id hypervisor.ServerID, size int64) {
	t.Helper()
	disks := p.indexed(t, id)
	added, err := p.vm(t, id).AddDisk(vcenter.DiskSpec{Size: size})
	must(t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disks[id] = append(disks, added)
}

func (p *platform) RemoveDisk(t testing.TB, id hypervisor.ServerID, disk int) {
	t.Helper()
	must(t, p.indexed(t, id)[disk].Remove())
}

func (p *platform) AddLeftOut(t testing.TB, id hypervisor.ServerID, size int64) string {
	t.Helper()
	vm := p.vm(t, id)
	_, err := vm.AddDisk(vcenter.DiskSpec{Size: size, Mode: string(types.VirtualDiskModeIndependent_persistent)})
	must(t, err)
	return fmt.Sprintf("Hard disk %d", len(vm.Disks()))
}

// SpoilDisk refuses the files of the disk's chain and its place in exports.
func (p *platform) SpoilDisk(t testing.TB, id hypervisor.ServerID, disk int) {
	t.Helper()
	name := regexp.QuoteMeta(p.vm(t, id).Name())
	if disk > 0 {
		name += fmt.Sprintf("_%d", disk)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoilt = append(p.spoilt, regexp.MustCompile(`/`+name+`[-.][^/]*$`), regexp.MustCompile(fmt.Sprintf(`/disk-%d\.vmdk$`, disk)))
}

func (p *platform) RevertToForeign(t testing.TB, id hypervisor.ServerID, name string) {
	t.Helper()
	must(t, p.vm(t, id).Revert(name))
}

func (p *platform) LoseTracking(t testing.TB, id hypervisor.ServerID) {
	t.Helper()
	must(t, p.vm(t, id).ResetTracking())
}

// client is another client of the vCenter's.
func (p *platform) client(t testing.TB) *vim25.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CertificatePEM)
	u := *p.URL
	u.User = url.UserPassword(p.User, p.Password)
	sc := soap.NewClient(&u, false)
	sc.DefaultTransport().TLSClientConfig = &tls.Config{RootCAs: roots}
	vc, err := vim25.NewClient(t.Context(), sc)
	must(t, err)
	c := &govmomi.Client{Client: vc, SessionManager: nil}
	_, err = methods.Login(t.Context(), vc, &types.Login{This: *vc.ServiceContent.SessionManager, UserName: p.User, Password: p.Password})
	must(t, err)
	t.Cleanup(c.Client.CloseIdleConnections)
	return vc
}

func (p *platform) TakeForeign(t testing.TB, id hypervisor.ServerID, name string) {
	t.Helper()
	task, err := object.NewVirtualMachine(p.client(t), p.vm(t, id).Reference()).CreateSnapshot(t.Context(), name, "", false, false)
	must(t, err)
	must(t, task.Wait(t.Context()))
}

func (p *platform) DeleteSnapshot(t testing.TB, ref hypervisor.SnapshotRef) {
	t.Helper()
	if p.quirks.FlatLocked { // exports keep off clients, and not the owner
		must(t, p.vm(t, ref.Server).RemoveAllSnapshots())
		return
	}
	c := p.client(t)
	res, err := methods.RemoveSnapshot_Task(t.Context(), c, &types.RemoveSnapshot_Task{
		This: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: ref.ID},
	})
	must(t, err)
	must(t, object.NewTask(c, res.Returnval).Wait(t.Context()))
}

func (p *platform) SnapshotNames(testing.TB) (names []string) {
	for _, n := range p.OpenSnapshots() {
		_, name, _ := strings.Cut(n, "/")
		names = append(names, name)
	}
	return names
}

func (p *platform) ExpireSessions(testing.TB) { p.Server.ExpireSessions() }

// exporting is a platform where the files of running servers are locked, so that
// their disks are exported. A lease that nobody ends is over after a second.
func exporting(t testing.TB, change ...func(*vcenter.Config)) *platform {
	p := newPlatform(t, append([]func(*vcenter.Config){func(c *vcenter.Config) { c.LeaseTimeout = time.Second }}, change...)...)
	p.refusing, p.quirks.FlatLocked = true, true
	return p
}

// TestContractByExport keeps the contract where nothing but exports is left.
func TestContractByExport(t *testing.T) {
	sourcetest.Run(t, func(t testing.TB) sourcetest.Platform { return exporting(t) })
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, func(t testing.TB) sourcetest.Platform { return newPlatform(t) })
}
