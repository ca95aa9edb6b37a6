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

func TestConnectorIsToldApartWhatIsWrong(t *testing.T) {
	p := start(t)
	ctx := t.Context()
	id, client := p.connector(t)
	reportServer(t, client)

	_, err := client.Hello(ctx, connect.NewRequest(&linkv1.HelloRequest{StagingVersions: []uint32{7}}))
	if code, hint := link.Problem(err); code != cplink.VersionRefused.Code || hint == "" || connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an unknown staging version: %v", err)
	}
	_, err = client.ReportInventory(ctx, connect.NewRequest(&linkv1.ReportInventoryRequest{Source: "vc-other"}))
	if code, _ := link.Problem(err); code != catalog.SourceNotAnnounced.Code {
		t.Errorf("a source that was not announced: %v", err)
	}
	_, err = client.Renew(ctx, connect.NewRequest(&linkv1.RenewRequest{Run: "sms-run-none", Epoch: 1}))
	if !link.Stale(err) {
		t.Errorf("a lease that nobody gave: %v", err)
	}
	_, err = client.Finish(ctx, connect.NewRequest(&linkv1.FinishRequest{Run: "sms-run-none", Epoch: 1}))
	if code, _ := link.Problem(err); code != cplink.RequestRefused.Code || link.Stale(err) {
		t.Errorf("no outcome: %v", err)
	}
	unsigned := linkv1connect.NewLinkServiceClient(clientOf(p.url), p.url)
	if _, err := unsigned.Judge(ctx, connect.NewRequest(&linkv1.JudgeRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("an unsigned call: %v", err)
	}
	if stream, err := unsigned.Commands(ctx, connect.NewRequest(&linkv1.CommandsRequest{})); err == nil {
		if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnauthenticated {
			t.Errorf("an unsigned stream: %v", stream.Err())
		}
	}
	if err := p.catalog.Disassociate(ctx, id); err != nil {
		t.Fatal(err)
	}
	_, err = client.Judge(ctx, connect.NewRequest(&linkv1.JudgeRequest{}))
	if code, _ := link.Problem(err); code != access.ConnectorRevoked.Code || connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a disassociated connector: %v", err)
	}
}

func TestReleasedRunIsHandedOutAgainWithItsSnapshot(t *testing.T) {
	p := start(t)
	ctx := t.Context()
	_, client := p.connector(t)
	reportServer(t, client)
	if _, err := p.runs.Create(ctx, replication.NewJob{Server: catalog.ServerID("vc-1", "uuid-1"), RunOnce: true}); err != nil {
		t.Fatal(err)
	}
	poll := func() *linkv1.Replicate {
		t.Helper()
		for range 10 {
			r, err := client.Poll(ctx, connect.NewRequest(&linkv1.PollRequest{Slots: 1, WaitMs: 10_000}))
			if err != nil {
				t.Fatal(err)
			}
			if command := r.Msg.Command.GetReplicate(); command != nil {
				return command
			}
		}
		t.Fatal("no run was handed out")
		return nil
	}
	first := poll()
	run, epoch := first.Lease.Run, first.Lease.Epoch
	snap := &linkv1.SnapshotRef{Server: "uuid-1", Run: run, Id: "snap-" + run, Created: 1000, Consistency: "crash"}
	if _, err := client.RecordSnapshot(ctx, connect.NewRequest(&linkv1.RecordSnapshotRequest{Run: run, Epoch: epoch, Snapshot: snap})); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Finish(ctx, connect.NewRequest(&linkv1.FinishRequest{Run: run, Epoch: epoch,
		Outcome: &linkv1.FinishRequest_Failure{Failure: &linkv1.Failure{Release: true}}})); err != nil {
		t.Fatal(err)
	}
	again := poll()
	if again.Lease.Run != run || again.Lease.Epoch != epoch+1 || again.Snapshot.GetId() != snap.Id || again.Snapshot.GetCreated() != 1000 {
		t.Fatalf("again: %v", again)
	}
	if _, err := client.Renew(ctx, connect.NewRequest(&linkv1.RenewRequest{Run: run, Epoch: epoch})); !link.Stale(err) {
		t.Errorf("the released lease: %v", err)
	}
	judged, err := client.Judge(ctx, connect.NewRequest(&linkv1.JudgeRequest{Source: "vc-1",
		Snapshots: []*linkv1.SnapshotRef{snap, {Run: run, Id: "other"}}, Anchors: []*linkv1.Anchor{{Run: "sms-run-none", Id: "a"}}}))
	if err != nil || len(judged.Msg.DeadSnapshots) != 1 || judged.Msg.DeadSnapshots[0].Id != "other" || len(judged.Msg.DeadAnchors) != 1 {
		t.Errorf("judged %v, error %v", judged, err)
	}
	p.pass(t, client, again, "one")
}

func TestImportAsksConnectorsForTheirServersOnce(t *testing.T) {
	p := start(t)
	ctx := t.Context()
	_, client := p.connector(t)
	if err := p.catalog.Import(ctx); err != nil {
		t.Fatal(err)
	}
	poll := func(ms uint32) *linkv1.Command {
		t.Helper()
		r, err := client.Poll(ctx, connect.NewRequest(&linkv1.PollRequest{Slots: 1, WaitMs: ms}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.Command
	}
	if c := poll(1000); c.GetRefreshInventory() == nil {
		t.Fatalf("command %v", c)
	}
	if c := poll(0); c != nil {
		t.Errorf("asked again: %v", c)
	}
	if s, _, err := p.catalog.Status(ctx); s != catalog.Importing || err != nil {
		t.Errorf("status %s, error %v", s, err)
	}
	reportServer(t, client)
	if s, _, err := p.catalog.Status(ctx); s != catalog.Available || err != nil {
		t.Errorf("status %s, error %v", s, err)
	}
}

func TestAQuestionIsDeliveredAndItsAnswerKept(t *testing.T) {
	p := start(t)
	ctx := t.Context()
	connector, client := p.connector(t)
	reportServer(t, client)
	server := catalog.ServerID("vc-1", "uuid-1")
	if err := p.catalog.CheckServer(ctx, server); err != nil {
		t.Fatal(err)
	}
	r, err := client.Poll(ctx, connect.NewRequest(&linkv1.PollRequest{Slots: 1, WaitMs: 10_000}))
	if err != nil {
		t.Fatal(err)
	}
	ask := r.Msg.Command.GetAsk()
	if ask.GetWhat() != "check" || ask.GetSource() != "vc-1" || ask.GetServer() != "uuid-1" || ask.GetTtlMs() < 60_000 || ask.GetTtlMs() > 3600_000 {
		t.Fatalf("the command is %v", r.Msg.Command)
	}
	answer := func(a *linkv1.AnswerRequest) error {
		_, err := client.Answer(ctx, connect.NewRequest(a))
		return err
	}
	if err := answer(&linkv1.AnswerRequest{}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an answer to nothing: %v", err)
	}
	if err := answer(&linkv1.AnswerRequest{Ask: ask.Id, Report: &linkv1.Report{
		Facts:    []*linkv1.Fact{{Subject: "s", Name: "n", Value: "v"}},
		Findings: []*linkv1.Finding{{Code: "c", Blocks: true, Subject: "s", What: "w", Hint: "h"}},
	}}); err != nil {
		t.Fatal(err)
	}
	st, err := p.catalog.ServerStanding(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Report; st.Check.State != catalog.AskDone || got.Connector != connector || len(got.Facts) != 1 || len(got.Findings) != 1 ||
		got.Facts[0] != (catalog.Fact{Subject: "s", Name: "n", Value: "v"}) ||
		got.Findings[0] != (catalog.Finding{Code: "c", Blocks: true, Subject: "s", What: "w", Hint: "h"}) {
		t.Errorf("the standing is %+v", st)
	}
	if err := p.catalog.EnableTracking(ctx, server); err != nil {
		t.Fatal(err)
	}
	if r, err = client.Poll(ctx, connect.NewRequest(&linkv1.PollRequest{Slots: 1, WaitMs: 10_000})); err != nil {
		t.Fatal(err)
	}
	if err := answer(&linkv1.AnswerRequest{Ask: r.Msg.Command.GetAsk().GetId(), Failure: &linkv1.Failure{Code: "c", Message: "m", Hint: "h"}}); err != nil {
		t.Fatal(err)
	}
	if st, err = p.catalog.ServerStanding(ctx, server); err != nil || st.Tracking.State != catalog.AskFailed ||
		st.Tracking.Failure != (catalog.Failure{Code: "c", Message: "m", Hint: "h"}) {
		t.Errorf("the standing is %+v, %v", st, err)
	}
}

// TestWhatMayStandInTheWayOfAJobIsLookedAt creates a job and lets its run fail.
func TestWhatMayStandInTheWayOfAJobIsLookedAt(t *testing.T) {
	p := start(t)
	ctx := t.Context()
	_, client := p.connector(t)
	reportServer(t, client)
	server := catalog.ServerID("vc-1", "uuid-1")
	if _, err := p.runs.Create(ctx, replication.NewJob{Server: server, RunOnce: true}); err != nil {
		t.Fatal(err)
	}
	stream, err := client.Commands(ctx, connect.NewRequest(&linkv1.CommandsRequest{Slots: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	checks := 0
	for failed := false; checks < 2; {
		if !stream.Receive() {
			t.Fatalf("after %d checks: %v", checks, stream.Err())
		}
		switch c := stream.Msg(); {
		case c.GetAsk() != nil:
			checks++
			if _, err := client.Answer(ctx, connect.NewRequest(&linkv1.AnswerRequest{Ask: c.GetAsk().Id, Report: &linkv1.Report{}})); err != nil {
				t.Fatal(err)
			}
		case c.GetReplicate() != nil && !failed:
			failed = true
			l := c.GetReplicate().Lease
			if _, err := client.Finish(ctx, connect.NewRequest(&linkv1.FinishRequest{Run: l.Run, Epoch: l.Epoch,
				Outcome: &linkv1.FinishRequest_Failure{Failure: &linkv1.Failure{Message: "no"}}})); err != nil {
				t.Fatal(err)
			}
		}
	}
}
