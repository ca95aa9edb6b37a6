package replication_test

import (
	"crypto/sha256"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/internal/problem"
)

// bench is the service on a real database whose clock the test turns.
type bench struct {
	t       *testing.T
	db      *store.DB
	catalog *catalog.Service
	*replication.Service
	mu  sync.Mutex
	now time.Time
}

func newBench(t *testing.T, limits replication.Limits) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "skylift.db"), store.WithClock(b.clock))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	b.db, b.catalog = db, catalog.NewService(db, nil)
	b.Service = replication.NewService(db, b.catalog, replication.Options{Limits: limits})
	return b
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// connector enrols a connector that announces the sources.
func (b *bench) connector(sources ...string) string {
	b.t.Helper()
	enrolment := access.NewEnrolment(b.db)
	code, _, err := enrolment.Issue(b.t.Context(), time.Hour)
	b.ok(err)
	id, err := enrolment.Enrol(b.t.Context(), code, make([]byte, 32), "appliance", "1")
	b.ok(err)
	a := catalog.Announcement{Version: "1"}
	for _, s := range sources {
		a.Sources = append(a.Sources, catalog.Source{ID: s, Platform: "vsphere", Name: s + ".example"})
	}
	b.ok(b.catalog.Announce(b.t.Context(), id, a))
	return id
}

// server puts a server with one disk of 100 bytes into the catalog.
func (b *bench) server(connector, source, vm string) string {
	b.t.Helper()
	b.ok(b.catalog.Report(b.t.Context(), connector, catalog.Report{Source: source, Servers: []catalog.Server{
		{VM: vm, Name: vm, ManagerID: vm, Disks: []catalog.Disk{{ID: "d1", Name: "Hard disk 1", Size: 100}}},
	}}))
	return catalog.ServerID(source, vm)
}

// job makes a job that is due at once and starts its run.
func (b *bench) job(n replication.NewJob) replication.Job {
	b.t.Helper()
	if n.Frequency == 0 && !n.RunOnce {
		n.Frequency = time.Hour
	}
	j, err := b.Create(b.t.Context(), n)
	b.ok(err)
	b.ok(b.Schedule(b.t.Context()))
	return j
}

// one makes a connector, a server and its job.
func (b *bench) one(n replication.NewJob) (connector string, j replication.Job) {
	b.t.Helper()
	connector = b.connector("vc-1")
	n.Server = b.server(connector, "vc-1", "web-01")
	return connector, b.job(n)
}

func (b *bench) claim(connector string) replication.Assignment {
	b.t.Helper()
	a, ok, err := b.Claim(b.t.Context(), connector, 1)
	b.ok(err)
	if !ok {
		b.t.Fatal("there is no run to claim")
	}
	return a
}

func (b *bench) step() replication.Step {
	b.t.Helper()
	s, ok, err := b.ClaimStep(b.t.Context(), "r-1")
	b.ok(err)
	if !ok {
		b.t.Fatal("there is no step to claim")
	}
	return s
}

func (b *bench) idle() {
	b.t.Helper()
	if s, ok, err := b.ClaimStep(b.t.Context(), "r-1"); ok || err != nil {
		b.t.Fatalf("step %+v, error %v", s, err)
	}
}

// seal records snapshot and seal with the content of disk d1.
func (b *bench) seal(a replication.Assignment, content string) {
	b.t.Helper()
	b.ok(b.RecordSnapshot(b.t.Context(), a.Lease, replication.Snapshot{Run: a.Run, ID: "snap-" + a.Run, Consistency: "crash"}))
	b.ok(b.Seal(b.t.Context(), a.Lease, sealOf(a, content)))
}

func sealOf(a replication.Assignment, content string) []replication.SealedDisk {
	d := replication.SealedDisk{Disk: "d1", Key: "d1", Name: "Hard disk 1", Size: 100, ManifestSHA256: hash("manifest" + content), Digest: hash(content)}
	for _, base := range a.Bases {
		if base.Disk == "d1" {
			d.BaseRun, d.BaseDigest = base.Run, base.Digest
		}
	}
	return []replication.SealedDisk{d}
}

// transfer does a connector's part of the run that is due.
func (b *bench) transfer(connector, content string) replication.Assignment {
	b.t.Helper()
	a := b.claim(connector)
	b.seal(a, content)
	b.ok(b.Settled(b.t.Context(), a.Lease, nil))
	return a
}

// build does a reconciler's part up to landing.
func (b *bench) build() replication.Step {
	b.t.Helper()
	s := b.step()
	if s.Kind != replication.BuildStep {
		b.t.Fatalf("step %+v", s)
	}
	b.ok(b.Land(b.t.Context(), s.Lease, builtOf(s)))
	return s
}

func builtOf(s replication.Step) replication.Built {
	built := replication.Built{Image: "image-" + s.Run}
	for _, d := range s.Build.Disks {
		built.Disks = append(built.Disks, replication.BuiltDisk{Disk: d.Disk, Image: d.Disk + "-" + s.Run, Digest: d.Digest})
	}
	return built
}

// purge does the purge step that is due.
func (b *bench) purge() replication.Step {
	b.t.Helper()
	s := b.step()
	if s.Kind != replication.PurgeStep {
		b.t.Fatalf("step %+v", s)
	}
	for _, image := range s.Retire {
		b.ok(b.Retired(b.t.Context(), s.Lease, image))
	}
	b.ok(b.Purged(b.t.Context(), s.Lease, s.Purge, nil))
	return s
}

// whole does a whole run and returns its ID.
func (b *bench) whole(connector, content string) string {
	b.t.Helper()
	a := b.transfer(connector, content)
	b.build()
	b.purge()
	return a.Run
}

func (b *bench) run(id string) replication.Run {
	b.t.Helper()
	r, err := b.Run(b.t.Context(), id)
	b.ok(err)
	return r
}

func (b *bench) jobNow(id string) replication.Job {
	b.t.Helper()
	jobs, _, err := b.Jobs(b.t.Context(), id, catalog.Page{})
	b.ok(err)
	return jobs[0]
}

func (b *bench) runs(job string) []replication.Run {
	b.t.Helper()
	_, runs, _, err := b.Runs(b.t.Context(), job, catalog.Page{})
	b.ok(err)
	return runs
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

func hash(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
