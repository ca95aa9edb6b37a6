package link_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/sirupsen/logrus"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	cplink "skylift/controlplane/link"
	"skylift/controlplane/reconcile"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/link"
	"skylift/link/linkv1"
	"skylift/link/linkv1/linkv1connect"
)

// plane is a whole control plane on a database in a directory of the test.
type plane struct {
	db           *store.DB
	installation string
	enrolment    *access.Enrolment
	catalog      *catalog.Service
	runs         *replication.Service
	service      *cplink.Service
	loop         *reconcile.Loop
	works        *works
	url          string
	changed      chan struct{} // a token whenever something changed
}

func start(t *testing.T) *plane {
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
	p := &plane{db: db, works: &works{}, changed: make(chan struct{}, 1)}
	wake := func() {
		p.service.Wake()
		p.loop.Wake()
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	if p.installation, err = access.Installation(ctx, db); err != nil {
		t.Fatal(err)
	}
	p.enrolment = access.NewEnrolment(db)
	p.catalog = catalog.NewService(db, wake)
	p.runs = replication.NewService(db, p.catalog, replication.Options{Wake: wake})
	p.loop = reconcile.New(p.runs, reconcile.Options{Owner: "r-1", Builder: p.works, Purger: p.works, Retirer: p.works, Log: log})
	p.service = cplink.New(p.catalog, p.runs, p.enrolment, cplink.Options{
		Installation: p.installation, Staging: cplink.Staging{Bucket: "staging"}, Log: log,
	})
	server := httptest.NewUnstartedServer(p.service.Handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(p.service.Close)
	p.url = server.URL
	httpClients.Store(p.url, server.Client())

	running, stop := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { p.loop.Run(running) })
	t.Cleanup(func() { stop(); loop.Wait() })
	return p
}

var httpClients sync.Map

func clientOf(url string) connect.HTTPClient {
	c, _ := httpClients.Load(url)
	return c.(connect.HTTPClient)
}

// connector enrols a connector, which reaches source vc-1, and returns its client.
func (p *plane) connector(t *testing.T) (string, linkv1connect.LinkServiceClient) {
	t.Helper()
	ctx := t.Context()
	code, _, err := p.enrolment.Issue(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	enrolled, err := linkv1connect.NewEnrolmentServiceClient(clientOf(p.url), p.url).Enrol(ctx, connect.NewRequest(&linkv1.EnrolRequest{
		ActivationCode: code.Reveal(), PublicKey: public, Name: "appliance", Version: "1",
	}))
	if err != nil {
		t.Fatal(err)
	}
	signer := link.NewSigner(enrolled.Msg.Connector, enrolled.Msg.Installation, private, time.Now)
	client := linkv1connect.NewLinkServiceClient(clientOf(p.url), p.url, connect.WithInterceptors(signer))
	if _, err := client.Hello(ctx, connect.NewRequest(&linkv1.HelloRequest{
		Version: "1", StagingVersions: []uint32{1}, Sources: []*linkv1.Source{{Id: "vc-1", Platform: "vsphere", Name: "vcenter-1"}},
	})); err != nil {
		t.Fatal(err)
	}
	return enrolled.Msg.Connector, client
}

func reportServer(t *testing.T, client linkv1connect.LinkServiceClient) {
	t.Helper()
	if _, err := client.ReportInventory(t.Context(), connect.NewRequest(&linkv1.ReportInventoryRequest{
		Source: "vc-1", Sync: "1", Last: true,
		Servers: []*linkv1.Server{{Id: "uuid-1", ManagerId: "vm-1", Name: "web-01", Disks: []*linkv1.ServerDisk{{Id: "d1", Name: "Hard disk 1", Size: 1 << 20}}}},
	})); err != nil {
		t.Fatal(err)
	}
}

// works is a builder, purger and retirer that remembers what it was asked.
type works struct {
	mu     sync.Mutex
	builds []replication.BuildRequest
	purges []replication.PurgeRequest
}

func (w *works) Build(_ context.Context, r replication.BuildRequest, progress func(int)) (replication.Built, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.builds = append(w.builds, r)
	progress(50)
	b := replication.Built{Image: "image-" + r.Run}
	for _, d := range r.Disks {
		b.Disks = append(b.Disks, replication.BuiltDisk{Disk: d.Disk, Image: "disk-" + r.Run, Digest: d.Digest})
	}
	return b, nil
}

func (w *works) Purge(_ context.Context, r replication.PurgeRequest) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purges = append(w.purges, r)
	return nil, nil
}

func (w *works) Retire(context.Context, replication.ImageRow) error { return nil }

func hash(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// nextReplicate reads commands until a run is handed out.
func nextReplicate(t *testing.T, stream *connect.ServerStreamForClient[linkv1.Command]) *linkv1.Replicate {
	t.Helper()
	for stream.Receive() {
		if r := stream.Msg().GetReplicate(); r != nil {
			return r
		}
	}
	t.Fatalf("the stream ended: %v", stream.Err())
	return nil
}

// waitFor waits until the run is in the state.
func (p *plane) waitFor(t *testing.T, run string, state replication.RunState) replication.Run {
	t.Helper()
	for {
		r, err := p.runs.Run(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		if r.State == state {
			return r
		}
		select {
		case <-p.changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("run %s is %s (%s): %s", run, r.State, r.Phase, r.Message)
		}
	}
}

// pass does a run as a connector does and returns it when it has completed.
func (p *plane) pass(t *testing.T, client linkv1connect.LinkServiceClient, r *linkv1.Replicate, content string) replication.Run {
	t.Helper()
	ctx := t.Context()
	run, epoch := r.Lease.Run, r.Lease.Epoch
	if _, err := client.RecordSnapshot(ctx, connect.NewRequest(&linkv1.RecordSnapshotRequest{Run: run, Epoch: epoch,
		Snapshot: &linkv1.SnapshotRef{Server: r.Server, Run: run, Id: "snap-" + run, Consistency: "crash"}})); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Renew(ctx, connect.NewRequest(&linkv1.RenewRequest{Run: run, Epoch: epoch, Progress: &linkv1.Progress{
		Stage: "uploading", Disks: []*linkv1.DiskProgress{{Disk: "d1", Size: 1 << 20, Planned: 100, Done: 40, Read: 40}},
	}})); err != nil {
		t.Fatal(err)
	}
	disk := &linkv1.SealedDisk{Disk: "d1", DiskKey: "d1", Name: "Hard disk 1", Size: 1 << 20, ManifestSha256: hash("manifest " + content),
		Digest: hash(content), ChangeId: "c-" + run}
	if len(r.Bases) > 0 {
		disk.BaseRun, disk.BaseDigest = r.Bases[0].Run, r.Bases[0].Digest
	}
	if _, err := client.Seal(ctx, connect.NewRequest(&linkv1.SealRequest{Run: run, Epoch: epoch, Disks: []*linkv1.SealedDisk{disk}})); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Finish(ctx, connect.NewRequest(&linkv1.FinishRequest{Run: run, Epoch: epoch,
		Outcome: &linkv1.FinishRequest_Settled{Settled: &linkv1.Settled{}}})); err != nil {
		t.Fatal(err)
	}
	return p.waitFor(t, run, replication.RunCompleted)
}

func TestServerIsReplicatedTwiceTheSecondTimeFromItsBase(t *testing.T) {
	p := start(t)
	ctx := t.Context()
	_, client := p.connector(t)
	reportServer(t, client)
	servers, _, err := p.catalog.Servers(ctx, []catalog.Address{{Manager: "vc-1", VM: "vm-1"}}, catalog.Page{})
	if err != nil || len(servers) != 1 {
		t.Fatalf("servers %v, error %v", servers, err)
	}
	job, err := p.runs.Create(ctx, replication.NewJob{Server: servers[0].ID, Frequency: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.Commands(ctx, connect.NewRequest(&linkv1.CommandsRequest{Slots: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()

	first := nextReplicate(t, stream)
	if first.Job != job.ID || first.Server != "uuid-1" || first.Staging.Bucket != "staging" || first.Sealed || first.Snapshot != nil || len(first.Bases) != 0 {
		t.Fatalf("first command: %v", first)
	}
	run := p.pass(t, client, first, "one")
	if run.Image != "image-"+run.ID || run.Stage != "Completed" || run.Progress != 100 || !bytes.Equal(run.Disks[0].Digest, hash("one")) {
		t.Errorf("first run: %+v", run)
	}
	if run.Disks[0].Read != 40 {
		t.Errorf("bytes read: %d", run.Disks[0].Read)
	}

	if _, err := p.runs.StartOnDemand(ctx, job.ID, "again"); err != nil {
		t.Fatal(err)
	}
	second := nextReplicate(t, stream)
	if len(second.Bases) != 1 || second.Bases[0].Run != run.ID || !bytes.Equal(second.Bases[0].Digest, hash("one")) {
		t.Fatalf("bases of the second run: %v", second.Bases)
	}
	p.pass(t, client, second, "two")
	if b := p.works.builds[1].Disks[0]; b.BaseImage != "disk-"+run.ID || b.BaseRun != run.ID {
		t.Errorf("second build: %+v", b)
	}
	jobs, _, err := p.runs.Jobs(ctx, job.ID, catalog.Page{})
	if err != nil || jobs[0].LatestImage != "image-"+second.Lease.Run || jobs[0].State != replication.JobActive {
		t.Errorf("job %+v, error %v", jobs, err)
	}
}
