package replication

import (
	"context"
	"errors"
	"time"
)

// Schedule makes the steps that need nothing but the database: it takes back
// runs of holders that fell silent, ends runs that are to be deleted and
// nobody holds, and starts the runs that are due.
func (s *Service) Schedule(ctx context.Context) error {
	moved := false
	for _, step := range []func(context.Context, Tx) (bool, error){s.sweep, s.start} {
		for again := true; again; moved = moved || again {
			err := s.store.Replicate(ctx, func(tx Tx) (err error) {
				again, err = step(ctx, tx)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	if moved {
		s.wake()
	}
	return nil
}

// sweep reports whether there may be more: each run it saw has moved on.
func (s *Service) sweep(ctx context.Context, tx Tx) (bool, error) {
	if err := s.reap(ctx, tx); err != nil {
		return false, err
	}
	rows, err := tx.DueRuns(ctx, []Phase{Deleting}, "", 16)
	if err != nil {
		return false, err
	}
	for _, row := range rows {
		if err := s.end(ctx, tx, row, Deleted); err != nil {
			return false, err
		}
	}
	return len(rows) > 0, nil
}

// start makes the runs of up to 16 jobs and reports whether there may be more.
func (s *Service) start(ctx context.Context, tx Tx) (bool, error) {
	jobs, err := tx.DueJobs(ctx, 16)
	if err != nil {
		return false, err
	}
	for _, j := range jobs {
		if err := s.startDue(ctx, tx, j); err != nil {
			return false, err
		}
	}
	return len(jobs) > 0, nil
}

// startDue makes the job's due run, or notes that it was missed because
// another one is active, and sets the time of the next.
func (s *Service) startDue(ctx context.Context, tx Tx, j *JobRow) error {
	now := tx.Now()
	run := s.newRun(j, Automatic, now)
	run.Scheduled = j.NextRun
	err := tx.InsertRun(ctx, run)
	missed := errors.Is(err, ErrConflict)
	if missed {
		run.ID = s.newID("sms-run-")
		run.enter(Missed, now)
		run.Completed = now
		run.Message = "The run was due while another one of the job was active; the next one is due after the job's interval."
		err = tx.InsertRun(ctx, run)
	}
	if err != nil {
		return err
	}
	j.State = JobActive
	j.NextRun = next(j.NextRun, j.Frequency, now, missed && j.RunOnce)
	j.Due = j.NextRun
	return tx.SaveJob(ctx, j)
}

// next is the first time after now in steps of the frequency; zero for a job
// that runs once, unless its one run was missed: that one is due an interval later.
func next(last time.Time, frequency time.Duration, now time.Time, again bool) time.Time {
	switch {
	case frequency > 0:
		steps := max(now.Sub(last)/frequency, 0) + 1
		return last.Add(steps * frequency)
	case again:
		return now.Add(MinFrequency)
	}
	return time.Time{}
}

// newRun makes a run of the job, due now.
func (s *Service) newRun(j *JobRow, trigger Trigger, now time.Time) *Row {
	row := &Row{
		Run: Run{
			ID: s.newID("sms-run-"), Job: j.ID, Trigger: trigger, Scheduled: now,
			Description: j.Description, Encrypted: j.Encrypted, KMSKeyID: j.KMSKeyID,
		},
		Created: now, Source: j.Source, VM: j.VM, Slot: -1,
	}
	row.enter(Waiting, now)
	return row
}
