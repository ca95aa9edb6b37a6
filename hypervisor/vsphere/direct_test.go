package vsphere_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

// roads notes which server was asked for files.
type roads struct {
	mu    sync.Mutex
	asked map[string]int // by host; empty for vCenter
	fault func(vcenter.Call) error
}

func (r *roads) note(c vcenter.Call) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Method == "GET /folder" {
		r.asked[c.Host]++
	}
	if r.fault != nil {
		return r.fault(c)
	}
	return nil
}

// take returns what was noted and begins anew.
func (r *roads) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = map[string]int{}
	return asked
}

const esx1 = "esx-1.example.com"

// reached is a guest on esx-1 and what notes the ways to its files.
func reached(t *testing.T, change ...func(*vcenter.Config)) (*guest, *roads) {
	r := &roads{asked: map[string]int{}}
	p := newPlatform(t, append(change, func(c *vcenter.Config) { c.Fault = r.note })...)
	p.refusing = true // of tickets, that is
	g := newGuest(t, p, 8*hypervisor.BlockSize)
	g.scribble(t, 20)
	return g, r
}

func (g *guest) openDisk(t *testing.T, s *vsphere.Source) hypervisor.Disk {
	t.Helper()
	return open(t, s, snapshot(t, s, "r1", g.id, hypervisor.QuiesceNever)).Disks()[0]
}

func TestFilesComeStraightFromTheHostOrThroughVCenter(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, g *guest, c *vsphere.Config)
		direct bool
		why    string
	}{
		{"a host that gives files", nil, true, "read straight from host esx-1"},
		{"a host whose tickets open sessions", func(_ *testing.T, g *guest, _ *vsphere.Config) {
			g.SetTickets(vcenter.TicketsOpenSessions)
		}, true, "read straight from host esx-1"},
		{"a host that cannot be reached", func(t *testing.T, g *guest, _ *vsphere.Config) {
			must(t, g.Host(esx1).SetReachable(false))
		}, false, "because host esx-1.example.com cannot be reached"},
		{"a vCenter without tickets", func(_ *testing.T, g *guest, _ *vsphere.Config) {
			g.SetTickets(vcenter.TicketsNotSupported)
		}, false, "because vCenter gives no ticket for host esx-1"},
		{"a user without tickets", func(_ *testing.T, g *guest, _ *vsphere.Config) {
			g.SetTickets(vcenter.TicketsNoPermission)
		}, false, "because vCenter gives no ticket for host esx-1"},
		{"a host in lockdown", func(_ *testing.T, g *guest, _ *vsphere.Config) {
			g.Host(esx1).SetLockdown(true)
		}, false, "because host esx-1.example.com does not give"},
		{"an impostor in the host's place", func(t *testing.T, _ *guest, c *vsphere.Config) {
			c.CustomizeHost = func(tr *http.Transport) { tr.DialContext = dialing(impostor(t)) }
		}, false, "its thumbprint is not the one that vSphere told"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, r := reached(t)
			config := g.config()
			if c.change != nil {
				c.change(t, g, &config)
			}
			s, _ := g.source(t, config)
			d := g.openDisk(t, s)
			if why := d.Info().Why; !strings.Contains(why, c.why) {
				t.Errorf("the reason is %q, want %q in it", why, c.why)
			}
			r.take()
			mustRead(t, d, g.bytes, hypervisor.Extent{Length: int64(len(g.bytes))})
			if asked := r.take(); (asked[esx1] > 0) != c.direct || (asked[""] > 0) == c.direct {
				t.Errorf("asked were %v", asked)
			}
		})
	}
}

// impostor is an HTTPS server that would give anybody anything, and fails the
// test when it is asked.
func impostor(t *testing.T) (address string) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the impostor was asked for %s with the cookies %v", r.URL, r.Cookies())
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func dialing(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

func TestSessionsSpareTickets(t *testing.T) {
	for _, c := range []struct {
		name    string
		tickets vcenter.Tickets
		most    int
	}{
		{"tickets for one request", vcenter.TicketsOnce, 100},
		{"tickets that open sessions", vcenter.TicketsOpenSessions, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, r := reached(t)
			g.SetTickets(c.tickets)
			s, _ := g.source(t, g.config())
			d := g.openDisk(t, s)
			for i := range int64(4) {
				mustRead(t, d, g.bytes, hypervisor.Extent{Offset: i * hypervisor.BlockSize, Length: hypervisor.BlockSize})
			}
			requests, tickets := r.take()[esx1], g.Calls()["AcquireGenericServiceTicket"]
			if tickets > c.most || c.tickets == vcenter.TicketsOnce && tickets != requests {
				t.Errorf("%d requests took %d tickets", requests, tickets)
			}
			// What was acquired or opened ends: the next read gets new ones.
			g.ExpireTickets()
			mustRead(t, d, g.bytes, hypervisor.Extent{Length: int64(len(g.bytes))})
			if asked := r.take(); asked[""] > 0 {
				t.Errorf("asked were %v", asked)
			}
		})
	}
}

func TestATicketThatIsRefusedOnceIsReplaced(t *testing.T) {
	g, r := reached(t)
	s, _ := g.source(t, g.config())
	d := g.openDisk(t, s)
	r.take()
	var refused atomic.Bool
	r.mu.Lock()
	r.fault = func(call vcenter.Call) error {
		if call.Host == esx1 && refused.CompareAndSwap(false, true) {
			return vcenter.HTTPStatus(http.StatusUnauthorized)
		}
		return nil
	}
	r.mu.Unlock()
	mustRead(t, d, g.bytes, hypervisor.Extent{Length: int64(len(g.bytes))})
	if asked := r.take(); asked[esx1] != 2 || asked[""] > 0 {
		t.Errorf("asked were %v", asked)
	}
}

func TestAHostThatDiesDuringAReadIsReplacedByVCenter(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault error
		die   func(t *testing.T, g *guest)
	}{
		{"it goes away", nil, func(t *testing.T, g *guest) { must(t, g.Host(esx1).SetReachable(false)) }},
		{"it drops every connection", vcenter.ErrDropped, nil},
		{"it is out of sessions for good", vcenter.HTTPStatus(http.StatusServiceUnavailable), nil},
		{"it has not got the file any more", vcenter.HTTPStatus(http.StatusNotFound), nil},
		{"it takes no tickets any more", vcenter.HTTPStatus(http.StatusUnauthorized), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, r := reached(t)
			s, _ := g.source(t, g.config())
			d := g.openDisk(t, s)
			in := []hypervisor.Extent{{Length: hypervisor.BlockSize}, {Offset: 2 * hypervisor.BlockSize, Length: 2 * hypervisor.BlockSize}}
			died := false
			var got []byte
			must(t, d.Read(t.Context(), in, func(_ int64, p []byte, n int64) error {
				if !died {
					died = true
					if c.die != nil {
						c.die(t, g)
					}
					r.mu.Lock()
					r.fault = func(call vcenter.Call) error {
						if call.Host == esx1 {
							return c.fault
						}
						return nil
					}
					r.mu.Unlock()
				}
				got = append(got, p...)
				if p == nil {
					got = append(got, make([]byte, n)...)
				}
				return nil
			}))
			if want := append(g.bytes[:hypervisor.BlockSize:hypervisor.BlockSize], g.bytes[2*hypervisor.BlockSize:4*hypervisor.BlockSize]...); string(got) != string(want) {
				t.Error("other bytes were read")
			}
			if asked := r.take(); asked[""] == 0 {
				t.Errorf("asked were %v", asked)
			}
			mustRead(t, d, g.bytes, hypervisor.Extent{Length: int64(len(g.bytes))})
			if asked := r.take(); asked[esx1] > 0 {
				t.Errorf("the host was asked again: %v", asked)
			}
		})
	}
}

// TestASilentHostIsPassedOverOnce has a host that takes connections and never
// answers: its first trial is short, and the next disk does not wait again.
func TestASilentHostIsPassedOverOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { must(t, listener.Close()) })
	g, r := reached(t)
	g.add(t, vcenter.ServerSpec{Name: "other", Host: esx1, Disks: []vcenter.DiskSpec{{Size: size}, {Size: size}}, InstanceUUID: "50000000-0000-4000-8000-0000000000ff"})
	c := g.config()
	now := time.Now()
	var mu sync.Mutex
	c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	c.Limits.Idle = 300 * time.Millisecond // shorter than a host's trial
	dials := 0
	c.CustomizeHost = func(tr *http.Transport) {
		tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			dials++
			mu.Unlock()
			return dialing(listener.Addr().String())(ctx, network, address)
		}
	}
	s, _ := g.source(t, c)
	d := g.openDisk(t, s)
	if why := d.Info().Why; !strings.Contains(why, "through vCenter, because host "+esx1+" cannot be reached") || dials != 1 {
		t.Errorf("after %d dials: %s", dials, why)
	}
	for i, d := range open(t, s, snapshot(t, s, "r1", "50000000-0000-4000-8000-0000000000ff", hypervisor.QuiesceNever)).Disks() {
		if why := d.Info().Why; !strings.Contains(why, "because host "+esx1+" cannot be reached") || dials != 1 {
			t.Errorf("disk %d, after %d dials: %s", i, dials, why)
		}
	}
	r.take()
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	must(t, s.Remove(t.Context(), hypervisor.SnapshotRef{Server: g.id, Run: "r1", ID: g.rootSnapshot(t, g.id)}))
	g.openDisk(t, s)
	if dials != 2 {
		t.Errorf("an hour later there were %d dials, want another one", dials)
	}
}

// rootSnapshot is the ID of the server's oldest snapshot.
func (p *platform) rootSnapshot(t *testing.T, id hypervisor.ServerID) string {
	t.Helper()
	var vm mo.VirtualMachine
	must(t, property.DefaultCollector(p.client(t)).RetrieveOne(t.Context(), p.vm(t, id).Reference(), []string{"snapshot"}, &vm))
	return vm.Snapshot.RootSnapshotList[0].Snapshot.Value
}

func TestALateDatastoreIsAskedForLessAndWhoWaitsSaysSo(t *testing.T) {
	g, _ := reached(t)
	c := g.config()
	c.Limits.Connections, c.Limits.Latency = 8, 100*time.Millisecond
	s, _ := g.source(t, c)
	d := g.openDisk(t, s)
	must(t, g.SetDatastoreLatency("datastore1", 150*time.Millisecond))
	said := make(chan string, 1000)
	ctx := hypervisor.WithWaits(t.Context(), func(what string) func() { said <- what; return func() {} })
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for ctx.Err() == nil {
				err := d.Read(ctx, []hypervisor.Extent{{Length: hypervisor.BlockSize}}, func(int64, []byte, int64) error { return nil })
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	select {
	case what := <-said:
		if !strings.Contains(what, `datastore "datastore1" answers in `) || !strings.Contains(what, "more than 100ms: fewer reads at a time") {
			t.Errorf("it says %q", what)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody says what is waited for")
	}
	enough()
	all.Wait()
}

// TestSmallPartsAreNotWorthATicket reads a chain, whose tables and grains are
// small, under each way to treat tickets.
func TestSmallPartsAreNotWorthATicket(t *testing.T) {
	for _, c := range []struct {
		name          string
		tickets       vcenter.Tickets
		refused       bool // by vCenter
		host, vcenter bool // are asked
	}{
		{"tickets for one request", vcenter.TicketsOnce, false, true, true},
		{"tickets that open sessions", vcenter.TicketsOpenSessions, false, true, false},
		{"a vCenter that gives no files", vcenter.TicketsOnce, true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, r := reached(t, func(c *vcenter.Config) { c.Datastores = []vcenter.Datastore{{Name: "datastore1"}} })
			g.SetTickets(c.tickets)
			g.TakeForeign(t, g.id, "before the upgrade")
			g.scribble(t, 5)
			s, _ := g.source(t, g.config())
			r.mu.Lock()
			r.fault = func(call vcenter.Call) error {
				if c.refused && call.Method == "GET /folder" && call.Host == "" {
					return vcenter.HTTPStatus(http.StatusForbidden)
				}
				return nil
			}
			r.mu.Unlock()
			d := g.openDisk(t, s)
			mustRead(t, d, g.bytes, hypervisor.Extent{Length: int64(len(g.bytes))})
			asked := r.take()
			if (asked[esx1] > 0) != c.host || (asked[""] > 0) != c.vcenter || c.refused && asked[""] != 1 {
				t.Errorf("asked were %v", asked)
			}
		})
	}
}
