package vcenter

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// ticketFor asks for a ticket for a file of datastore1 on the host at address.
func ticketFor(t testing.TB, c *govmomi.Client, address, method, file string) (*types.SessionManagerGenericServiceTicket, string, error) {
	t.Helper()
	u := object.NewDatastoreURL(url.URL{Scheme: "https", Host: address}, "ha-datacenter", "datastore1", file)
	spec := &types.SessionManagerHttpServiceRequestSpec{Url: u.String(), Method: method}
	ticket, err := c.SessionManager.AcquireGenericServiceTicket(t.Context(), spec)
	return ticket, u.String(), err
}

// fetch asks the host for a URL, with a ticket unless it is empty.
func (h *Host) fetch(t testing.TB, client *http.Client, method, u, ticket string) (int, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Host = h.Address()
	if ticket != "" {
		req.AddCookie(&http.Cookie{Name: ticketCookie, Value: ticket})
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

// client trusts the host.
func (h *Host) client(t testing.TB) *http.Client {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(h.CertificatePEM()) {
		t.Fatal("the certificate is not PEM")
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Jar: jar}
}

// clock is time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// frozenOn is a server of one disk with a snapshot, on the first host.
func frozenOn(t testing.TB, cfg Config, data []byte) (*Server, *govmomi.Client, *Host) {
	t.Helper()
	cfg.Servers = []ServerSpec{{Name: "web", Host: "esx-1.example.com", ChangeTracking: true, Disks: []DiskSpec{{Size: int64(len(data))}}}}
	s := start(t, cfg)
	put(t, s.VM("web").Disk(0), 0, data)
	c := login(t, s)
	snapshotNow(t, c, s.VM("web"), "s")
	return s, c, s.Host("esx-1.example.com")
}

const flatFile = "web/web-flat.vmdk"

func TestATicketLetsOneRequestThroughToItsHost(t *testing.T) {
	data := noise(1, mib)
	clock := newClock()
	s, c, h := frozenOn(t, Config{Now: clock.now, TicketTimeout: time.Minute}, data)
	other := s.Host("esx-2.example.com")
	for _, test := range []struct {
		name, method string
		use          func(ticket, u string) (int, []byte, error)
		want         int
	}{
		{"for GET, used once", "httpGet", func(ticket, u string) (int, []byte, error) {
			return h.fetch(t, h.client(t), "GET", u, ticket)
		}, 200},
		{"for any method, used for HEAD", "", func(ticket, u string) (int, []byte, error) {
			return h.fetch(t, h.client(t), "HEAD", u, ticket)
		}, 200},
		{"for GET, used for HEAD", "httpGet", func(ticket, u string) (int, []byte, error) {
			return h.fetch(t, h.client(t), "HEAD", u, ticket)
		}, 401},
		{"used twice", "httpGet", func(ticket, u string) (int, []byte, error) {
			client := h.client(t)
			if status, _, err := h.fetch(t, client, "GET", u, ticket); status != 200 || err != nil {
				t.Errorf("the first use: status %d, %v", status, err)
			}
			return h.fetch(t, client, "GET", u, ticket)
		}, 401},
		{"used for another file", "httpGet", func(ticket, u string) (int, []byte, error) {
			return h.fetch(t, h.client(t), "GET", strings.ReplaceAll(u, "web-flat", "web"), ticket)
		}, 401},
		{"used at another host", "httpGet", func(ticket, u string) (int, []byte, error) {
			return other.fetch(t, other.client(t), "GET", u, ticket)
		}, 401},
		{"used too late", "httpGet", func(ticket, u string) (int, []byte, error) {
			clock.pass(time.Minute + time.Second)
			return h.fetch(t, h.client(t), "GET", u, ticket)
		}, 401},
		{"used late, but in time", "httpGet", func(ticket, u string) (int, []byte, error) {
			clock.pass(time.Minute)
			return h.fetch(t, h.client(t), "GET", u, ticket)
		}, 200},
		{"expired by its issuer", "httpGet", func(ticket, u string) (int, []byte, error) {
			s.ExpireTickets()
			return h.fetch(t, h.client(t), "GET", u, ticket)
		}, 401},
		{"not brought", "httpGet", func(_, u string) (int, []byte, error) {
			return h.fetch(t, h.client(t), "GET", u, "")
		}, 401},
		{"used while the host is locked down", "httpGet", func(ticket, u string) (int, []byte, error) {
			h.SetLockdown(true)
			defer h.SetLockdown(false)
			return h.fetch(t, h.client(t), "GET", u, ticket)
		}, 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			ticket, u, err := ticketFor(t, c, "esx-1.example.com", test.method, flatFile)
			if err != nil {
				t.Fatal(err)
			}
			if ticket.HostName != h.Address() || ticket.SslThumbprint != h.Thumbprint() || len(h.Thumbprint()) != 59 {
				t.Errorf("the ticket is for %s with %s", ticket.HostName, ticket.SslThumbprint)
			}
			status, body, err := test.use(ticket.Id, u)
			if err != nil || status != test.want {
				t.Fatalf("status %d, want %d: %v", status, test.want, err)
			}
			if status == 200 && len(body) > 0 && !bytes.Equal(body, data) {
				t.Error("the bytes differ")
			}
		})
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
}

func TestTheClientsOwnWayToAHost(t *testing.T) {
	t.Setenv("GOVMOMI_USE_SERVICE_TICKET", "1")
	t.Setenv("GOVMOMI_USE_SERVICE_TICKET_HOSTNAME", "1")
	data := noise(1, mib)
	s, c, h := frozenOn(t, Config{Datastores: []Datastore{{Name: "datastore1", Hosts: []string{"esx-1.example.com"}}}}, data)
	found, err := object.NewSearchIndex(c.Client).FindByInventoryPath(t.Context(), "/DC0/datastore/datastore1")
	if err != nil {
		t.Fatal(err)
	}
	ds := found.(*object.Datastore)
	ds.InventoryPath, ds.DatacenterPath = "/DC0/datastore/datastore1", "/DC0"
	hosts, err := ds.AttachedHosts(t.Context())
	if err != nil || len(hosts) != 1 || hosts[0].Reference() != h.obj.Self {
		t.Fatalf("the datastore is attached to %v: %v", hosts, err)
	}
	u, cookie, err := ds.ServiceTicket(t.Context(), flatFile, http.MethodGet)
	if err != nil || u.Host != h.Address() || cookie == nil {
		t.Fatalf("the ticket leads to %v with %v: %v", u, cookie, err)
	}
	if status, body, err := h.fetch(t, h.client(t), "GET", u.String(), cookie.Value); status != 200 || err != nil || !bytes.Equal(body, data) {
		t.Errorf("status %d, %d bytes: %v", status, len(body), err)
	}
	// The whole of it: the client trusts the host by the ticket's thumbprint.
	r, size, err := ds.Download(t.Context(), flatFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if body, err := io.ReadAll(r); err != nil || size != int64(len(data)) || !bytes.Equal(body, data) {
		t.Errorf("%d of %d bytes: %v", len(body), size, err)
	}
	if n := s.Calls()["AcquireGenericServiceTicket"]; n != 2 {
		t.Errorf("%d tickets were asked for", n)
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
}

func TestATicketCanOpenASession(t *testing.T) {
	s, c, h := frozenOn(t, Config{Tickets: TicketsOpenSessions}, noise(1, mib))
	client := h.client(t)
	ticket, u, err := ticketFor(t, c, h.Address(), "httpGet", flatFile)
	if err != nil {
		t.Fatal(err)
	}
	descriptor := strings.ReplaceAll(u, "web-flat", "web")
	for _, step := range []struct {
		u, ticket string
		want      int
	}{{u, ticket.Id, 200}, {u, "", 200}, {descriptor, "", 200}, {descriptor, "used-up", 200}} {
		if status, _, err := h.fetch(t, client, "GET", step.u, step.ticket); status != step.want || err != nil {
			t.Errorf("%s: status %d, %v", step.u, status, err)
		}
	}
	if status, _, err := h.fetch(t, h.client(t), "GET", u, ""); status != 401 || err != nil {
		t.Errorf("another client: status %d, %v", status, err)
	}
	s.ExpireTickets()
	if status, _, err := h.fetch(t, client, "GET", u, ""); status != 401 || err != nil {
		t.Errorf("an expired session: status %d, %v", status, err)
	}
}

func TestTicketsAreRefused(t *testing.T) {
	s, c, h := frozenOn(t, Config{}, noise(1, mib))
	ask := func(address, method string) error {
		_, _, err := ticketFor(t, c, address, method, flatFile)
		return err
	}
	if err := ask("esx-9.example.com", "httpGet"); !faultOf[types.InvalidArgument](err) {
		t.Errorf("for an unknown host: %v", err)
	}
	if err := ask(h.ip, "httpPut"); !faultOf[types.InvalidArgument](err) {
		t.Errorf("for writing: %v", err)
	}
	h.SetConnected(false)
	if err := ask(h.ip, "httpGet"); !faultOf[types.HostNotConnected](err) {
		t.Errorf("for a host that is lost: %v", err)
	}
	h.SetConnected(true)
	s.SetTickets(TicketsNotSupported)
	if err := ask(h.ip, "httpGet"); !faultOf[types.NotSupported](err) {
		t.Errorf("unsupported: %v", err)
	}
	s.SetTickets(TicketsNoPermission)
	if err := ask(h.ip, "httpGet"); !faultOf[types.NoPermission](err) {
		t.Errorf("forbidden: %v", err)
	}
	s.SetTickets(TicketsOnce)
	if err := ask(h.ip, "httpGet"); err != nil {
		t.Error(err)
	}
}

func TestAHostThatCannotBeReachedComesBackAtItsAddress(t *testing.T) {
	s, c, h := frozenOn(t, Config{}, noise(1, mib))
	client := h.client(t)
	fetch := func() (int, error) {
		ticket, u, err := ticketFor(t, c, h.ip, "httpGet", flatFile)
		if err != nil {
			t.Fatal(err)
		}
		status, _, err := h.fetch(t, client, "GET", u, ticket.Id)
		return status, err
	}
	if status, err := fetch(); status != 200 || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	for range 2 {
		if err := h.SetReachable(false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fetch(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an unreachable host answered: %v", err)
	}
	for range 2 {
		if err := h.SetReachable(true); err != nil {
			t.Fatal(err)
		}
	}
	if status, err := fetch(); status != 200 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if h.SetReachable(true) == nil {
		t.Error("a host came back after the simulator was closed")
	}
}

func TestHostsWithoutListenersHaveOnlyNames(t *testing.T) {
	_, c, h := frozenOn(t, Config{NoHostListeners: true}, noise(1, mib))
	ticket, _, err := ticketFor(t, c, h.ip, "httpGet", flatFile)
	if err != nil || ticket.HostName != "esx-1.example.com" || ticket.SslThumbprint != "" || h.Address() != "" {
		t.Errorf("the ticket is %+v: %v", ticket, err)
	}
	if err := h.SetReachable(true); err == nil {
		t.Error("a host without a listener became reachable")
	}
}

func TestADatastoreIsServedOnlyByHostsThatMountIt(t *testing.T) {
	s, c, _ := frozenOn(t, Config{Datastores: []Datastore{{Name: "datastore1", Hosts: []string{"esx-1.example.com"}}}}, noise(1, mib))
	other := s.Host("esx-2.example.com")
	ticket, u, err := ticketFor(t, c, other.ip, "httpGet", flatFile)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := other.fetch(t, other.client(t), "GET", u, ticket.Id); status != 404 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if refused := s.Refused(); len(refused) != 1 || !strings.Contains(refused[0], "has no datastore") {
		t.Error(refused)
	}
	if _, err := Start(Config{Datastores: []Datastore{{Name: "x", Hosts: []string{"nowhere"}}}}); err == nil {
		t.Error("a datastore was mounted on a host that does not exist")
	}
}

func TestWhatAHostShowsOfItself(t *testing.T) {
	s, c, h := frozenOn(t, Config{}, noise(1, mib))
	read := func() mo.HostSystem {
		var m mo.HostSystem
		properties := []string{"name", "runtime.connectionState", "summary.hardware.uuid", "config.certificate", "config.lockdownMode", "datastore", "vm"}
		if err := c.RetrieveOne(t.Context(), h.obj.Self, properties, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := read()
	if !bytes.Equal(m.Config.Certificate, h.CertificatePEM()) || m.Summary.Hardware.Uuid == s.Host("esx-2.example.com").obj.Summary.Hardware.Uuid ||
		m.Runtime.ConnectionState != "connected" || len(m.Datastore) != 1 || len(m.Vm) != 1 {
		t.Errorf("the host shows %+v", m)
	}
	ips, err := object.NewHostSystem(c.Client, h.obj.Self).ManagementIPs(t.Context())
	if err != nil || len(ips) != 1 || ips[0].String() != h.ip {
		t.Errorf("the management addresses are %v: %v", ips, err)
	}
	h.SetLockdown(true)
	h.SetConnected(false)
	if m = read(); m.Config.LockdownMode != "lockdownNormal" || m.Runtime.ConnectionState != "notResponding" {
		t.Errorf("locked down and lost, the host shows %v, %v", m.Config.LockdownMode, m.Runtime.ConnectionState)
	}
	var vm mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), s.VM("web").Reference(), []string{"runtime.connectionState"}, &vm); err != nil || vm.Runtime.ConnectionState != "disconnected" {
		t.Errorf("its server shows %v: %v", vm.Runtime.ConnectionState, err)
	}
	if _, err := machineOf(c, s.VM("web")).CreateSnapshot(t.Context(), "x", "", false, false); !faultOf[types.HostNotConnected](err) {
		t.Errorf("a snapshot on a lost host: %v", err)
	}
}

func TestIdleSessionsEnd(t *testing.T) {
	clock := newClock()
	cfg := one(DiskSpec{Size: mib})
	cfg.Now, cfg.SessionTimeout, cfg.Sessions = clock.now, 30*time.Minute, 2
	s := start(t, cfg)
	c := login(t, s)
	read := func() error {
		return c.RetrieveOne(t.Context(), c.ServiceContent.RootFolder, []string{"name"}, &mo.Folder{})
	}
	for range 3 {
		clock.pass(30 * time.Minute)
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	login(t, s)
	if vc, err := govmomi.NewClient(t.Context(), withUser(s), true); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a third session: %v, %v", vc, err)
	}
	clock.pass(30*time.Minute + time.Second)
	if err := read(); !faultOf[types.NotAuthenticated](err) {
		t.Errorf("an idle session: %v", err)
	}
	login(t, s)
}

func withUser(s *Server) *url.URL {
	u := *s.URL
	u.User = url.UserPassword(s.User, s.Password)
	return &u
}

func TestASessionIsNotIdleWhileACallWaits(t *testing.T) {
	clock := newClock()
	waits := make(chan struct{}, 1)
	cfg := one(DiskSpec{Size: mib})
	cfg.Now, cfg.SessionTimeout = clock.now, time.Minute
	cfg.Fault = func(c Call) error {
		if c.Method == "WaitForUpdatesEx" {
			waits <- struct{}{}
		}
		return nil
	}
	s := start(t, cfg)
	w := watch(t, login(t, s), narrow())
	set, err := w.wait(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.version = set.Version
	<-waits
	said := make(chan error, 1)
	go func() {
		_, err := w.wait(t.Context(), nil)
		said <- err
	}()
	<-waits
	clock.pass(time.Hour)
	if err := s.VM("web").Rename("www"); err != nil {
		t.Fatal(err)
	}
	if err := <-said; err != nil {
		t.Errorf("the waiting call ended with %v", err)
	}
	clock.pass(time.Minute + time.Second)
	if _, err := w.wait(t.Context(), nil); !faultOf[types.NotAuthenticated](err) {
		t.Errorf("the idle session: %v", err)
	}
}
