package try

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/internal/simulator/vcenter"
	"skylift/staging"
)

// What is replicated while daemons are killed: three disks of two servers.
const (
	killDisks    = 3
	killDiskSize = 96 << 20
	killPieces   = 75 // of 1 MiB each
	killParallel = 2
)

// inFlight is the most that one kill can cost: every disk has killParallel
// slices read and not yet stored.
const inFlight = killDisks * killParallel * staging.SegmentBlocks * staging.BlockSize

// sampled is what an incremental attempt reads of the disks to see whether
// tracking lies: 64 blocks each. An attempt that dies before its plan is
// stored has read them in vain.
const sampled = killDisks * 64 * staging.BlockSize

func killServers(seed uint64) (servers []vcenter.ServerSpec, allocated int64) {
	disk := func(n uint64) vcenter.DiskSpec {
		return vcenter.DiskSpec{Content: vcenter.Over(newScattered(killDiskSize, killPieces, 1<<20, seed*10+n))}
	}
	return []vcenter.ServerSpec{
		{Name: "one", ChangeTracking: true, Disks: []vcenter.DiskSpec{disk(1)}},
		{Name: "two", ChangeTracking: true, Disks: []vcenter.DiskSpec{disk(2), disk(3)}},
	}, killDisks * killPieces << 20
}

// moment is a step of a run at which the trap shuts.
type moment struct {
	step string
	is   func(c vcenter.Call, served float64) bool // served: share of the bytes that a full run takes
}

func during(method string, task bool) func(vcenter.Call, float64) bool {
	return func(c vcenter.Call, _ float64) bool { return c.Method == method && c.Task == task }
}

// uploading is a read of a disk's file when that share of the bytes has gone.
func uploading(share float64) moment {
	return moment{fmt.Sprintf("uploading (%2.0f%%)", share*100), func(c vcenter.Call, served float64) bool {
		return c.Method == "GET /folder" && served >= share
	}}
}

// blow is one kill: whom, and when.
type blow struct {
	moment
	daemons
}

// round kills daemons during every server's n-th run, at each of the listed
// moments that comes, and holds the outcome to what was promised.
func (w *world) round(n int, expected int64, list []blow) {
	w.Helper()
	before := w.source.sim.Served()
	kills := 0
	for len(list) > 0 {
		come := -1
		held := w.trap.arm(func(c vcenter.Call) bool {
			served := float64(w.source.sim.Served()-before) / float64(expected)
			for i, b := range list {
				if b.is(c, served) {
					come = i
				}
			}
			return come >= 0
		})
		if !w.reached(held, n) {
			w.trap.release()
			for _, b := range list {
				w.note("run %d: never came: %s", n, b.step)
			}
			break
		}
		b := list[come]
		list = slices.Delete(list, come, come+1)
		w.strike(b.daemons)
		kills++
		w.note("run %d: killed %-13s %s", n, b.daemons, b.step)
		// Guests go on writing: what arrives must be of the snapshot.
		w.must(w.source.write(uint64(n*100 + kills)))
	}
	runs := w.endOf(n)
	w.note("run %d ended", n)
	var planned int64
	for i, run := range runs {
		if run.State != "COMPLETED" {
			w.Errorf("run %d of %s is %s: %q", n, w.tour.servers[i].name, run.State, run.StatusMessage)
			continue
		}
		for _, d := range run.Disks {
			planned += d.PlannedBytes
		}
		w.checkImage(w.tour.servers[i], n, run)
	}
	w.note("run %d compared", n)
	w.noSnapshotLeft()

	served := w.source.sim.Served() - before
	bound := planned/100 + int64(kills)*inFlight + killDisks*(1<<20) // and descriptors
	if n > 0 {
		bound += int64(kills+1) * sampled
	}
	w.note("run %d: %d kills, %d MiB planned, %d MiB served, %d MiB again (at most %d)", n, kills, planned>>20, served>>20, (served-planned)>>20, bound>>20)
	if served-planned > bound {
		w.Errorf("run %d: the vCenter served %d bytes for a plan of %d: %d again, where %d kills allow %d", n, served, planned, served-planned, kills, bound)
	}
}

// reached waits until the trap holds a call; false when the runs ended first.
func (w *world) reached(held <-chan struct{}, n int) bool {
	w.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		select {
		case <-held:
			return true
		case <-tick.C:
			if !slices.ContainsFunc(w.runs(n), func(r sms.ReplicationRun) bool { return !ended(r) }) {
				return false
			}
		}
	}
	w.Fatalf("run %d neither ended nor came to where it was to be killed", n)
	return false
}

// endOf waits until every server's n-th run has ended.
func (w *world) endOf(n int) (runs []sms.ReplicationRun) {
	w.Helper()
	w.eventually("the runs to end", 3*time.Minute, func() error {
		runs = w.runs(n)
		for i, run := range runs {
			if !ended(run) {
				return fmt.Errorf("%s: %s, %s %s: %s", w.tour.servers[i].name, run.State, run.StageDetails.Stage, run.StageDetails.StageProgress, run.StatusMessage)
			}
		}
		return nil
	})
	return runs
}

func (w *world) checkImage(s *serverTry, n int, run sms.ReplicationRun) {
	w.Helper()
	held, before := w.source.witnesses(run.ReplicationRunID, s)
	if held == nil {
		w.Errorf("run %d of %s: its snapshot was never seen", n, s.name)
		return
	}
	problem, _, err := compareDisks(run, held, before)
	w.must(err)
	if problem != "" {
		w.Errorf("run %d of %s: %s", n, s.name, problem)
	}
	for _, d := range run.Disks {
		if want := map[bool]string{true: "full", false: "incremental"}[n == 0]; d.Kind != want {
			w.Errorf("run %d of %s: disk %s was %s (%s), not %s", n, s.name, d.Name, d.Kind, d.Reason, want)
		}
	}
	s.runs = append(s.runs, RunResult{Run: run.ReplicationRunID})
}

// replicateUnderFire replicates all servers twice while daemons are killed.
func replicateUnderFire(t *testing.T, seed uint64, first, second []blow) *world {
	t.Helper()
	servers, allocated := killServers(seed)
	w := newWorld(t, servers, func(s *stack) { s.connSettings["parallel"] = killParallel })
	w.must(w.tour.createJobs())
	w.round(0, allocated, first)
	w.must(w.source.write(seed))
	for _, s := range w.tour.servers {
		_, err := w.tour.api.StartOnDemandReplicationRun(w.ctx, s.job, "second run")
		w.must(err)
	}
	w.round(1, allocated, second)
	return w
}

func TestKilledDaemonsFinishEveryRunAndLeaveNothingBehind(t *testing.T) {
	connector, both := daemons{connector: true}, daemons{true, true}
	w := replicateUnderFire(t, 1,
		[]blow{
			{moment{"while the snapshot is taken", during("CreateSnapshot_Task", true)}, connector},
			{uploading(0.85), connector},
			{moment{"while the snapshot is removed", during("RemoveSnapshot_Task", true)}, both},
		},
		[]blow{
			{uploading(0.3), connector},
			{moment{"sealed, and asking for the snapshot's removal", during("RemoveSnapshot_Task", false)}, daemons{controlPlane: true}},
		})
	w.clearsAwayAfterDeletion()
}

// clearsAwayAfterDeletion has a run deleted while its connector is dead: only
// the janitor of the next connector can know of its snapshot.
func (w *world) clearsAwayAfterDeletion() {
	w.Helper()
	held := w.trap.arm(func(c vcenter.Call) bool { return c.Method == "QueryChangedDiskAreas" })
	job := w.tour.servers[0].job
	_, err := w.tour.api.StartOnDemandReplicationRun(w.ctx, job, "third run")
	w.must(err)
	select {
	case <-held:
	case <-time.After(time.Minute):
		w.Fatal("the third run did not begin")
	}
	w.must(w.stack.conn.kill())
	w.trap.release()
	w.must(w.tour.api.DeleteReplicationJob(w.ctx, job))
	w.eventually("the run to be given up", time.Minute, func() error {
		run, _, err := w.tour.nthRun(w.tour.servers[0], 2)
		if err == nil && run.State != "DELETED" {
			err = fmt.Errorf("it is %s", run.State)
		}
		return err
	})
	if len(w.source.sim.OpenSnapshots()) == 0 {
		w.Error("the run left no snapshot: there was nothing to clear away")
	}
	w.must(w.stack.startConnector())
	w.noSnapshotLeft()
}
