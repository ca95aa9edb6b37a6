package catalog_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/internal/problem"
)

// bench is the catalog on a real database whose clock the test turns.
type bench struct {
	t   *testing.T
	db  *store.DB
	now time.Time
	*catalog.Service
	woken int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "skylift.db"), store.WithClock(func() time.Time { return b.now }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	b.db, b.Service = db, catalog.NewService(db, func() { b.woken++ })
	return b
}

func (b *bench) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) refused(err error, k *problem.Kind) {
	b.t.Helper()
	if !problem.Has(err, k) {
		b.t.Fatalf("error %v, want %s", err, k.Code)
	}
}

func (b *bench) connector(sources ...string) string {
	b.t.Helper()
	e := access.NewEnrolment(b.db)
	code, _, err := e.Issue(b.t.Context(), time.Hour)
	b.ok(err)
	id, err := e.Enrol(b.t.Context(), code, make([]byte, 32), "appliance", "1")
	b.ok(err)
	a := catalog.Announcement{Version: "1.1", IPAddress: "10.0.0.1", MACAddress: "00:50:56:00:00:01"}
	for _, s := range sources {
		a.Sources = append(a.Sources, catalog.Source{ID: s, Platform: "vsphere", Name: s + ".example"})
	}
	b.ok(b.Announce(b.t.Context(), id, a))
	return id
}

func servers(vms ...string) (list []catalog.Server) {
	for _, vm := range vms {
		list = append(list, catalog.Server{VM: vm, ManagerID: "ref-" + vm, Name: vm, Disks: []catalog.Disk{{ID: "d1", Name: "Hard disk 1", Size: 1}}})
	}
	return list
}

// known returns the names of the servers that the catalog shows.
func (b *bench) known() (names []string) {
	b.t.Helper()
	list, _, err := b.Servers(b.t.Context(), nil, catalog.Page{})
	b.ok(err)
	for _, s := range list {
		name := s.Name
		if s.Gone {
			name += " (gone)"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (b *bench) expect(names ...string) {
	b.t.Helper()
	if got := b.known(); !slices.Equal(got, names) {
		b.t.Errorf("servers %v, want %v", got, names)
	}
}

func (b *bench) status() catalog.Status {
	b.t.Helper()
	s, _, err := b.Status(b.t.Context())
	b.ok(err)
	return s
}

func TestServerIsShownAsItWasReported(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	want := catalog.Server{
		VM: "uuid", ManagerID: "vm-42", Name: "web", Path: "/DC0/vm/web", PoweredOn: true, GuestOS: "Debian", Firmware: "uefi", SecureBoot: true,
		TPM: true, CPUs: 4, MemoryMiB: 8192, Host: "esx-1", Disks: []catalog.Disk{{ID: "d1", Name: "Hard disk 1", Size: 1 << 40, Skip: "shared"}},
		NICs: []catalog.NIC{{Name: "Network adapter 1", MAC: "00:50:56:00:00:02", Network: "VM Network"}},
	}
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Servers: []catalog.Server{want}}))
	got, err := b.Server(ctx, catalog.ServerID("vc-1", "uuid"))
	b.ok(err)
	want.ID, want.Source = got.ID, catalog.Source{ID: "vc-1", Platform: "vsphere", Name: "vc-1.example"}
	if !equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	_, err = b.Server(ctx, "s-none")
	b.refused(err, catalog.ServerNotFound)
}

func equal(a, b catalog.Server) bool {
	same := slices.Equal(a.Disks, b.Disks) && slices.Equal(a.NICs, b.NICs)
	a.Disks, a.NICs, b.Disks, b.NICs = nil, nil, nil, nil
	return same && a.ID == b.ID && a.Source == b.Source && a.VM == b.VM && a.ManagerID == b.ManagerID && a.Name == b.Name &&
		a.Path == b.Path && a.PoweredOn == b.PoweredOn && a.GuestOS == b.GuestOS && a.Firmware == b.Firmware &&
		a.SecureBoot == b.SecureBoot && a.TPM == b.TPM && a.CPUs == b.CPUs && a.MemoryMiB == b.MemoryMiB && a.Host == b.Host &&
		a.Gone == b.Gone && a.JobID == b.JobID && a.JobTerminated == b.JobTerminated
}

func TestFullListingReplacesWhatWasKnownOnlyWhenItEnds(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c, other := b.connector("vc-1", "vc-2"), b.connector("vc-1")
	report := func(connector, source, sync string, last bool, vms ...string) {
		t.Helper()
		b.ok(b.Report(ctx, connector, catalog.Report{Source: source, Sync: sync, Last: last, Servers: servers(vms...)}))
	}
	report(c, "vc-1", "1", false, "a", "b")
	report(c, "vc-1", "1", true, "c")
	report(c, "vc-2", "1", true, "x")
	b.expect("a", "b", "c", "x")
	report(c, "vc-1", "1", true, "c") // its answer was lost, and it came again
	b.expect("a", "b", "c", "x")
	report(c, "vc-1", "2", false, "a")
	b.expect("a", "b", "c", "x") // it may break off
	report(c, "vc-1", "3", false, "b")
	report(c, "vc-1", "3", true)
	b.expect("b", "x") // what listing 2 named does not count
	// Two connectors that list the same source at once don't disturb each other.
	report(c, "vc-1", "4", false, "b", "c")
	report(other, "vc-1", "4", false, "b")
	report(c, "vc-1", "4", true, "d")
	b.expect("b", "c", "d", "x")
	report(other, "vc-1", "4", true, "c", "d")
	b.expect("b", "c", "d", "x")
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Servers: servers("e"), Gone: []string{"b", "never seen"}}))
	b.expect("c", "d", "e", "x")
	b.refused(b.Report(ctx, other, catalog.Report{Source: "vc-2"}), catalog.SourceNotAnnounced)
}

func TestServerOfALiveJobStaysWhenItIsGone(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Servers: servers("a", "b")}))
	runs := replication.NewService(b.db, b.Service, replication.Options{})
	j, err := runs.Create(ctx, replication.NewJob{Server: catalog.ServerID("vc-1", "a"), Frequency: time.Hour})
	b.ok(err)
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Sync: "1", Last: true}))
	b.expect("a (gone)")
	s, err := b.Server(ctx, catalog.ServerID("vc-1", "a"))
	b.ok(err)
	if s.JobID != j.ID || s.JobTerminated {
		t.Errorf("server: %+v", s)
	}
	b.refused(b.Clear(ctx), catalog.CatalogBusy)
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Servers: servers("a")}))
	b.expect("a")
	b.ok(runs.Delete(ctx, j.ID))
	step, ok, err := runs.ClaimStep(ctx, "r")
	if !ok || err != nil {
		t.Fatal(err)
	}
	b.ok(runs.Purged(ctx, step.Lease, step.Purge, nil))
	if s, _ := b.Server(ctx, catalog.ServerID("vc-1", "a")); s.JobID != j.ID || !s.JobTerminated {
		t.Errorf("server: %+v", s)
	}
	b.ok(b.Clear(ctx))
	b.expect()
}

func TestCatalogsStates(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	if b.status() != catalog.NotImported {
		t.Errorf("at first: %s", b.status())
	}
	b.refused(b.Import(ctx), catalog.NoConnectors)
	c := b.connector("vc-1", "vc-2")
	b.woken = 0
	b.ok(b.Import(ctx))
	if b.status() != catalog.Importing || b.woken != 1 {
		t.Errorf("after Import: %s, woken %d times", b.status(), b.woken)
	}
	sync := func(source, name string) {
		t.Helper()
		b.ok(b.Report(ctx, c, catalog.Report{Source: source, Sync: name, Last: true, Servers: servers("on " + source)}))
	}
	sync("vc-1", "1")
	if b.status() != catalog.Importing {
		t.Errorf("with one source of two: %s", b.status())
	}
	b.now = b.now.Add(time.Second)
	sync("vc-2", "1")
	if s, modified, err := b.Status(ctx); s != catalog.Available || err != nil || !modified.Equal(b.now) {
		t.Errorf("with all sources: %s at %s, error %v", s, modified, err)
	}
	b.now = b.now.Add(time.Second)
	b.ok(b.Clear(ctx))
	if b.status() != catalog.Deleted {
		t.Errorf("after Clear: %s", b.status())
	}
	sync("vc-1", "2")
	b.expect() // dropped until the next import
	if b.status() != catalog.Deleted {
		t.Errorf("after a report: %s", b.status())
	}
	b.ok(b.Import(ctx))
	sync("vc-1", "3")
	b.expect("on vc-1")
	b.now = b.now.Add(6 * time.Minute) // the connector went away meanwhile
	if b.status() != catalog.Available {
		t.Errorf("long after Import: %s", b.status())
	}
}

func TestRefreshIsWantedOncePerImportAndConnector(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	one, two := b.connector("vc-1"), b.connector("vc-1")
	wanted := func(connector string, want bool) {
		t.Helper()
		got, err := b.RefreshWanted(ctx, connector)
		if b.ok(err); got != want {
			t.Errorf("wanted of %s: %t", connector, got)
		}
	}
	wanted(one, false)
	b.ok(b.Import(ctx))
	wanted(one, true)
	wanted(one, false)
	wanted(two, true)
	b.ok(b.RefreshFailed(ctx, two))
	wanted(two, true)
	b.now = b.now.Add(time.Second)
	b.ok(b.Import(ctx))
	wanted(one, true)
}

func TestConnectorIsHealthyWhileItWasHeardOf(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	id := b.connector("vc-1", "vc-2")
	get := func() catalog.Connector {
		t.Helper()
		list, _, err := b.Connectors(ctx, catalog.Page{})
		b.ok(err)
		return list[0]
	}
	c := get()
	if c.ID != id || c.Version != "1.1" || c.IPAddress != "10.0.0.1" || c.MACAddress == "" || len(c.Sources) != 2 || !c.Healthy(b.now) {
		t.Errorf("connector: %+v", c)
	}
	b.now = b.now.Add(catalog.Alive)
	if get().Healthy(b.now) {
		t.Error("a silent connector is healthy")
	}
	b.ok(b.Touch(ctx, id))
	if !get().Healthy(b.now) {
		t.Error("a connector that was heard of is not healthy")
	}
	b.ok(b.Announce(ctx, id, catalog.Announcement{Version: "1.2", Sources: []catalog.Source{{ID: "vc-2", Platform: "vsphere", Name: "renamed"}}}))
	if c := get(); len(c.Sources) != 1 || c.Sources[0].Name != "renamed" {
		t.Errorf("connector: %+v", c)
	}
}

func TestConnectorThatHoldsALeaseCannotBeDisassociated(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	id := b.connector("vc-1")
	b.ok(b.Report(ctx, id, catalog.Report{Source: "vc-1", Servers: servers("a")}))
	runs := replication.NewService(b.db, b.Service, replication.Options{})
	_, err := runs.Create(ctx, replication.NewJob{Server: catalog.ServerID("vc-1", "a"), RunOnce: true})
	b.ok(err)
	b.ok(runs.Schedule(ctx))
	a, ok, err := runs.Claim(ctx, id, 1)
	if !ok || err != nil {
		t.Fatal(err)
	}
	b.refused(b.Disassociate(ctx, id), catalog.ConnectorBusy)
	b.ok(runs.Release(ctx, a.Lease))
	b.ok(b.Disassociate(ctx, id))
	b.refused(b.Disassociate(ctx, id), catalog.ConnectorNotFound)
	if _, ok, err := runs.Claim(ctx, id, 1); ok || err != nil {
		t.Errorf("a disassociated connector claims runs, error %v", err)
	}
}

func TestServersAreFoundByAddressAndInPages(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1", "vc-2")
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Servers: servers("a", "b", "c")}))
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-2", Servers: servers("a")}))
	found, _, err := b.Servers(ctx, []catalog.Address{{Manager: "vc-2", VM: "ref-a"}, {Manager: "vc-1", VM: "ref-c"}, {Manager: "vc-2", VM: "ref-c"}}, catalog.Page{})
	b.ok(err)
	if len(found) != 2 {
		t.Errorf("found %+v", found)
	}
	seen := 0
	after := ""
	for range 3 {
		page, next, err := b.Servers(ctx, nil, catalog.Page{After: after, Limit: 2})
		b.ok(err)
		seen += len(page)
		if after = next; after == "" {
			break
		}
	}
	if seen != 4 || after != "" {
		t.Errorf("%d servers in pages, next %q", seen, after)
	}
}

func TestServersIDSurvivesClearingAndDiffersBetweenSources(t *testing.T) {
	if catalog.ServerID("a", "bc") == catalog.ServerID("ab", "c") {
		t.Error("IDs are mixed up")
	}
	if id := catalog.ServerID("a", "b"); len(id) != 19 || id[:2] != "s-" {
		t.Errorf("ID %q", id)
	}
	if id := catalog.NewID("sms-job-"); len(id) != 25 {
		t.Errorf("ID %q", id)
	}
}
