package replication

import (
	"context"
	"slices"
	"time"
)

// Lease is the right of one owner to work on one run, or, with Run empty, on
// a job that is being deleted. Nothing is accepted under another epoch than
// the row's present one, nor after the lease's end.
type Lease struct {
	Job, Run string
	Owner    string
	Epoch    int64
	// TTL is what is left of the lease. A holder counts it from before it asked.
	TTL time.Duration
}

// Assignment is a run for a connector, or what is left of one.
type Assignment struct {
	Lease
	Source, VM string
	Quiesce    string
	SkipDisks  []string
	Snapshot   *Snapshot // recorded by an earlier epoch
	Sealed     bool      // only the snapshot is left to settle
	Bases      []Landed
}

var (
	transferPhases = []Phase{Waiting, Transferring, Settling}
	stepPhases     = []Phase{Building, Purging, Failing}
	leasedPhases   = slices.Concat(transferPhases, stepPhases, []Phase{Deleting})
)

// Claim gives the connector the run that has waited longest among those on
// the sources it announced, if one of its slots is free.
func (s *Service) Claim(ctx context.Context, connector string, slots int) (Assignment, bool, error) {
	var a Assignment
	var found bool
	err := s.store.Replicate(ctx, func(tx Tx) error {
		found = false
		if err := s.reap(ctx, tx); err != nil {
			return err
		}
		slot, ok, err := freeSlot(ctx, tx, connector, slots)
		if err != nil || !ok {
			return err
		}
		rows, err := tx.DueRuns(ctx, transferPhases, connector, 1)
		if err != nil || len(rows) == 0 {
			return err
		}
		row := rows[0]
		j, err := job(ctx, tx, row.Job)
		if err != nil {
			return err
		}
		row.take(connector, tx.Now(), s.limits.Lease)
		row.Slot, row.Earlier, row.Message = slot, slices.Clone(row.Disks), ""
		if row.Phase == Waiting {
			row.enter(Transferring, tx.Now())
		}
		a = Assignment{
			Lease:  Lease{Job: row.Job, Run: row.ID, Owner: connector, Epoch: row.Epoch, TTL: s.limits.Lease},
			Source: row.Source, VM: row.VM, Quiesce: j.Quiesce, SkipDisks: j.SkipDisks,
			Snapshot: row.Snapshot, Sealed: row.Phase == Settling,
		}
		if a.Bases, err = tx.Landed(ctx, row.Job); err != nil {
			return err
		}
		found = true
		return tx.SaveRun(ctx, row)
	})
	return a, found && err == nil, err
}

// freeSlot finds a slot of the owner that no run has. The rows' unique index
// decides when two look at once.
func freeSlot(ctx context.Context, tx Tx, owner string, slots int) (int, bool, error) {
	used, err := tx.Slots(ctx, owner)
	if err != nil {
		return 0, false, err
	}
	for slot := range slots {
		if !slices.Contains(used, slot) {
			return slot, true, nil
		}
	}
	return 0, false, nil
}

// reap takes runs back whose lease has ended without being given back.
func (s *Service) reap(ctx context.Context, tx Tx) error {
	rows, err := tx.Expired(ctx, leasedPhases, 16)
	if err != nil {
		return err
	}
	for _, row := range rows {
		row.Expiries++
		if row.Expiries >= s.limits.Expiries {
			silent := HolderSilent.New(nil, "run %s, %d times in a row", row.ID, row.Expiries)
			err = s.giveUp(ctx, tx, row, FailureOf(silent).String())
		} else {
			row.release(tx.Now())
			err = tx.SaveRun(ctx, row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// release gives the run back, to be taken up again at due.
func (r *Row) release(due time.Time) {
	r.free(due)
	r.Slot, r.WaitingFor = -1, ""
}

// enter puts the run into a phase, with budgets of its own, due at once.
func (r *Row) enter(p Phase, now time.Time) {
	r.Phase, r.Due, r.Attempts, r.Expiries, r.WaitingFor = p, now, 0, 0, ""
	r.State = p.State()
	if stage := p.stage(); stage != "" {
		r.advance(stage, 0)
	}
}

// held returns the run of a lease that holds now; otherwise StaleLease.
func held(ctx context.Context, tx Tx, l Lease) (*Row, error) {
	row, ok, err := tx.Run(ctx, l.Run)
	if err != nil {
		return nil, err
	}
	if !ok || row.Owner != l.Owner || row.Epoch != l.Epoch || !row.held(tx.Now()) {
		return nil, StaleLease.New(nil, "work on run %q under epoch %d", l.Run, l.Epoch)
	}
	return row, nil
}

// heldIn is held for a run that must be in one of the phases.
func heldIn(ctx context.Context, tx Tx, l Lease, phases ...Phase) (*Row, error) {
	row, err := held(ctx, tx, l)
	if err == nil && !slices.Contains(phases, row.Phase) {
		return nil, StaleLease.New(nil, "work on run %s, which is %s", l.Run, row.Phase)
	}
	return row, err
}

// Renewal is the answer to a holder that goes on.
type Renewal struct {
	Job    string
	TTL    time.Duration
	Cancel bool // stop, undo what only this run needs, and give the lease back
}

// Renew extends the lease and records progress. The lease of a run that is
// to be deleted is not extended: what is left of it is for stopping.
func (s *Service) Renew(ctx context.Context, l Lease, p Progress) (Renewal, error) {
	var renewal Renewal
	err := s.store.Replicate(ctx, func(tx Tx) error {
		row, err := held(ctx, tx, l)
		if err != nil {
			return err
		}
		row.report(p)
		if row.Phase == Deleting {
			renewal = Renewal{Job: row.Job, TTL: row.LeaseUntil.Sub(tx.Now()), Cancel: true}
		} else {
			renewal = Renewal{Job: row.Job, TTL: s.limits.Lease}
			row.LeaseUntil = tx.Now().Add(s.limits.Lease)
		}
		return tx.SaveRun(ctx, row)
	})
	return renewal, err
}

// Release gives a run back unfinished: its holder shuts down, or never had
// it. It counts as no attempt. A stale lease has nothing to give back.
func (s *Service) Release(ctx context.Context, l Lease) error {
	return s.change(ctx, func(tx Tx) error {
		if l.Run == "" {
			j, err := heldJob(ctx, tx, l)
			if err != nil {
				return err
			}
			j.free(tx.Now())
			return tx.SaveJob(ctx, j)
		}
		row, err := held(ctx, tx, l)
		if err != nil {
			return err
		}
		row.release(tx.Now())
		return tx.SaveRun(ctx, row)
	})
}
