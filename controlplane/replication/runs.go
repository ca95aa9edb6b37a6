package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skylift/controlplane/catalog"
)

// StartOnDemand starts a run of the job now. RunLimit while one is active or
// when too many were started within a day; JobNotActive when the job has ended.
func (s *Service) StartOnDemand(ctx context.Context, id, description string) (Run, error) {
	var run *Row
	err := s.change(ctx, func(tx Tx) error {
		j, err := job(ctx, tx, id)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("start a run of job %s", id)
		if !j.open() {
			return JobNotActive.New(nil, "%s, which is %s", what, j.State)
		}
		n, err := tx.OnDemandSince(ctx, id, tx.Now().Add(-24*time.Hour))
		if err != nil {
			return err
		}
		if n >= s.limits.OnDemandPerDay {
			return RunLimit.New(fmt.Errorf("%d were started within 24 hours", n), "%s", what)
		}
		run = s.newRun(j, OnDemand, tx.Now())
		run.Description = or(description, run.Description)
		err = tx.InsertRun(ctx, run)
		if errors.Is(err, ErrConflict) {
			return RunLimit.New(errors.New("a run of the job is active"), "%s", what)
		}
		if err != nil || j.State == JobActive {
			return err
		}
		j.State = JobActive
		return tx.SaveJob(ctx, j)
	})
	if err != nil {
		return Run{}, err
	}
	return run.Run, nil
}

// Runs lists a job's runs, the latest first.
func (s *Service) Runs(ctx context.Context, id string, p catalog.Page) (Job, []Run, string, error) {
	var j *JobRow
	var runs []Run
	err := s.store.Replicate(ctx, func(tx Tx) (err error) {
		runs = nil
		if j, err = job(ctx, tx, id); err != nil {
			return err
		}
		rows, err := tx.ListRuns(ctx, id, p.After, p.Size()+1)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := explain(ctx, tx, row); err != nil {
				return err
			}
			runs = append(runs, row.Run)
		}
		return nil
	})
	if err != nil {
		return Job{}, nil, "", err
	}
	runs, next := catalog.Cut(p, runs, func(r Run) string { return r.ID })
	return j.Job, runs, next, nil
}

// Run returns one run; RunNotFound when it is unknown.
func (s *Service) Run(ctx context.Context, id string) (Run, error) {
	var run Run
	err := s.store.Replicate(ctx, func(tx Tx) error {
		row, ok, err := tx.Run(ctx, id)
		if err != nil {
			return err
		}
		if !ok {
			return RunNotFound.New(nil, "find run %q", id)
		}
		err = explain(ctx, tx, row)
		run = row.Run
		return err
	})
	return run, err
}

// explain sets the message of a run that waits, for what, and of one whose
// snapshot is less than was asked for.
func explain(ctx context.Context, tx Tx, row *Row) error {
	now := tx.Now()
	if row.Message == "" {
		row.Message = row.Note
	}
	if row.held(now) || row.Due.After(now) || !row.transferable() {
		return nil
	}
	name, reached, err := tx.Reached(ctx, row.Source, now.Add(-catalog.Alive))
	if err != nil {
		return err
	}
	if reached {
		row.WaitingFor = "the connectors that reach source " + or(name, row.Source) + " have not taken it yet; they may be busy with other runs"
	} else {
		row.WaitingFor = "no connector that reaches source " + or(name, row.Source) + " is connected"
	}
	row.Message = "waiting: " + row.WaitingFor
	return nil
}

// transferable reports whether the run is one for a connector.
func (r *Row) transferable() bool {
	return r.Phase == Waiting || r.Phase == Transferring || r.Phase == Settling
}
