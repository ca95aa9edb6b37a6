package vsphere

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

// Settle removes the snapshot: change tracking asks for nothing to stay.
func (s *Source) Settle(ctx context.Context, ref hypervisor.SnapshotRef) (hypervisor.Anchor, error) {
	return hypervisor.Anchor{}, s.Remove(ctx, ref)
}

// Remove removes the snapshot and returns when it is gone and the server's
// disks are consolidated. A snapshot of that ID under another name is not
// ours and is left alone.
func (s *Source) Remove(ctx context.Context, ref hypervisor.SnapshotRef) (err error) {
	defer func() { err = unreached(err) }()
	// The snapshot knows its machine better than the server's ID does: UUIDs
	// can be changed.
	v, err := s.findOwner(ctx, ref.ID)
	if v == nil && err == nil {
		v, err = s.find(ctx, ref.Server)
		if problem.Has(err, ServerUnknown) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", ref.ID, err)
	}
	if err := s.removeFrom(ctx, v, func(n node) bool {
		return n.Snapshot.Value == ref.ID && n.Name == s.snapshotName(ref.Run)
	}); err != nil {
		return fmt.Errorf("remove snapshot %s of %s: %w", ref.ID, v.Name, err)
	}
	return nil
}

// findOwner finds the machine of a snapshot by the snapshot's reference; nil
// when there is no such snapshot.
func (s *Source) findOwner(ctx context.Context, snapshot string) (*vm, error) {
	o, err := s.snapshotObject(ctx, snapshot)
	if err != nil || o == nil {
		return nil, err
	}
	v, err := s.read(ctx, o.Vm)
	if isGone(err) {
		return nil, nil
	}
	return v, err
}

// snapshotObject reads a snapshot; nil when it does not exist.
func (s *Source) snapshotObject(ctx context.Context, id string) (*mo.VirtualMachineSnapshot, error) {
	var found []mo.VirtualMachineSnapshot
	err := s.session.retrieve(ctx, []ref{{Type: "VirtualMachineSnapshot", Value: id}}, []string{"vm", "config"}, &found)
	switch {
	case isGone(err):
		return nil, nil
	case err != nil:
		return nil, explain(err, "snapshot "+id)
	case len(found) != 1:
		return nil, nil
	}
	return &found[0], nil
}

// removeFrom removes the machine's snapshots that are meant and consolidates.
// It goes on until the tree shows that they are gone, whoever removes them.
func (s *Source) removeFrom(ctx context.Context, v *vm, meant func(node) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 4*s.limits.Task, errLate)
	defer cancel()
	budget := newBudget(5, 2*time.Minute)
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		var target *node
		for _, n := range nodes(v.Snapshot) {
			if meant(n) {
				target = &n
			}
		}
		if target == nil {
			return s.consolidate(ctx, v)
		}
		err := s.removeSnapshot(ctx, target.Snapshot)
		switch {
		case err == nil, isGone(err): // seen in the tree below
		case isBusy(err):
		case isFault(err), problem.Of(err) != nil, !budget.spend(ctx): // unless the answer got lost
			return explain(err, v.Name)
		}
		switch err := s.refresh(ctx, v); {
		case isGone(err):
			return nil // the machine went, and its snapshots with it
		case err != nil:
			return err
		}
		if !contains(v, target.Snapshot) {
			continue
		}
		if err := sleep(ctx, pause); err != nil {
			if errors.Is(err, errLate) {
				return TaskLate.New(err, "removal of snapshot %s of %s", target.Name, v.Name)
			}
			return err
		}
	}
}

func contains(v *vm, snapshot ref) bool {
	for _, n := range nodes(v.Snapshot) {
		if n.Snapshot == snapshot {
			return true
		}
	}
	return false
}

func (s *Source) removeSnapshot(ctx context.Context, snapshot ref) error {
	res, err := methods.RemoveSnapshot_Task(ctx, s.session, &types.RemoveSnapshot_Task{
		This: snapshot, RemoveChildren: false, Consolidate: types.NewBool(true),
	})
	if err != nil {
		return err
	}
	_, err = s.await(ctx, res.Returnval, s.limits.Task, "remove the snapshot")
	return err
}

// consolidate waits until the machine's disks need no consolidation, and
// starts one if they do.
func (s *Source) consolidate(ctx context.Context, v *vm) error {
	if !v.needsConsolidation() {
		return nil
	}
	var last error
	for budget := newBudget(8, s.limits.Task); ; {
		res, err := methods.ConsolidateVMDisks_Task(ctx, s.session, &types.ConsolidateVMDisks_Task{This: v.Self})
		if err == nil {
			_, err = s.await(ctx, res.Returnval, 4*s.limits.Task, "consolidate the disks")
		}
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errLate):
			return ConsolidationNeeded.New(errors.Join(cause, err), "%s", v.Name)
		case cause != nil:
			return errors.Join(cause, err)
		}
		if last = explain(err, v.Name); err != nil && !isFault(err) && !problem.Has(err, TaskLate) {
			return last
		}
		switch err := s.refresh(ctx, v); {
		case isGone(err):
			return nil
		case err != nil:
			return err
		case !v.needsConsolidation():
			return nil
		}
		if !budget.spend(ctx) {
			return ConsolidationNeeded.New(last, "%s", v.Name)
		}
	}
}
