package connector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"skylift/hypervisor"
	linkv1 "skylift/link/linkv1"
)

// keepClean is the janitor: at start, every SweepEvery and when asked, it
// removes what is ours on the sources and dead.
func (c *Connector) keepClean(ctx context.Context) error {
	for {
		for _, s := range c.Sources {
			if err := c.clean(ctx, s); err != nil && ctx.Err() == nil {
				c.Log.WithError(err).WithField("source", s.Name).Warn("not all that is dead on the source could be cleared away; it is tried again")
			}
		}
		timer := time.NewTimer(c.SweepEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-c.sweep:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// sweepSoon has the janitor come now, or once more if it is at work.
func (c *Connector) sweepSoon() {
	select {
	case c.sweep <- struct{}{}:
	default:
	}
}

// clean clears one source. What cannot be removed does not keep the rest.
func (c *Connector) clean(ctx context.Context, s Source) error {
	snapshots, anchors, err := s.Held(ctx)
	if err != nil {
		return fmt.Errorf("look for snapshots of ours: %w", err)
	}
	if len(snapshots)+len(anchors) == 0 {
		return nil
	}
	deadSnapshots, deadAnchors, err := c.judge(ctx, s, snapshots, anchors)
	if err != nil {
		c.Log.WithError(err).Warn("the control plane does not say which snapshots are dead; only those past their age are removed")
		deadSnapshots, deadAnchors = c.abandoned(snapshots), nil
	}
	var errs []error
	for _, ref := range deadSnapshots {
		c.Log.WithField("run", ref.Run).WithField("server", ref.Server).Info("removing a snapshot that no run needs")
		if err := s.Remove(ctx, ref); err != nil {
			errs = append(errs, fmt.Errorf("remove the snapshot of run %s: %w", ref.Run, err))
		}
	}
	for _, a := range deadAnchors {
		if err := s.Release(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("release the anchor of run %s: %w", a.Run, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Connector) judge(ctx context.Context, s Source, snapshots []hypervisor.SnapshotRef, anchors []hypervisor.Anchor) ([]hypervisor.SnapshotRef, []hypervisor.Anchor, error) {
	req := &linkv1.JudgeRequest{Source: s.ID}
	for _, ref := range snapshots {
		req.Snapshots = append(req.Snapshots, toSnapshot(ref))
	}
	for _, a := range anchors {
		req.Anchors = append(req.Anchors, toAnchor(a))
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := c.link.Judge(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, nil, err
	}
	var deadSnapshots []hypervisor.SnapshotRef
	for _, ref := range answer.Msg.DeadSnapshots {
		deadSnapshots = append(deadSnapshots, fromSnapshot(ref))
	}
	var deadAnchors []hypervisor.Anchor
	for _, a := range answer.Msg.DeadAnchors {
		deadAnchors = append(deadAnchors, fromAnchor(a))
	}
	return deadSnapshots, deadAnchors, nil
}

// abandoned returns the snapshots past their age.
func (c *Connector) abandoned(snapshots []hypervisor.SnapshotRef) (out []hypervisor.SnapshotRef) {
	for _, ref := range snapshots {
		if c.Now().Sub(ref.Created) > c.AbandonedAfter {
			out = append(out, ref)
		}
	}
	return out
}
