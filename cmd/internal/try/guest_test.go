package try

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/internal/simulator/s3"
	"skylift/internal/simulator/vcenter"
)

// guest is one server of a lab, with its job.
type guest struct {
	labSpec
	id    string // the catalog's
	job   string
	lab   *lab
	vm    *vcenter.VM
	host  *vcenter.Host
	store string

	latest string             // run
	last   sms.ReplicationRun // that completed

	mu      sync.Mutex
	refs    map[string]bool // its own objects in the vCenter
	staged  string          // what its job's keys have in them
	call    func(vcenter.Call) error
	any     func(vcenter.Call) error
	request func(s3.Request) s3.Fault
	undo    []func() error
}

func (g *guest) own(ref string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refs[ref] = true
}

func (g *guest) setJob(job string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.job, g.staged = job, "/"+job+"/"
}

// onCall spoils vCenter calls about this server, on anyCall all of them,
// onRequest what its runs ask of the storage.
func (g *guest) onCall(f func(vcenter.Call) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.call = f
}

func (g *guest) onAnyCall(f func(vcenter.Call) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.any = f
}

func (g *guest) onRequest(f func(s3.Request) s3.Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.request = f
}

// later is done when the run has ended.
func (g *guest) later(f func() error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.undo = append(g.undo, f)
}

// calm ends all that is done to the guest.
func (g *guest) calm() (err error) {
	g.mu.Lock()
	undo := g.undo
	g.call, g.any, g.request, g.undo = nil, nil, nil, nil
	g.mu.Unlock()
	for _, f := range undo {
		err = errors.Join(err, f())
	}
	return err
}

func (g *guest) spoilCall(c vcenter.Call) error {
	g.mu.Lock()
	call, any := g.call, g.any
	g.mu.Unlock()
	if any != nil {
		if err := any(c); err != nil {
			return err
		}
	}
	if call == nil || !g.concerns(c) {
		return nil
	}
	return call(c)
}

// concerns says whether a call is about this server, as far as calls tell.
func (g *guest) concerns(c vcenter.Call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refs[c.Object.Value] || strings.HasPrefix(c.Path, g.name+"/") || strings.HasPrefix(c.Path, g.name+"_") || c.Host == g.host.Name()
}

func (g *guest) spoilRequest(r s3.Request) s3.Fault {
	g.mu.Lock()
	request := g.request
	about := g.staged != "" && strings.Contains(r.Key, g.staged)
	g.mu.Unlock()
	if request == nil || !about {
		return s3.Fault{}
	}
	return request(r)
}

// whileUploading does something once during the run, when the first segment is
// on its way: before the snapshot is seen again.
func (g *guest) whileUploading(do func() error) {
	var once sync.Once
	g.onRequest(func(r s3.Request) s3.Fault {
		if r.Method == "PUT" && objectKind(r.Key) == "segment" {
			once.Do(func() { g.lab.stray(do()) })
		}
		return s3.Fault{}
	})
}

// write has the guest write here and there, on every disk.
func (g *guest) write(rng *rand.Rand) error {
	var key [32]byte
	for i := range key {
		key[i] = byte(rng.Uint32())
	}
	random := rand.NewChaCha8(key)
	for _, d := range g.vm.Disks() {
		for i := range 2 + rng.IntN(6) {
			p := make([]byte, 512*(1+rng.IntN(200)))
			if i%4 != 3 { // else zeros
				_, _ = random.Read(p)
			}
			if _, err := d.WriteAt(p, 512*rng.Int64N((d.Size()-int64(len(p)))/512)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill has the guest write into every block of a disk.
func (g *guest) fill(rng *rand.Rand, d *vcenter.Disk) error {
	p := make([]byte, 4096)
	for off := int64(0); off < d.Size(); off += 512 << 10 {
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		if _, err := d.WriteAt(p, off+4096*rng.Int64N(64)); err != nil {
			return err
		}
	}
	return nil
}

// runLimitLab is within which every run of a lab has to end, whatever happens.
const runLimitLab = 3 * time.Minute

// again starts a run, waits for its end and looks at what came of it.
func (g *guest) again() (sms.ReplicationRun, error) {
	ctx, cancel := context.WithTimeout(g.lab.ctx, runLimitLab)
	defer cancel()
	err := g.ask(ctx, func() (bool, error) {
		// The answer to an earlier question may have been lost.
		run, err := g.newest(ctx)
		if err != nil || run.ReplicationRunID != g.latest {
			return err == nil, err
		}
		_, err = g.lab.tour.api.StartOnDemandReplicationRun(ctx, g.job, "")
		return false, err
	})
	if err != nil {
		return sms.ReplicationRun{}, fmt.Errorf("start a run: %w", err)
	}
	return g.end(ctx)
}

// first waits for the run that comes with the job.
func (g *guest) first() (sms.ReplicationRun, error) {
	ctx, cancel := context.WithTimeout(g.lab.ctx, runLimitLab)
	defer cancel()
	return g.end(ctx)
}

// newest is the job's newest run; none has no ID.
func (g *guest) newest(ctx context.Context) (newest sms.ReplicationRun, err error) {
	for run, err := range g.lab.tour.api.ReplicationRuns(ctx, g.job) {
		if err != nil {
			return newest, err
		}
		if run.ScheduledStartTime.After(newest.ScheduledStartTime.Time) {
			newest = run
		}
	}
	return newest, nil
}

// end waits for the end of the job's newest run, and holds it to what every run
// promises.
func (g *guest) end(ctx context.Context) (run sms.ReplicationRun, err error) {
	err = g.ask(ctx, func() (bool, error) {
		newest, err := g.newest(ctx)
		if err == nil {
			run = newest
		}
		return ended(run), err
	})
	if err != nil {
		return run, fmt.Errorf("wait for the end of run %s, which is %s %s, %q: %w", run.ReplicationRunID, run.State, run.StageDetails.Stage, run.StatusMessage, err)
	}
	g.latest = run.ReplicationRunID
	return run, g.hold(run)
}

// ask repeats a question to a control plane that may be just starting.
func (g *guest) ask(ctx context.Context, question func() (done bool, err error)) error {
	var last error
	for {
		done, err := question()
		if done {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// hold holds a run to what every run promises: an image of what was frozen, or
// a reason and no image touched.
func (g *guest) hold(run sms.ReplicationRun) error {
	switch run.State {
	case "COMPLETED":
		g.last = run
		g.lab.tell("compared")
		return g.compare(run)
	case "FAILED":
		if codeOf(run.StatusMessage) == "" {
			return fmt.Errorf("run %s failed without a reason, a hint and a code: %q", run.ReplicationRunID, run.StatusMessage)
		}
		if g.last.ReplicationRunID == "" {
			return nil
		}
		return g.compare(g.last)
	}
	return fmt.Errorf("run %s is %s: %s", run.ReplicationRunID, run.State, run.StatusMessage)
}

// asMeant sees that the run read the disks in the way that the server is for;
// in a run that meets faults another one may have been taken.
func (g *guest) asMeant(run sms.ReplicationRun) error {
	for _, d := range run.Disks {
		if d.Transport != g.by.told() {
			return fmt.Errorf("disk %s was read by %s, not by %s: %s", d.Name, d.Transport, g.by.told(), d.TransportReason)
		}
	}
	return nil
}

// compare holds a run's image against what was frozen for it.
func (g *guest) compare(run sms.ReplicationRun) error {
	held := g.lab.source.seen.of(run.ReplicationRunID)
	if held == nil {
		return fmt.Errorf("the snapshot of run %s was never seen", run.ReplicationRunID)
	}
	problem, _, err := compareDisks(run, held, nil)
	if problem != "" {
		err = fmt.Errorf("run %s: %s", run.ReplicationRunID, problem)
	}
	return err
}
