package connector_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/connector"
	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	cplink "skylift/controlplane/link"
	"skylift/controlplane/reconcile"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/hypervisor"
	"skylift/staging"
	"skylift/staging/stagingtest"
	"skylift/transfer"
)

// plane is a whole control plane with staging in memory.
type plane struct {
	enrolment *access.Enrolment
	catalog   *catalog.Service
	runs      *replication.Service
	service   *cplink.Service
	server    *httptest.Server
	store     *stagingtest.Memory
	builder   *builder
	log       *logrus.Logger
}

// patience is how long a test waits for what is to happen soon.
const patience = 60 * time.Second

func newPlane(t *testing.T, limits replication.Limits) *plane {
	t.Helper()
	ctx := t.Context()
	log := logrus.New()
	log.SetOutput(t.Output())
	db, err := store.Open(ctx, filepath.Join(t.TempDir(), "skylift.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &plane{store: stagingtest.NewMemory(), log: log}
	p.builder = &builder{store: p.store, images: map[string][]byte{}}
	installation, err := access.Installation(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	limits.Backoff = 1 // nanosecond: what failed is tried again at once
	if limits.Lease == 0 {
		limits.Lease = 10 * time.Second
	}
	var loop *reconcile.Loop
	wake := func() { p.service.Wake(); loop.Wake() }
	p.enrolment = access.NewEnrolment(db)
	p.catalog = catalog.NewService(db, wake)
	p.runs = replication.NewService(db, p.catalog, replication.Options{Limits: limits, Wake: wake})
	loop = reconcile.New(p.runs, reconcile.Options{Owner: "r-1", Builder: p.builder, Purger: p.builder, Retirer: p.builder, Log: log})
	p.service = cplink.New(p.catalog, p.runs, p.enrolment, cplink.Options{Installation: installation, Compression: "off", Log: log})
	p.server = httptest.NewUnstartedServer(p.service.Handler())
	p.server.EnableHTTP2 = true
	p.server.Config.ErrorLog = nil
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	t.Cleanup(p.service.Close)
	running, stop := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { loop.Run(running) })
	t.Cleanup(func() { stop(); working.Wait() })
	return p
}

// until waits until done reports true. It wakes the control plane, which looks
// for leases that have ended by itself only every few seconds.
func (p *plane) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	late := time.After(patience)
	for n := 1; !done(); n++ {
		select {
		case <-time.After(20 * time.Millisecond):
			if n%10 == 0 {
				p.service.Wake()
			}
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// builder makes images of what is sealed, as the format says, and purges.
type builder struct {
	store staging.Store

	mu     sync.Mutex
	images map[string][]byte // by run and disk
}

func (b *builder) Build(ctx context.Context, r replication.BuildRequest, _ func(int)) (replication.Built, error) {
	built := replication.Built{Image: "image-" + r.Run}
	for _, d := range r.Disks {
		b.mu.Lock()
		base := b.images[d.BaseImage]
		b.mu.Unlock()
		image, err := rebuild(ctx, b.store, staging.Place{Job: r.Job, Run: r.Run, Disk: d.Key}, staging.Hash(d.ManifestSHA256), base)
		if err != nil {
			return replication.Built{}, err
		}
		name := r.Run + " " + d.Disk
		b.mu.Lock()
		b.images[name] = image
		b.mu.Unlock()
		built.Disks = append(built.Disks, replication.BuiltDisk{Disk: d.Disk, Image: name, Digest: d.Digest})
	}
	return built, nil
}

func (b *builder) Purge(ctx context.Context, r replication.PurgeRequest) ([]string, error) {
	var keys []string
	for _, dead := range r.Dead {
		if err := b.store.List(ctx, staging.DataPrefix(r.Job, dead.Run), func(o staging.Object) error {
			keys = append(keys, o.Key)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return nil, b.store.Delete(ctx, keys)
}

func (b *builder) Retire(context.Context, replication.ImageRow) error { return nil }

// rebuild makes an image from the base's image and what lies in staging; the
// block map is the authority.
func rebuild(ctx context.Context, store staging.Store, place staging.Place, sum staging.Hash, base []byte) ([]byte, error) {
	m, err := staging.ReadSealed(ctx, store, place, sum)
	if err != nil {
		return nil, err
	}
	padded := make([]byte, staging.Blocks(m.Disk.Size)*staging.BlockSize)
	if m.Base != nil {
		copy(padded, base)
	}
	reader, err := staging.NewSegmentReader()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	for _, r := range m.Segments {
		for n := r.First; n < r.First+r.Count; n++ {
			body, err := store.Get(ctx, place.Segment(n), 0, -1)
			if err != nil {
				return nil, err
			}
			err = reader.Read(body, m.SegmentID(n), func(e staging.Entry, raw []byte) error {
				block := padded[e.Block*staging.BlockSize:][:staging.BlockSize]
				clear(block)
				copy(block, raw)
				return nil
			})
			if err := errors.Join(err, body.Close()); err != nil {
				return nil, err
			}
		}
	}
	var shard staging.Shard
	for n := range staging.Blocks(m.Disk.Size) {
		if n%staging.ShardBlocks == 0 {
			if err := m.ReadShard(ctx, store, n/staging.ShardBlocks, &shard); err != nil {
				return nil, err
			}
		}
		if staging.HashBlock(padded[n*staging.BlockSize:][:staging.BlockSize]) != shard[n%staging.ShardBlocks] {
			return nil, fmt.Errorf("block %d of the rebuilt image is not what the block map says", n)
		}
	}
	return padded[:m.Disk.Size], nil
}

// job makes a job for the guest as soon as the catalog knows it.
func (p *plane) job(t *testing.T, g *guest) replication.Job {
	t.Helper()
	id := catalog.ServerID("vc-1", string(g.server.ID))
	p.until(t, "the catalog has "+g.server.Name, func() bool {
		_, err := p.catalog.Server(t.Context(), id)
		return err == nil
	})
	job, err := p.runs.Create(t.Context(), replication.NewJob{Server: id, Frequency: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// run returns the job's nth run, counted from 1, once there is one.
func (p *plane) run(t *testing.T, job string, n int) (run replication.Run) {
	t.Helper()
	p.until(t, fmt.Sprintf("the job has %d runs", n), func() bool {
		_, runs, _, err := p.runs.Runs(t.Context(), job, catalog.Page{})
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) < n {
			return false
		}
		run = runs[len(runs)-n]
		return true
	})
	return run
}

// ended waits for the end of the job's nth run.
func (p *plane) ended(t *testing.T, job string, n int) (run replication.Run) {
	t.Helper()
	id := p.run(t, job, n).ID
	p.until(t, "the run has ended", func() bool {
		var err error
		if run, err = p.runs.Run(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return !run.Phase.Active()
	})
	return run
}

// completed waits for the job's nth run, which is to complete with the images
// of what its snapshot froze.
func (p *plane) completed(t *testing.T, v *vcenter, job string, n int) replication.Run {
	t.Helper()
	run := p.ended(t, job, n)
	if run.Phase != replication.Completed {
		t.Fatalf("run %d is %s: %s", n, run.Phase, run.Message)
	}
	p.compare(t, v, run)
	return run
}

func (p *plane) compare(t *testing.T, v *vcenter, run replication.Run) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	p.builder.mu.Lock()
	defer p.builder.mu.Unlock()
	if len(run.Disks) == 0 {
		t.Errorf("run %s has no disks", run.ID)
	}
	for _, d := range run.Disks {
		name := run.ID + " " + d.ID
		if image := p.builder.images[name]; len(image) == 0 || !bytes.Equal(image, v.images[name]) {
			t.Errorf("the image of %s differs from what was frozen", name)
		}
	}
}

func (p *plane) again(t *testing.T, job string) {
	t.Helper()
	if _, err := p.runs.StartOnDemand(t.Context(), job, "again"); err != nil {
		t.Fatal(err)
	}
}

// clean waits until no snapshot of ours is on the source.
func (p *plane) clean(t *testing.T, v *vcenter) {
	t.Helper()
	p.until(t, "no snapshot is left on the source", func() bool { return v.held() == 0 })
}

// daemon is a connector at work.
type daemon struct {
	wire  *wire
	store *tap
	clock *clock
	stop  func()
}

// clock is the daemon's, set forward by tests.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// enrol makes a new connector's identity.
func (p *plane) enrol(t *testing.T, client *http.Client) connector.Identity {
	t.Helper()
	code, _, err := p.enrolment.Issue(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := connector.Enrol(t.Context(), connector.Enrolment{
		Dir: t.TempDir(), URL: p.server.URL, HTTP: client, Code: code, Name: "appliance", Version: "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// start runs a connector of the source until the test ends or stop is called,
// which returns when it has handed back its runs.
func (p *plane) start(t *testing.T, v *vcenter, change ...func(*connector.Config)) *daemon {
	t.Helper()
	d := &daemon{wire: &wire{base: p.server.Client().Transport}, store: &tap{Store: p.store}, clock: &clock{}}
	mover, err := transfer.New(transfer.Config{Parallel: 2, Log: p.log})
	if err != nil {
		t.Fatal(err)
	}
	config := connector.Config{
		Identity: p.enrol(t, p.server.Client()), URL: p.server.URL, HTTP: &http.Client{Transport: d.wire}, Version: "1",
		Sources: []connector.Source{{ID: "vc-1", Name: "vcenter-1", Source: v}}, Mover: mover,
		Staging: func(context.Context, connector.StagingPlace, func() (connector.Credentials, bool)) (staging.Store, error) {
			return d.store, nil
		},
		ReportEvery: 100 * time.Millisecond, SweepEvery: 200 * time.Millisecond, Now: d.clock.now, Log: p.log,
	}
	for _, f := range change {
		f(&config)
	}
	c, err := connector.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the connector ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("the connector does not end")
		}
	})
	t.Cleanup(d.stop)
	return d
}

// wire is the way to the control plane. hook may spoil it.
type wire struct {
	base http.RoundTripper

	mu   sync.Mutex
	hook func(r *http.Request, procedure string) (lost, answerLost bool)
}

func (w *wire) spoil(hook func(r *http.Request, procedure string) (lost, answerLost bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = hook
}

var errWire = errors.New("the wire is cut")

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	hook := w.hook
	w.mu.Unlock()
	var lost, answerLost bool
	if hook != nil {
		lost, answerLost = hook(r, path.Base(r.URL.Path))
	}
	if lost {
		_ = r.Body.Close()
		return nil, errWire
	}
	answer, err := w.base.RoundTrip(r)
	if err == nil && answerLost {
		if !strings.HasSuffix(r.URL.Path, "/Commands") {
			_, _ = io.Copy(io.Discard, answer.Body)
		}
		_ = answer.Body.Close()
		return nil, errWire
	}
	return answer, err
}

// tap is the daemon's access to staging. before may hold up or fail a write.
type tap struct {
	staging.Store

	mu     sync.Mutex
	before func(ctx context.Context, key string) error
	writes int
}

func (s *tap) hold(before func(ctx context.Context, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *tap) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *tap) begin(ctx context.Context, key string) error {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx, key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	return nil
}

func (s *tap) Put(ctx context.Context, key string, p []byte) error {
	if err := s.begin(ctx, key); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, p)
}

func (s *tap) Create(ctx context.Context, key string, p []byte) error {
	if err := s.begin(ctx, key); err != nil {
		return err
	}
	return s.Store.Create(ctx, key, p)
}

var _ hypervisor.Source = (*vcenter)(nil)
