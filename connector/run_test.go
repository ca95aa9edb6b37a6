package connector_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"skylift/connector"
	"skylift/controlplane/replication"
	"skylift/hypervisor"
	"skylift/staging"
)

func TestAServerIsReplicatedInFullAndThenByItsChanges(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	g := v.add("web-01", 20*mib, 3*mib+512)
	p.start(t, v)
	job := p.job(t, g)
	first := p.completed(t, v, job.ID, 1)
	// What is not allocated is so little that the sample covers all of it.
	if d := first.Disks[0]; d.Kind != string(staging.Full) || d.Planned != 10*mib || d.Read != 20*mib || d.Transport != "memory" || d.TransportWhy != "a test" {
		t.Errorf("the first run: %+v", d)
	}
	v.write(g, 0, 5*mib+100, 1000)
	v.write(g, 1, 3*mib, 512)
	p.again(t, job.ID)
	second := p.completed(t, v, job.ID, 2)
	if d := second.Disks[0]; d.Kind != string(staging.Incremental) || d.Changed != staging.BlockSize || d.Sent != staging.BlockSize {
		t.Errorf("the second run: %+v", d)
	}
	p.clean(t, v)
	p.until(t, "only the last run's anchor is left", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.anchors) == 1 && v.anchors[0].Run == hypervisor.RunID(second.ID)
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.removed) != 0 || v.taken != 2 {
		t.Errorf("%d snapshots were taken, and of a settled run %v removed", v.taken, v.removed)
	}
}

// gate holds up calls until it is opened.
type gate struct{ reached, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 1000), make(chan struct{})} }

func (g *gate) pass(ctx context.Context) error {
	g.reached <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) await(t *testing.T) {
	t.Helper()
	select {
	case <-g.reached:
	case <-time.After(patience):
		t.Fatal("the gate was never reached")
	}
}

func isSegment(key string) bool { return strings.Contains(key, "/segment-") }

// secondSegment holds up all segments but the first that comes.
func secondSegment(g *gate) func(context.Context, string) error {
	first := make(chan struct{}, 1)
	first <- struct{}{}
	return func(ctx context.Context, key string) error {
		if !isSegment(key) {
			return nil
		}
		select {
		case <-first:
			return nil
		default:
			return g.pass(ctx)
		}
	}
}

func TestAConnectorThatStopsHandsItsRunToAnother(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{Lease: time.Hour}), newVCenter() // nobody waits for it to end
	g := v.add("db-01", 40*mib)
	a := p.start(t, v)
	held := newGate()
	a.store.hold(secondSegment(held))
	job := p.job(t, g)
	held.await(t)
	a.stop()
	if v.held() != 1 {
		t.Errorf("%d snapshots are left of a run that goes on", v.held())
	}
	p.start(t, v)
	run := p.completed(t, v, job.ID, 1)
	if run.Disks[0].Resumed == 0 {
		t.Error("nothing was resumed from staging")
	}
	p.clean(t, v)
	if v.taken != 1 {
		t.Errorf("%d snapshots were taken", v.taken)
	}
}

func TestAZombieWritesNothingBehindItsDeadlineAndCannotSeal(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{Lease: 2 * time.Second, Expiries: 1000}), newVCenter()
	g := v.add("db-01", 40*mib)
	a := p.start(t, v)
	held, stopped := newGate(), make(chan struct{})
	second := secondSegment(held)
	a.store.hold(func(ctx context.Context, key string) error {
		err := second(ctx, key)
		if err != nil {
			select {
			case <-stopped:
			default:
				close(stopped)
			}
		}
		return err
	})
	seals := make(chan struct{}, 10)
	job := p.job(t, g)
	held.await(t)
	a.wire.spoil(cut)
	select { // its own deadline ends its work, which nobody told it to
	case <-stopped:
	case <-time.After(patience):
		t.Fatal("work went on behind the deadline")
	}
	a.wire.spoil(func(r *http.Request, procedure string) (bool, bool) {
		if procedure == "Seal" || procedure == "Finish" {
			seals <- struct{}{}
		}
		return cut(r, procedure)
	})
	close(held.open)
	written := a.store.written()
	b := p.start(t, v)
	p.completed(t, v, job.ID, 1)
	p.clean(t, v)
	if n := a.store.written(); n != written {
		t.Errorf("the zombie wrote %d more objects", n-written)
	}
	if len(seals) != 0 {
		t.Error("the zombie tried to seal or to finish")
	}
	if b.store.written() == 0 || v.taken != 1 {
		t.Errorf("the other connector wrote nothing, or took a snapshot of its own (%d)", v.taken)
	}
}

func cut(*http.Request, string) (bool, bool) { return true, false }

func TestDeletingTheJobStopsItsRunAndClearsTheSource(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	g := v.add("web-01", 20*mib)
	d := p.start(t, v)
	held := newGate()
	d.store.hold(func(ctx context.Context, key string) error { return held.pass(ctx) })
	job := p.job(t, g)
	held.await(t)
	run := p.run(t, job.ID, 1)
	if err := p.runs.Delete(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	if ended := p.ended(t, job.ID, 1); ended.ID != run.ID || ended.Phase != replication.Deleted {
		t.Errorf("the run is %s: %s", ended.Phase, ended.Message)
	}
	p.clean(t, v)
	if len(p.store.Keys()) != 0 {
		t.Errorf("left in staging: %v", p.store.Keys())
	}
}

func TestARunWhoseSnapshotIsGoneFailsForGood(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{Lease: time.Hour}), newVCenter()
	g := v.add("web-01", 20*mib)
	a := p.start(t, v)
	held := newGate()
	a.store.hold(secondSegment(held))
	job := p.job(t, g)
	held.await(t)
	a.stop()
	v.lose()
	p.start(t, v)
	run := p.ended(t, job.ID, 1)
	if run.Phase != replication.Failed || !strings.Contains(run.Message, hypervisor.SnapshotGone.Code) || v.taken != 1 {
		t.Errorf("run %s with %d snapshots taken: %s", run.Phase, v.taken, run.Message)
	}
	p.again(t, job.ID)
	p.completed(t, v, job.ID, 2)
	p.clean(t, v)
}

func TestASealedRunIsSettledByWhoeverComesNext(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{Lease: time.Hour}), newVCenter()
	g := v.add("web-01", 4*mib)
	a := p.start(t, v)
	held := newGate()
	v.setFault(func(ctx context.Context, op string) error {
		if op == "Settle" {
			return held.pass(ctx)
		}
		return nil
	})
	job := p.job(t, g)
	held.await(t)
	a.stop()
	v.setFault(nil)
	b := p.start(t, v)
	p.completed(t, v, job.ID, 1)
	p.clean(t, v)
	if b.store.written() != 0 || v.taken != 1 {
		t.Errorf("a sealed run was transferred again: %d writes, %d snapshots", b.store.written(), v.taken)
	}
}

func TestManyServersShareSlotsAndDisksAndSayWhatTheyWaitFor(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	v.platform.DiskLimit = 2
	var guests []*guest
	for _, name := range []string{"a", "bb", "ccc", "dddd", "eeeee"} {
		guests = append(guests, v.add(name, 2*mib, 2*mib, 2*mib))
	}
	d := p.start(t, v, func(c *connector.Config) { c.Slots = 3 })
	held := newGate()
	d.store.hold(func(ctx context.Context, key string) error { return held.pass(ctx) })
	var jobs []string
	for _, g := range guests {
		jobs = append(jobs, p.job(t, g).ID)
	}
	want := "waiting: source vcenter-1 has 2 of 2 disks read at once"
	p.until(t, "runs say what they wait for", func() bool {
		waiting, queued := 0, 0
		for _, job := range jobs {
			run := p.run(t, job, 1)
			if run.Message == want {
				waiting++
			}
			if run.Phase == replication.Waiting && strings.Contains(run.Message, "busy with other runs") {
				queued++
			}
		}
		return waiting == 3 && queued == 2 // each of the three has a disk that waits
	})
	close(held.open)
	for _, job := range jobs {
		if run := p.completed(t, v, job, 1); run.Message != "" {
			t.Errorf("a completed run still says: %s", run.Message)
		}
	}
	p.clean(t, v)
	// Two disks at once, of which one may be read by two slices.
	if v.most > 2*2 {
		t.Errorf("%d reads at once", v.most)
	}
}

func TestTheJanitorRemovesTheDeadAndSparesTheLiving(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	g, other := v.add("web-01", 20*mib), v.add("other", mib)
	d := p.start(t, v)
	held := newGate()
	d.store.hold(func(ctx context.Context, key string) error { return held.pass(ctx) })
	job := p.job(t, g)
	held.await(t)
	// A run that nobody knows has a snapshot and an anchor of this installation.
	if _, _, err := v.take("sms-run-0000", other.server.ID); err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	v.anchors = append(v.anchors, hypervisor.Anchor{Server: other.server.ID, Run: "sms-run-0000", ID: "a"})
	v.mu.Unlock()
	p.until(t, "the dead one is removed", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.snapshots) == 1 && len(v.anchors) == 0
	})
	close(held.open)
	p.completed(t, v, job.ID, 1)
	p.clean(t, v)
	if len(v.removed) != 1 || v.removed[0].Run != "sms-run-0000" {
		t.Errorf("removed: %v", v.removed)
	}
}

func TestWithoutAnAnswerOnlyAbandonedSnapshotsAreRemoved(t *testing.T) {
	t.Parallel()
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	v.add("old", mib)
	v.add("young", mib)
	for _, server := range []hypervisor.ServerID{"uuid-old", "uuid-young"} {
		if _, _, err := v.take(hypervisor.RunID("sms-run-"+server), server); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range v.snapshots {
		f.ref.Created = time.Now().Add(-7*24*time.Hour + 30*time.Minute)
		if f.ref.Server == "uuid-young" {
			f.ref.Created = time.Now()
		}
	}
	sweeps := make(chan struct{}, 1000)
	v.setFault(func(_ context.Context, op string) error {
		if op == "Held" {
			sweeps <- struct{}{}
		}
		return nil
	})
	d := p.start(t, v, func(c *connector.Config) {
		wire := c.HTTP.Transport.(*wire)
		wire.spoil(cut)
	})
	set := func(ahead time.Duration) {
		t.Helper()
		d.clock.mu.Lock()
		d.clock.ahead = ahead
		d.clock.mu.Unlock()
		for len(sweeps) > 0 {
			<-sweeps
		}
		for range 3 { // the last but one is over then
			<-sweeps
		}
	}
	set(0)
	set(45 * time.Minute)
	if v.held() != 2 {
		t.Fatal("a snapshot was removed although the control plane is gone for a moment only")
	}
	set(2 * time.Hour)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.removed) != 1 || v.removed[0].Server != "uuid-old" {
		t.Errorf("removed: %v", v.removed)
	}
}
