package replication

import (
	"context"
	"slices"
)

// Judge says which of the snapshots and anchors found on a source, under this
// installation's name, are dead: nobody will need them again. What is dead
// stays dead. A snapshot lives while its run may still be read from it: until
// it was settled, and as the run's recorded one where one is recorded. An
// anchor lives while its run may become, or is, the base of a next one.
func (s *Service) Judge(ctx context.Context, snapshots []Snapshot, anchors []Anchor) (dead []Snapshot, gone []Anchor, err error) {
	err = s.store.Replicate(ctx, func(tx Tx) error {
		dead, gone = nil, nil
		for _, snap := range snapshots {
			row, ok, err := tx.Run(ctx, snap.Run)
			if err != nil {
				return err
			}
			alive := ok && row.transferable() && (row.Snapshot == nil || row.Snapshot.ID == snap.ID)
			if !alive {
				dead = append(dead, snap)
			}
		}
		for _, anchor := range anchors {
			alive, err := needed(ctx, tx, anchor)
			if err != nil {
				return err
			}
			if !alive {
				gone = append(gone, anchor)
			}
		}
		return nil
	})
	return dead, gone, err
}

// needed reports whether an anchor is alive.
func needed(ctx context.Context, tx Tx, a Anchor) (bool, error) {
	row, ok, err := tx.Run(ctx, a.Run)
	if err != nil || !ok {
		return false, err
	}
	if row.Anchor != nil && row.Anchor.ID != a.ID {
		return false, nil
	}
	if row.transferable() || row.Phase == Building {
		return true, nil
	}
	landed, err := tx.Landed(ctx, row.Job)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(landed, func(l Landed) bool { return l.Run == a.Run }), nil
}
