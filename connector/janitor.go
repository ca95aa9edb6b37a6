package connector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"skylift/hypervisor"
	linkv1 "skylift/link/linkv1"
)

// unheard is how long the control plane says nothing about snapshots before
// those past their age are removed: one lost answer ends no run.
const unheard = time.Hour

// keepClean is the janitor: at start, every SweepEvery and when asked, it
// removes what is ours on the source and dead.
func (w *watch) keepClean(ctx context.Context) {
	log := w.Log.WithField("source", w.source.Name)
	for {
		if err := w.clean(ctx); err != nil && ctx.Err() == nil {
			log.WithError(err).Warn("not all that is dead on the source could be cleared away; it is tried again")
		}
		timer := time.NewTimer(w.SweepEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.sweep:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// sweepSoon has the janitor come now, or once more if it is at work.
func (w *watch) sweepSoon() {
	select {
	case w.sweep <- struct{}{}:
	default:
	}
}

// clean clears the source. What cannot be removed does not keep the rest.
func (w *watch) clean(ctx context.Context) error {
	snapshots, anchors, err := w.source.Held(ctx)
	if err != nil {
		return fmt.Errorf("look for snapshots of ours: %w", err)
	}
	if len(snapshots)+len(anchors) == 0 {
		return nil
	}
	for _, ref := range snapshots {
		if ref.Urgent != "" {
			w.runs.stop(string(ref.Run), SnapshotUrgent.New(nil, "%s", ref.Urgent))
		}
	}
	deadSnapshots, deadAnchors, err := w.judge(ctx, snapshots, anchors)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.Log.WithError(err).WithField("source", w.source.Name).Warn("the control plane does not say which snapshots are dead; they stay until they are past their age")
		deadSnapshots, deadAnchors = w.abandoned(snapshots), nil
	} else {
		w.answered = w.Now()
	}
	var errs []error
	for _, ref := range deadSnapshots {
		w.Log.WithField("run", ref.Run).WithField("server", ref.Server).Info("removing a snapshot that no run needs")
		if err := w.source.Remove(ctx, ref); err != nil {
			errs = append(errs, fmt.Errorf("remove the snapshot of run %s: %w", ref.Run, err))
		}
	}
	for _, a := range deadAnchors {
		if err := w.source.Release(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("release the anchor of run %s: %w", a.Run, err))
		}
	}
	return errors.Join(errs...)
}

// judge returns those of the snapshots and anchors that the control plane
// calls dead, and no others, whatever it names.
func (w *watch) judge(ctx context.Context, snapshots []hypervisor.SnapshotRef, anchors []hypervisor.Anchor) (deadSnapshots []hypervisor.SnapshotRef, deadAnchors []hypervisor.Anchor, err error) {
	req := &linkv1.JudgeRequest{Source: w.source.ID}
	for _, ref := range snapshots {
		req.Snapshots = append(req.Snapshots, toSnapshot(ref))
	}
	for _, a := range anchors {
		req.Anchors = append(req.Anchors, toAnchor(a))
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := w.link.Judge(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, nil, err
	}
	for _, ref := range snapshots {
		if slices.ContainsFunc(answer.Msg.DeadSnapshots, func(dead *linkv1.SnapshotRef) bool {
			return dead.GetServer() == string(ref.Server) && dead.GetRun() == string(ref.Run) && dead.GetId() == ref.ID
		}) {
			deadSnapshots = append(deadSnapshots, ref)
		}
	}
	for _, a := range anchors {
		if slices.ContainsFunc(answer.Msg.DeadAnchors, func(dead *linkv1.Anchor) bool { return fromAnchor(dead) == a }) {
			deadAnchors = append(deadAnchors, a)
		}
	}
	return deadSnapshots, deadAnchors, nil
}

// abandoned returns the snapshots past their age and those that must not stay,
// once nothing was heard of the control plane for long. Those of runs under way here are not among them:
// their leases tell that somebody wants them.
func (w *watch) abandoned(snapshots []hypervisor.SnapshotRef) (out []hypervisor.SnapshotRef) {
	now := w.Now()
	if now.Sub(w.answered) <= unheard {
		return nil
	}
	for _, ref := range snapshots {
		old := !ref.Created.IsZero() && now.Sub(ref.Created) > w.AbandonedAfter
		if (old || ref.Urgent != "") && !w.runs.has(string(ref.Run)) {
			out = append(out, ref)
		}
	}
	return out
}
