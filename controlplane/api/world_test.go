package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/secret"
)

// world is a control plane in memory. It is strict: what the API must never
// hand to a service is an error of the test.
type world struct {
	t   testing.TB
	mu  sync.Mutex
	err error // what every call answers with, if it is set

	status     catalog.Status
	changed    time.Time
	connectors []catalog.Connector
	servers    []catalog.Server
	jobs       []replication.Job
	runs       []replication.Run
	busy       bool

	asked   []string // what the readiness services were called for
	created replication.NewJob
	change  replication.JobChange
	regions []string
}

const (
	operatorKey = "SKYLIFTOPERATOR00001"
	viewerKey   = "SKYLIFTVIEWER0000001"
	adminKey    = "SKYLIFTADMIN00000001"
	nobodyKey   = "SKYLIFTNOBODY0000001"
	testSecret  = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func newWorld(t testing.TB) *world {
	vcenter := catalog.Source{ID: "vc-1", Platform: "vsphere", Name: "vcenter.example"}
	azure := catalog.Source{ID: "sub-1", Platform: "azure", Name: "subscription"}
	w := &world{t: t, status: catalog.Available, changed: start.Add(-time.Hour)}
	for i := range 3 {
		w.connectors = append(w.connectors, catalog.Connector{
			ID: fmt.Sprintf("c-0000000%d", i), Name: fmt.Sprintf("connector-%d", i), Version: "1.0.0", IPAddress: "192.0.2.1",
			MACAddress: "00:50:56:00:00:01", AssociatedOn: start.Add(-24 * time.Hour), LastSeen: start.Add(-time.Hour * time.Duration(i)),
			Sources: []catalog.Source{vcenter, azure},
		})
	}
	for i := range 120 {
		s := catalog.Server{
			ID: fmt.Sprintf("s-%08x", i), Source: vcenter, VM: fmt.Sprintf("uuid-%d", i), ManagerID: fmt.Sprintf("vm-%d", i),
			Name: fmt.Sprintf("web-%d", i), Path: "/dc/vm/web", PoweredOn: i%2 == 0, GuestOS: "Debian", Firmware: "efi",
			Disks: []catalog.Disk{{ID: "disk-a", Name: "Hard disk 1", Size: 1 << 40}, {ID: "disk-b", Name: "Hard disk 2", Size: 5, Skip: "a physical RDM"}},
		}
		if i == 1 {
			s.Source, s.ManagerID = azure, ""
		}
		if i == 2 {
			s.JobID, s.JobTerminated = "sms-job-00000000", true
		}
		w.servers = append(w.servers, s)
	}
	for i := range 2 {
		w.jobs = append(w.jobs, replication.Job{
			ID: fmt.Sprintf("sms-job-0000000%d", i), Server: "s-00000002", Seed: start, Frequency: 12 * time.Hour, NextRun: start.Add(time.Hour),
			LicenseType: "BYOL", RoleName: "sms", Description: "nightly", KeepImages: 3, Encrypted: true, KMSKeyID: "alias/ebs",
			Quiesce: "prefer", KeepStaging: true, SkipDisks: []string{"disk-b"}, State: replication.JobActive, Message: "waiting", LatestImage: "ami-1",
		})
	}
	for i := range 3 {
		w.runs = append(w.runs, replication.Run{
			ID: fmt.Sprintf("sms-run-0000000%d", i), Job: "sms-job-00000000", Trigger: replication.Automatic, State: replication.RunActive,
			Stage: "Uploading", Progress: 45, Message: "disk 1 of 2", Scheduled: start.Add(123 * time.Millisecond), Encrypted: true,
			Consistency: "crash", Note: "the guest did not come to rest", WaitingFor: "a place", Image: "ami-1", Completed: start.Add(time.Hour),
			Disks: []replication.RunDisk{{ID: "disk-a", Name: "Hard disk 1", Kind: "comparing", Reason: "tracking was reset", Transport: "datastore",
				TransportWhy: "the probe passed", Size: 1 << 40, Planned: 1, Read: 2, Changed: 3, Sent: 4, Stored: 5, Resumed: 6, Digest: []byte{0xab, 1}, Image: "snap-1"}},
		})
	}
	return w
}

func (w *world) enter(ctx context.Context) (leave func(), err error) {
	w.mu.Lock()
	c, ok := CallerFrom(ctx)
	if _, limited := ctx.Deadline(); !ok || !limited {
		w.t.Errorf("a service was called without a caller (%v) or without a deadline (%v)", ok, limited)
	}
	w.regions = append(w.regions, c.Region)
	return w.mu.Unlock, w.err
}

func cut[T any](w *world, list []T, p catalog.Page, id func(T) string) ([]T, string) {
	if p.Limit < 1 || p.Limit > 50 {
		w.t.Errorf("a service was asked for %d items", p.Limit)
	}
	i, _ := slices.BinarySearchFunc(list, p.After, func(e T, after string) int {
		if id(e) <= after {
			return -1
		}
		return 1
	})
	list = list[i:]
	if len(list) <= p.Limit {
		return list, ""
	}
	return list[:p.Limit], id(list[p.Limit-1])
}

func (w *world) Lookup(_ context.Context, id string) (access.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	roles := map[string]access.Role{operatorKey: access.Operator, viewerKey: access.Viewer, adminKey: access.Admin, nobodyKey: "accountant"}
	role, ok := roles[id]
	if !ok {
		return access.Key{}, access.KeyNotFound.New(nil, "look up access key %q", id)
	}
	return access.Key{ID: id, Secret: secret.New(testSecret), Role: role}, nil
}

func (w *world) Connectors(ctx context.Context, p catalog.Page) ([]catalog.Connector, string, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return nil, "", err
	}
	list, next := cut(w, w.connectors, p, func(c catalog.Connector) string { return c.ID })
	return list, next, nil
}

func (w *world) Disassociate(ctx context.Context, connector string) error {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(w.connectors, func(c catalog.Connector) bool { return c.ID == connector })
	if i < 0 {
		return catalog.ConnectorNotFound.New(nil, "disassociate %s", connector)
	}
	w.connectors = slices.Delete(w.connectors, i, i+1)
	return nil
}

func (w *world) Import(ctx context.Context) error {
	leave, err := w.enter(ctx)
	defer leave()
	w.status = catalog.Importing
	return err
}

func (w *world) Clear(ctx context.Context) error {
	leave, err := w.enter(ctx)
	defer leave()
	if err == nil && w.busy {
		err = catalog.CatalogBusy.New(nil, "clear the catalog")
	}
	return err
}

func (w *world) Status(ctx context.Context) (catalog.Status, time.Time, error) {
	leave, err := w.enter(ctx)
	defer leave()
	return w.status, w.changed, err
}

func (w *world) Servers(ctx context.Context, filter []catalog.Address, p catalog.Page) ([]catalog.Server, string, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return nil, "", err
	}
	var list []catalog.Server
	for _, s := range w.servers {
		at := catalog.Address{Manager: s.Source.ID, VM: cmp.Or(s.ManagerID, s.VM)}
		if len(filter) == 0 || slices.Contains(filter, at) {
			list = append(list, s)
		}
	}
	list, next := cut(w, list, p, func(s catalog.Server) string { return s.ID })
	return list, next, nil
}

func (w *world) Server(ctx context.Context, id string) (catalog.Server, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return catalog.Server{}, err
	}
	i := slices.IndexFunc(w.servers, func(s catalog.Server) bool { return s.ID == id })
	if i < 0 {
		return catalog.Server{}, catalog.ServerNotFound.New(nil, "find server %q", id)
	}
	return w.servers[i], nil
}

func (w *world) Create(ctx context.Context, n replication.NewJob) (replication.Job, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return replication.Job{}, err
	}
	if (n.Frequency == 0) != n.RunOnce || n.Frequency%time.Minute != 0 || n.Quiesce == "" || n.Seed.IsZero() {
		w.t.Errorf("a service was asked for the job %+v", n)
	}
	w.created = n
	return replication.Job{ID: "sms-job-00000009"}, nil
}

func (w *world) job(id string) (int, error) {
	i := slices.IndexFunc(w.jobs, func(j replication.Job) bool { return j.ID == id })
	if i < 0 {
		return i, replication.JobNotFound.New(nil, "look up job %s", id)
	}
	return i, nil
}

func (w *world) Jobs(ctx context.Context, id string, p catalog.Page) ([]replication.Job, string, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return nil, "", err
	}
	if id != "" {
		i, err := w.job(id)
		if err != nil {
			return nil, "", err
		}
		return w.jobs[i : i+1], "", nil
	}
	list, next := cut(w, w.jobs, p, func(j replication.Job) string { return j.ID })
	return list, next, nil
}

func (w *world) Update(ctx context.Context, id string, c replication.JobChange) error {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return err
	}
	w.change = c
	_, err = w.job(id)
	return err
}

func (w *world) Delete(ctx context.Context, id string) error {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return err
	}
	_, err = w.job(id)
	return err
}

func (w *world) StartOnDemand(ctx context.Context, id, description string) (replication.Run, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return replication.Run{}, err
	}
	if _, err := w.job(id); err != nil {
		return replication.Run{}, err
	}
	return replication.Run{ID: "sms-run-00000009", Description: description}, nil
}

func (w *world) Runs(ctx context.Context, id string, p catalog.Page) (replication.Job, []replication.Run, string, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if err != nil {
		return replication.Job{}, nil, "", err
	}
	i, err := w.job(id)
	if err != nil {
		return replication.Job{}, nil, "", err
	}
	list, next := cut(w, w.runs, p, func(r replication.Run) string { return r.ID })
	return w.jobs[i], list, next, nil
}
