package replication

import (
	"context"
	"slices"
	"time"
)

// PurgeRequest names what is to go from staging. It names the dead, never
// "all but the living": IDs are not reused and the dead stay dead, so a purge
// that comes late, after its lease was lost, can take nothing that is needed.
// The map shards of dead runs that Live's manifests refer to stay; a later
// run's manifest refers to no others, because it takes them from a live base.
type PurgeRequest struct {
	Job  string
	Dead []DeadRun
	Live []LiveDisk
}

// DeadRun is a run whose data goes, and with State its state too.
type DeadRun struct {
	Run         string
	Data, State bool
}

// LiveDisk is a disk's manifest that must stay readable: of a base, or of an
// image that is kept.
type LiveDisk struct {
	Run, Key       string
	ManifestSHA256 []byte
}

// planPurge says what goes with a run that landed or failed: surplus images
// first, then what is dead in staging.
func planPurge(ctx context.Context, tx Tx, row *Row, step *Step) error {
	j, err := job(ctx, tx, row.Job)
	if err != nil {
		return err
	}
	landed, err := tx.Landed(ctx, row.Job)
	if err != nil {
		return err
	}
	images, err := tx.Images(ctx, row.Job)
	if err != nil {
		return err
	}
	if row.Phase == Purging && j.KeepImages > 0 {
		images, step.Retire = retention(images, j.KeepImages, landed)
	}
	step.Purge = PurgeRequest{Job: row.Job}
	live := map[string]bool{}
	for _, l := range landed {
		live[l.Run] = true
		step.Purge.Live = append(step.Purge.Live, LiveDisk{Run: l.Run, Key: l.Key, ManifestSHA256: l.ManifestSHA256})
	}
	for _, i := range images {
		live[i.Run] = true
		for _, d := range i.Disks {
			isBase := slices.ContainsFunc(landed, func(l Landed) bool { return l.Run == i.Run && l.Disk == d.Disk })
			if !isBase {
				step.Purge.Live = append(step.Purge.Live, LiveDisk{Run: i.Run, Key: d.Key, ManifestSHA256: d.ManifestSHA256})
			}
		}
	}
	ended, err := tx.Uncleared(ctx, row.Job)
	if err != nil {
		return err
	}
	for _, run := range append(ended, row.ID) {
		dead := DeadRun{Run: run, Data: !live[run] || !j.KeepStaging, State: !live[run]}
		if dead.Data || dead.State {
			step.Purge.Dead = append(step.Purge.Dead, dead)
		}
	}
	return nil
}

// retention parts images, newest first, into those that stay and those that
// go: beyond the keep newest, except what holds a disk's base.
func retention(images []ImageRow, keep int, landed []Landed) (stay, gone []ImageRow) {
	for n, i := range images {
		base := slices.ContainsFunc(landed, func(l Landed) bool { return l.Run == i.Run })
		if n < keep || base {
			stay = append(stay, i)
		} else {
			gone = append(gone, i)
		}
	}
	return stay, gone
}

// Retired records that an image was removed.
func (s *Service) Retired(ctx context.Context, l Lease, image ImageRow) error {
	return s.store.Replicate(ctx, func(tx Tx) error {
		if _, err := heldIn(ctx, tx, l, Purging); err != nil {
			return err
		}
		return tx.RetireImage(ctx, image.Job, image.Run)
	})
}

// Purged records that a step's purge is done; left is what Purge returned.
// The run or the job's deletion ends with it.
func (s *Service) Purged(ctx context.Context, l Lease, p PurgeRequest, left []string) error {
	return s.change(ctx, func(tx Tx) error {
		if l.Run == "" {
			return s.jobPurged(ctx, tx, l)
		}
		row, err := heldIn(ctx, tx, l, Purging, Failing)
		if err != nil {
			return err
		}
		for _, d := range p.Dead {
			if d.State && !slices.Contains(left, d.Run) {
				if err := tx.Clear(ctx, d.Run); err != nil {
					return err
				}
			}
		}
		if row.Phase == Purging {
			return s.end(ctx, tx, row, Completed)
		}
		return s.end(ctx, tx, row, Failed)
	})
}

// claimJob gives out the deletion of a job whose runs have ended.
func (s *Service) claimJob(ctx context.Context, tx Tx, owner string) (Step, bool, error) {
	jobs, err := tx.DueDeletions(ctx, 1)
	if err != nil || len(jobs) == 0 {
		return Step{}, false, err
	}
	j := jobs[0]
	j.take(owner, tx.Now(), s.limits.Lease)
	step := Step{
		Lease: Lease{Job: j.ID, Owner: owner, Epoch: j.Epoch, TTL: s.limits.Lease},
		Kind:  PurgeStep, Purge: PurgeRequest{Job: j.ID},
	}
	ended, err := tx.Uncleared(ctx, j.ID)
	if err != nil {
		return Step{}, false, err
	}
	for _, run := range ended {
		step.Purge.Dead = append(step.Purge.Dead, DeadRun{Run: run, Data: true, State: true})
	}
	return step, true, tx.SaveJob(ctx, j)
}

func heldJob(ctx context.Context, tx Tx, l Lease) (*JobRow, error) {
	j, ok, err := tx.Job(ctx, l.Job)
	if err != nil {
		return nil, err
	}
	if !ok || j.Owner != l.Owner || j.Epoch != l.Epoch || !j.held(tx.Now()) {
		return nil, StaleLease.New(nil, "work on job %q under epoch %d", l.Job, l.Epoch)
	}
	return j, nil
}

func (s *Service) renewJob(ctx context.Context, l Lease) (Renewal, error) {
	err := s.store.Replicate(ctx, func(tx Tx) error {
		j, err := heldJob(ctx, tx, l)
		if err != nil {
			return err
		}
		j.LeaseUntil = tx.Now().Add(s.limits.Lease)
		return tx.SaveJob(ctx, j)
	})
	return Renewal{Job: l.Job, TTL: s.limits.Lease}, err
}

// failJob puts the deletion off; it is tried until it works.
func (s *Service) failJob(ctx context.Context, tx Tx, l Lease, f Failure) error {
	j, err := heldJob(ctx, tx, l)
	if err != nil {
		return err
	}
	due := tx.Now().Add(maxBackoff)
	j.Message = "Staging could not be cleared, the next attempt is due at " + due.UTC().Format(time.TimeOnly) + " UTC: " + f.String()
	j.free(due)
	return tx.SaveJob(ctx, j)
}

func (s *Service) jobPurged(ctx context.Context, tx Tx, l Lease) error {
	j, err := heldJob(ctx, tx, l)
	if err != nil {
		return err
	}
	ended, err := tx.Uncleared(ctx, l.Job)
	if err != nil {
		return err
	}
	for _, run := range ended {
		if err := tx.Clear(ctx, run); err != nil {
			return err
		}
	}
	if err := tx.DropLanded(ctx, l.Job); err != nil {
		return err
	}
	j.State, j.Message = JobDeleted, ""
	j.free(tx.Now())
	return tx.SaveJob(ctx, j)
}
