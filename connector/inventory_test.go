package connector_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/hypervisor"
	"skylift/internal/problem"
)

// names returns the names of all servers in the catalog.
func (p *plane) names(t *testing.T) map[string]bool {
	t.Helper()
	names, page := map[string]bool{}, catalog.Page{Limit: 1000}
	for {
		servers, next, err := p.catalog.Servers(t.Context(), nil, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range servers {
			names[s.Name] = true
		}
		if page.After = next; next == "" {
			return names
		}
	}
}

// many gives the source n servers with names of their own.
func (v *vcenter) many(n int) {
	for i := range n {
		name := fmt.Sprintf("vm-%04d", i)
		v.guests = append(v.guests, &guest{server: hypervisor.Server{ID: hypervisor.ServerID("uuid-" + name), ManagerID: name, Name: name}})
	}
}

func (v *vcenter) listed() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.listings
}

func TestAThousandServersAreReportedAndFollowed(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	v.many(1000)
	d := p.start(t, v)
	available := func() bool {
		status, _, err := p.catalog.Status(t.Context())
		return err == nil && status == catalog.Available
	}
	p.until(t, "the first listing is in", available)
	if n := len(p.names(t)); n != 1000 {
		t.Fatalf("%d servers are there", n)
	}
	v.add("new", mib)
	v.gone("uuid-vm-0500")
	added, gone := catalog.ServerID("vc-1", "uuid-new"), catalog.ServerID("vc-1", "uuid-vm-0500")
	p.until(t, "changes are followed", func() bool {
		_, err := p.catalog.Server(t.Context(), added)
		_, missing := p.catalog.Server(t.Context(), gone)
		return err == nil && problem.Has(missing, catalog.ServerNotFound)
	})
	if n := v.listed(); n != 1 {
		t.Errorf("the servers were listed %d times", n)
	}

	// A report in the middle of a new listing gets lost: nobody is dropped.
	var reports atomic.Int32
	d.wire.spoil(func(_ *http.Request, procedure string) (bool, bool) {
		return procedure == "ReportInventory" && reports.Add(1) == 3, false
	})
	if err := p.catalog.Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the list was refreshed", available)
	if n := len(p.names(t)); n != 1000 {
		t.Errorf("%d servers are left", n)
	}
	if n := v.listed(); n != 2 {
		t.Errorf("the servers were listed %d times", n)
	}
}

func TestAServerThatIsGoneAfterABrokenWatchIsNoticed(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	v.many(3)
	p.start(t, v)
	p.until(t, "all servers are there", func() bool { return len(p.names(t)) == 3 })
	// The watch breaks at the event that would tell, and again within the next listing.
	v.setFault(func(_ context.Context, op string) error {
		if op == "Watch event" || op == "after Watch" && v.listed() < 3 {
			return errors.New("the session broke")
		}
		return nil
	})
	v.gone("uuid-vm-0001")
	p.until(t, "the listing that ended tells it", func() bool {
		names := p.names(t)
		return len(names) == 2 && !names["vm-0001"]
	})
	if n := v.listed(); n != 3 {
		t.Errorf("the servers were listed %d times", n)
	}
}
