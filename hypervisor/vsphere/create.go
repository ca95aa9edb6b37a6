package vsphere

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/errgroup"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

// nameLimit is how long a snapshot's name may be.
const nameLimit = 80

const description = "Skylift reads this virtual machine's frozen disks from here to migrate it, " +
	"and removes the snapshot by itself when that is done. Please do not remove or revert to it meanwhile."

// runForm keeps run IDs to what snapshot names and logs show unchanged.
var runForm = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// Snapshot prepares all servers first (what must be gone is gone then) and
// starts their snapshots together, so that the moments lie close.
func (s *Source) Snapshot(ctx context.Context, run hypervisor.RunID, servers []hypervisor.ServerID, q hypervisor.Quiesce) (refs []hypervisor.SnapshotRef, err error) {
	defer func() { err = unreached(err) }()
	if name := s.snapshotName(run); !runForm.MatchString(string(run)) || len(name) > nameLimit {
		return nil, fmt.Errorf("run ID %q does not make a snapshot's name of at most %d characters", run, nameLimit)
	}
	prepared := make([]*creation, len(servers))
	if err := together(ctx, servers, func(ctx context.Context, i int, id hypervisor.ServerID) (err error) {
		prepared[i], err = s.prepare(ctx, run, id, q)
		return err
	}); err != nil {
		return nil, err
	}
	// From here on each creation is undone unless all succeed.
	defer func() {
		if err != nil {
			err = errors.Join(err, undoAll(ctx, prepared))
		}
	}()
	if err := together(ctx, prepared, func(ctx context.Context, _ int, c *creation) error { return c.create(ctx) }); err != nil {
		return nil, err
	}
	for _, c := range prepared {
		refs = append(refs, c.ref)
	}
	return refs, nil
}

// together runs work for all items at once. The first error ends the others.
func together[T any](ctx context.Context, items []T, work func(context.Context, int, T) error) error {
	all, ctx := errgroup.WithContext(ctx)
	for i, item := range items {
		all.Go(func() error { return work(ctx, i, item) })
	}
	return all.Wait()
}

func undoAll(ctx context.Context, made []*creation) error {
	errs := make([]error, len(made))
	var all sync.WaitGroup
	for i, c := range made {
		all.Go(func() { errs[i] = c.undo(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// creation is the making of one server's snapshot.
type creation struct {
	source  *Source
	v       *vm
	run     hypervisor.RunID
	quiesce hypervisor.Quiesce
	ref     hypervisor.SnapshotRef // set when it is there
	found   bool                   // it was there before
	started bool                   // vSphere was asked to make it
	tasks   []ref                  // vSphere's tasks that may make it
}

// prepare waits until the server can have its snapshot.
func (s *Source) prepare(ctx context.Context, run hypervisor.RunID, id hypervisor.ServerID, q hypervisor.Quiesce) (*creation, error) {
	v, err := s.find(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	c := &creation{source: s, v: v, run: run, quiesce: q}
	if err := c.lookAlsoUnderWay(ctx); err != nil || c.found {
		return c, err
	}
	if err := c.waitUntilFree(ctx); err != nil {
		return nil, err
	}
	full, err := s.fullDatastores(ctx, v.Datastore, float64(s.limits.FreePercent))
	if err != nil {
		return nil, fmt.Errorf("read the datastores' free space: %w", explain(err, "the datastores of "+v.Name))
	}
	if len(full) > 0 {
		return nil, DatastoreFull.New(nil, "take a snapshot of %s: %s", v.Name, strings.Join(full, ", "))
	}
	return c, nil
}

// lookAlsoUnderWay finds the run's snapshot, even one that a process before us
// asked for and vSphere is still making.
func (c *creation) lookAlsoUnderWay(ctx context.Context) error {
	if c.found = c.look(); c.found {
		return nil
	}
	s := c.source
	pending, err := s.creating(ctx, c.v.RecentTask)
	if err != nil || len(pending) == 0 {
		return err
	}
	for _, t := range pending {
		if _, err := s.await(ctx, t, s.limits.Task, "wait for a snapshot of "+c.v.Name+" that is under way"); err != nil && !isFault(err) {
			return err
		}
	}
	if err := s.refresh(ctx, c.v); err != nil {
		return err
	}
	c.found = c.look()
	return nil
}

// look finds the run's snapshot in the tree as last read.
func (c *creation) look() bool {
	for _, n := range nodes(c.v.Snapshot) {
		if n.Name == c.source.snapshotName(c.run) {
			c.ref = reference(c.v.id, c.run, n)
			return true
		}
	}
	return false
}

// waitUntilFree waits until nothing stands in the way of a snapshot that will
// go away by itself, and has the disks consolidated: change IDs of a snapshot
// taken while an older one of ours is there would miss what is merged later.
func (c *creation) waitUntilFree(ctx context.Context) error {
	late, cancel := context.WithTimeoutCause(ctx, c.source.limits.Older, errLate)
	defer cancel()
	for pause := 500 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		kind, what := c.obstacle()
		if kind == nil {
			return c.source.consolidate(ctx, c.v)
		}
		over := hypervisor.Waiting(ctx, what)
		err := sleep(late, pause)
		over()
		if err == nil {
			err = c.source.refresh(late, c.v)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case late.Err() != nil:
			return kind.New(errLate, "take a snapshot of %s: %s, still after %s", c.v.Name, what, c.source.limits.Older)
		default:
			return err
		}
	}
}

// obstacle says what keeps a new snapshot from being taken now.
func (c *creation) obstacle() (*problem.Kind, string) {
	for _, n := range nodes(c.v.Snapshot) {
		if _, ours := c.source.runOf(n.Name); ours {
			return OlderSnapshot, fmt.Sprintf("an earlier snapshot of %s (%q) is not gone yet", c.v.Name, n.Name)
		}
	}
	if slices.Contains(c.v.DisabledMethod, "CreateSnapshot_Task") {
		return MethodDisabled, fmt.Sprintf("another product (a backup, say) has disabled snapshots of %s", c.v.Name)
	}
	return nil, ""
}

// create takes the snapshot in the way that was asked for, or the next best.
func (c *creation) create(ctx context.Context) error {
	if c.found {
		return nil
	}
	quiesce, note, err := c.plan()
	if err != nil {
		return err
	}
	if quiesce {
		err = c.take(ctx, true)
		if err == nil || c.quiesce == hypervisor.QuiesceRequire || ctx.Err() != nil || !worthWithoutQuiesce(err) {
			return c.quiesceProblem(ctx, err)
		}
		note = "the guest did not come to rest: " + reason(err)
	}
	if err := c.take(ctx, false); err != nil {
		if isFault(err) && problem.Of(err) == nil {
			err = SnapshotFailed.New(err, "server %s", c.v.Name)
		}
		return err
	}
	c.ref.Note = note
	return nil
}

// plan decides whether the guest can be asked to rest, and notes why not.
func (c *creation) plan() (quiesce bool, note string, err error) {
	switch {
	case c.quiesce == hypervisor.QuiesceNever || c.quiesce == "":
		return false, "", nil
	case c.quiesce != hypervisor.QuiescePrefer && c.quiesce != hypervisor.QuiesceRequire:
		return false, "", fmt.Errorf("unknown way to quiesce %q", c.quiesce)
	case !c.v.poweredOn():
		return false, "", nil // a server that is off rests
	case c.v.Guest == nil || c.v.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning):
		// vSphere would ignore the wish and say that it was fulfilled.
		if c.quiesce == hypervisor.QuiesceRequire {
			return false, "", QuiesceFailed.New(nil, "take a snapshot of %s: VMware Tools is not running in the guest", c.v.Name)
		}
		return false, "VMware Tools is not running in the guest", nil
	}
	return true, "", nil
}

// errStuck marks a snapshot's task that neither ends nor can be canceled: no
// other can be taken beside it.
var errStuck = errors.New("the guest may still be frozen")

// worthWithoutQuiesce tells failures that a crash-consistent snapshot may not
// meet.
func worthWithoutQuiesce(err error) bool {
	return (isFault(err) || problem.Has(err, TaskLate)) && !errors.Is(err, errStuck) && !isBusy(err) && !isGone(err) && !hasKind(err, PermissionDenied) && !hasKind(err, MethodDisabled) && !hasKind(err, LicenseRestricted)
}

func (c *creation) quiesceProblem(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || !worthWithoutQuiesce(err) {
		return err
	}
	return QuiesceFailed.New(err, "take a quiesced snapshot of %s", c.v.Name)
}

// reason is the innermost text of an error, for a note.
func reason(err error) string {
	if problem.Has(err, TaskLate) {
		return "it took too long"
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return strings.TrimSpace(err.Error())
		}
		err = inner
	}
}

// patience is how long the guest may take to come to rest. Where there is
// nothing to fall back on, it gets more.
func (c *creation) patience() time.Duration {
	if c.quiesce == hypervisor.QuiesceRequire {
		return 5 * c.source.limits.Quiesce
	}
	return c.source.limits.Quiesce
}

// take makes one snapshot and finds it by its name.
func (c *creation) take(ctx context.Context, quiesce bool) error {
	s := c.source
	wasOff := !c.v.poweredOn()
	if err := c.start(ctx, quiesce); err != nil || c.found {
		return err
	}
	t := c.tasks[len(c.tasks)-1]
	what := "take a snapshot of " + c.v.Name
	var err error
	if quiesce {
		over := hypervisor.Waiting(ctx, fmt.Sprintf("the guest of %s has not come to rest for its snapshot yet", c.v.Name))
		_, err = s.await(ctx, t, c.patience(), what)
		over()
	} else {
		_, err = s.await(ctx, t, s.limits.Task, what)
	}
	if quiesce && problem.Has(err, TaskLate) {
		// Not before the task has ended, one way or the other, is it sure that
		// the guest was let go, and can a second one start. If the guest came
		// to rest after all, good.
		s.cancelTask(ctx, t)
		if _, err2 := s.await(ctx, t, s.limits.Task, what); err2 == nil {
			err = nil
		} else if problem.Has(err2, TaskLate) {
			return TaskLate.New(errStuck, "%s: it was canceled after %s, and goes on", what, c.patience())
		} else if ctx.Err() != nil {
			return err2
		}
	}
	if err != nil {
		return err
	}
	if err := s.refresh(ctx, c.v); err != nil {
		return err
	}
	if !c.look() {
		return hypervisor.SnapshotGone.New(nil, "snapshot %q of %s vanished as soon as it was made", s.snapshotName(c.run), c.v.Name)
	}
	if wasOff && !c.v.poweredOn() {
		c.ref.Consistency = hypervisor.PoweredOff
	}
	return nil
}

// start asks vSphere for the snapshot. A machine that is busy with another
// task is asked again: that task may even be an earlier attempt at this one.
func (c *creation) start(ctx context.Context, quiesce bool) error {
	s := c.source
	for budget := newBudget(8, 2*time.Minute); ; {
		c.started = true
		res, err := methods.CreateSnapshot_Task(ctx, s.session, &types.CreateSnapshot_Task{
			This: c.v.Self, Name: s.snapshotName(c.run), Description: description, Memory: false, Quiesce: quiesce,
		})
		if err == nil {
			c.tasks = append(c.tasks, res.Returnval)
			return nil
		}
		if !isBusy(err) {
			return fmt.Errorf("take a snapshot of %s: %w", c.v.Name, explain(err, c.v.Name))
		}
		if !budget.spend(ctx) {
			return fmt.Errorf("take a snapshot of %s: %w", c.v.Name, err)
		}
		if err := s.refresh(ctx, c.v); err != nil {
			return err
		}
		if c.found = c.look(); c.found {
			return nil
		}
	}
}

// undo removes what the creation made, whether or not its own answer said so.
// It outlives ctx by a bounded time; what it cannot remove Held will find.
func (c *creation) undo(ctx context.Context) error {
	if c == nil || c.found || !c.started {
		return nil
	}
	s := c.source
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.limits.Undo, errLate)
	defer cancel()
	err := func() error {
		if err := s.refresh(ctx, c.v); err != nil {
			return err
		}
		pending, err := s.creating(ctx, append(c.v.RecentTask, c.tasks...))
		if err != nil {
			return err
		}
		for _, t := range pending {
			s.cancelTask(ctx, t)
			if _, err := s.await(ctx, t, s.limits.Undo, "wait for the snapshot's creation to end"); err != nil && !isFault(err) {
				return err
			}
		}
		if err := s.refresh(ctx, c.v); err != nil {
			return err
		}
		return s.removeFrom(ctx, c.v, func(n node) bool { return n.Name == s.snapshotName(c.run) })
	}()
	if isGone(err) || err == nil {
		return nil
	}
	return fmt.Errorf("remove the unfinished snapshot %q of %s: %w", s.snapshotName(c.run), c.v.Name, err)
}

// creating picks the tasks that are still making a snapshot.
func (s *Source) creating(ctx context.Context, tasks []ref) (pending []ref, err error) {
	for _, t := range tasks {
		var found []mo.Task
		err := s.session.retrieve(ctx, []ref{t}, []string{"info"}, &found)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			running := f.Info.State == types.TaskInfoStateRunning || f.Info.State == types.TaskInfoStateQueued
			if running && strings.Contains(strings.ToLower(f.Info.DescriptionId), "createsnapshot") {
				pending = append(pending, t)
			}
		}
	}
	return slices.Compact(pending), nil
}
