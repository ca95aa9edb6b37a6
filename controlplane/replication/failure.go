package replication

import (
	"context"
	"fmt"
	"time"

	"skylift/controlplane/catalog"
	"skylift/internal/problem"
)

// Failure is why an attempt ended.
type Failure struct {
	Code, Message, Hint string
	// Retry says that the same run may go on from where it is.
	Retry bool
}

// FailureOf makes a failure of an error. Errors that are no problem, and
// problems of a kind that may pass, are worth a retry.
func FailureOf(err error) Failure {
	k := problem.Of(err)
	if k == nil {
		return Failure{Message: err.Error(), Retry: true}
	}
	return Failure{Code: k.Code, Message: err.Error(), Hint: k.Hint, Retry: k.Retry}
}

// String is the failure for people.
func (f Failure) String() string {
	s := f.Message
	if f.Hint != "" {
		s += ". " + f.Hint
	}
	if f.Code != "" {
		s += " [" + f.Code + "]"
	}
	return s
}

// Fail ends an attempt. The run is tried again after a pause as long as its
// budget lasts and the failure may pass; otherwise it ends: a run that could
// not be settled goes on to be built, one that landed is completed, any other fails.
func (s *Service) Fail(ctx context.Context, l Lease, f Failure) error {
	return s.change(ctx, func(tx Tx) error {
		if l.Run == "" {
			return s.failJob(ctx, tx, l, f)
		}
		row, err := held(ctx, tx, l)
		if err != nil {
			return err
		}
		if f.Code == BaseGone.Code && row.Phase == Building {
			if err := tx.DropLanded(ctx, row.Job); err != nil {
				return err
			}
		}
		row.Attempts++
		row.Trouble = f.String()
		if !f.Retry || row.Attempts >= s.limits.Attempts || row.Phase == Deleting {
			return s.giveUp(ctx, tx, row, row.Trouble)
		}
		pause := s.limits.backoff(row.Attempts)
		row.Message = fmt.Sprintf("Attempt %d of %d failed, the next one is due at %s UTC: %s",
			row.Attempts, s.limits.Attempts, tx.Now().Add(pause).UTC().Format(time.TimeOnly), row.Trouble)
		row.release(tx.Now().Add(pause))
		return tx.SaveRun(ctx, row)
	})
}

// giveUp leaves the phase that a run cannot get through.
func (s *Service) giveUp(ctx context.Context, tx Tx, row *Row, why string) error {
	now := tx.Now()
	switch row.Phase {
	case Settling:
		row.Message = "The snapshot could not be ended and is left to the connectors' next round: " + why
		row.enter(Building, now)
	case Purging:
		row.Message = "Staging could not be cleared and is left to the next run: " + why
		return s.end(ctx, tx, row, Completed)
	case Failing:
		return s.end(ctx, tx, row, Failed)
	case Deleting:
		return s.end(ctx, tx, row, Deleted)
	default:
		if row.transferable() { // the cause may be one that a look at the server shows
			if err := tx.SaveAsk(ctx, catalog.NewAsk(catalog.CheckServer, row.Source, row.VM, now)); err != nil {
				return err
			}
		}
		row.Message = why
		row.enter(Failing, now)
	}
	row.release(now)
	return tx.SaveRun(ctx, row)
}

// end closes the run and says so on its job.
func (s *Service) end(ctx context.Context, tx Tx, row *Row, p Phase) error {
	row.enter(p, tx.Now())
	row.release(tx.Now())
	row.Completed = tx.Now()
	if err := tx.SaveRun(ctx, row); err != nil {
		return err
	}
	j, err := job(ctx, tx, row.Job)
	if err != nil || !j.open() {
		return err
	}
	over := j.RunOnce && j.NextRun.IsZero()
	switch {
	case p == Completed && over:
		j.State, j.Message = JobCompleted, ""
	case p == Completed:
		j.Message = ""
	case p == Failed && over:
		j.State, j.Message = JobFailed, row.Message
	case p == Failed:
		j.Message = "The last run failed: " + row.Message
	}
	return tx.SaveJob(ctx, j)
}
