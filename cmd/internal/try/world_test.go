package try

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/internal/simulator/vcenter"
)

// world is a stack of real processes around a simulated vCenter whose calls
// can be held, so that a test can kill a process at a moment of its choice.
type world struct {
	*testing.T
	ctx    context.Context
	source *source
	stack  *stack
	tour   *tour
	trap   *trap
	began  time.Time
}

// Settings under which a dead daemon is noticed within seconds.
const (
	shortLease = 4 * time.Second
	sweepEvery = 2 * time.Second
)

// newWorld starts everything and has the servers in the catalog.
func newWorld(t *testing.T, servers []vcenter.ServerSpec, change func(*stack)) *world {
	t.Helper()
	w := emptyWorld(t)
	w.open(vcenter.Config{Servers: servers}, change)
	return w
}

func emptyWorld(t *testing.T) *world {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &world{T: t, ctx: ctx, trap: new(trap), began: time.Now()}
}

// open starts everything in a world where nothing is yet.
func (w *world) open(c vcenter.Config, change func(*stack)) {
	w.Helper()
	dir := w.TempDir()
	fault := c.Fault
	c.Fault = func(call vcenter.Call) error {
		w.trap.hold(call)
		if fault == nil {
			return nil
		}
		return fault(call)
	}
	var err error
	if w.source, err = simulate(c, dir); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.must(w.source.close()) })
	options := Options{Executable: program, AsControlPlane: []string{"run-controlplane"}, AsConn: []string{"run-connector"}, Out: io.Discard}
	w.stack = newStack(options, dir)
	w.stack.planeSettings["lease"], w.stack.planeSettings["backoff"] = shortLease.String(), "500ms"
	w.stack.connSettings["sweep-every"] = sweepEvery.String()
	change(w.stack)
	if err := w.stack.start(w.ctx, w.source.vcenter); err != nil {
		w.showLogs()
		w.Fatal(err)
	}
	w.Cleanup(func() {
		w.must(w.stack.stop())
		if w.Failed() {
			w.showLogs()
		}
	})
	// Calls that are held would keep everything from ending.
	w.Cleanup(w.trap.release)
	w.tour = &tour{Options: options, ctx: w.ctx, dir: dir, show: newShow(Options{Out: io.Discard, JSON: true}), source: w.source, api: w.stack.api}
	w.must(w.tour.findServers())
}

// note logs a line with the time since the start.
func (w *world) note(format string, args ...any) {
	w.Helper()
	w.Logf("%5.1f s: %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// showLogs prints the end of the daemons' logs.
func (w *world) showLogs() {
	for _, name := range []string{"controlplane", "connector"} {
		p, err := os.ReadFile(filepath.Join(w.stack.logs, name+".log"))
		var lines []string
		for line := range strings.Lines(string(p)) {
			if !strings.Contains(line, "API request") {
				lines = append(lines, line)
			}
		}
		w.Logf("%s.log (%v):\n%s", name, err, strings.Join(lines[max(0, len(lines)-100):], ""))
	}
}

// kill ends the process as an operating system does that lacks memory.
func (p *process) kill() error {
	err := p.signal(os.Kill)
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("the %s had ended before it was killed: %w", p.name, p.err)
	}
	return err
}

// daemons says which of them a strike kills.
type daemons struct{ connector, controlPlane bool }

func (d daemons) String() string {
	switch {
	case d.connector && d.controlPlane:
		return "both"
	case d.controlPlane:
		return "control plane"
	}
	return "connector"
}

// strike kills the daemons and starts them again.
func (w *world) strike(d daemons) {
	w.Helper()
	w.must(w.slay(d))
	w.tour.api = w.stack.api
}

// slay does that, also beside the test.
func (w *world) slay(d daemons) error {
	var errs []error
	if d.connector {
		errs = append(errs, w.stack.conn.kill())
	}
	if d.controlPlane {
		errs = append(errs, w.stack.plane.kill())
	}
	// What the dead had asked for is done after their death, as by a vCenter.
	w.trap.release()
	if d.controlPlane {
		errs = append(errs, w.stack.startControlPlane(w.ctx))
	}
	if d.connector {
		errs = append(errs, w.stack.startConnector())
	}
	return errors.Join(errs...)
}

// runs returns every server's n-th run. A control plane that is just being
// started may fail a call or two.
func (w *world) runs(n int) []sms.ReplicationRun {
	w.Helper()
	var runs []sms.ReplicationRun
	w.eventually("every server to have its run", time.Minute, func() error {
		runs = nil
		for _, s := range w.tour.servers {
			run, ok, err := w.tour.nthRun(s, n)
			if err == nil && !ok {
				err = fmt.Errorf("%s has no run %d", s.name, n)
			}
			if err != nil {
				return err
			}
			runs = append(runs, run)
		}
		return nil
	})
	return runs
}

func ended(run sms.ReplicationRun) bool {
	return slices.Contains([]string{"COMPLETED", "FAILED", "MISSED", "DELETED"}, run.State)
}

// eventually asks again until there is no error, and fails the test at the limit.
func (w *world) eventually(what string, limit time.Duration, ask func() error) {
	w.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("waited %s for %s: %v", limit, what, err)
		}
		<-tick.C
	}
}

// noSnapshotLeft waits until the janitor has cleared away what was left.
func (w *world) noSnapshotLeft() {
	w.Helper()
	w.eventually("the vCenter to be free of snapshots", 30*time.Second, func() error {
		if open := w.source.sim.OpenSnapshots(); len(open) > 0 {
			return fmt.Errorf("%d are left: %q", len(open), open)
		}
		return nil
	})
	if refused := w.source.sim.Refused(); len(refused) > 0 {
		w.Errorf("the vCenter refused calls: %q", refused)
	}
}

// trap holds the first call that it is set for.
type trap struct {
	mu   sync.Mutex
	set  func(vcenter.Call) bool // nil: no call
	held chan struct{}           // closed when a call is held
	open chan struct{}           // closed when it may go on
}

// arm sets the trap and returns what tells that a call is held.
func (t *trap) arm(set func(vcenter.Call) bool) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set, t.held, t.open = set, make(chan struct{}), make(chan struct{})
	return t.held
}

// release lets the call go on, and holds no other.
func (t *trap) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set = nil
	if t.open != nil {
		close(t.open)
		t.open = nil
	}
}

// hold is asked about every call, and waits where one is to be held.
func (t *trap) hold(c vcenter.Call) {
	t.mu.Lock()
	open := t.open
	hit := t.set != nil && t.set(c)
	if hit {
		t.set = nil
		close(t.held)
	}
	t.mu.Unlock()
	if hit {
		// Not until the client is gone: its request has arrived.
		<-open
	}
}
