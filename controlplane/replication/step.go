package replication

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"skylift/internal/problem"
)

// Step is one piece of work for a reconciler.
type Step struct {
	Lease
	Kind   StepKind
	Build  BuildRequest // for BuildStep
	Retire []ImageRow   // before the purge of a PurgeStep, oldest last
	Purge  PurgeRequest // for PurgeStep
}

// StepKind says what a step is.
type StepKind string

// The kinds of steps.
const (
	BuildStep StepKind = "build"
	PurgeStep StepKind = "purge"
)

// Builder makes an image of a sealed run.
type Builder interface {
	// Build makes the run's image and returns when every disk is complete.
	// It takes only blocks whose hash is the one of the map that the sealed
	// manifest names, and refuses a parent that does not carry the base's
	// digest (BaseChanged) or is gone (BaseGone). It can be called again for
	// the same run after any failure or crash. progress takes percents.
	Build(ctx context.Context, r BuildRequest, progress func(percent int)) (Built, error)
}

// Purger clears staging.
type Purger interface {
	// Purge removes what the request names; removing what is gone is no
	// error. It returns those of the runs whose state could not go
	// altogether, because map shards of theirs are still referred to.
	Purge(ctx context.Context, r PurgeRequest) (left []string, err error)
}

// Retirer removes images.
type Retirer interface {
	// Retire removes an image and what only it needs; one that is gone is no error.
	Retire(ctx context.Context, image ImageRow) error
}

// BuildRequest says what to build.
type BuildRequest struct {
	Job, Run string
	// Attempt was stored before the request was given out, grows with each
	// one of the run, and is never used twice.
	Attempt     int64
	Server      string // catalog ID
	ServerName  string
	LicenseType string
	RoleName    string
	Description string
	Encrypted   bool
	KMSKeyID    string
	Disks       []BuildDisk
	Images      []ImageRow // of earlier runs, newest first
}

// BuildDisk is one disk to build: what was sealed, and the image of its base.
type BuildDisk struct {
	SealedDisk
	BaseImage string // the base's own image; empty for a disk without a base
}

// Built is what a builder made.
type Built struct {
	Image string // ami-…, or the local image's ID
	Disks []BuiltDisk
}

// BuiltDisk is one disk's image and the digest of what it holds.
type BuiltDisk struct {
	Disk   string // identity
	Image  string // a path, or the EBS snapshot's ID
	Digest []byte
}

// ClaimStep gives the reconciler owner the step that has waited longest.
func (s *Service) ClaimStep(ctx context.Context, owner string) (Step, bool, error) {
	var step Step
	var found bool
	err := s.store.Replicate(ctx, func(tx Tx) (err error) {
		if err := s.reap(ctx, tx); err != nil {
			return err
		}
		step, found, err = s.claimRun(ctx, tx, owner)
		if err != nil || found {
			return err
		}
		step, found, err = s.claimJob(ctx, tx, owner)
		return err
	})
	return step, found && err == nil, err
}

func (s *Service) claimRun(ctx context.Context, tx Tx, owner string) (Step, bool, error) {
	for {
		rows, err := tx.DueRuns(ctx, stepPhases, "", 1)
		if err != nil || len(rows) == 0 {
			return Step{}, false, err
		}
		row := rows[0]
		row.take(owner, tx.Now(), s.limits.Lease)
		step := Step{
			Lease: Lease{Job: row.Job, Run: row.ID, Owner: owner, Epoch: row.Epoch, TTL: s.limits.Lease},
			Kind:  PurgeStep,
		}
		if row.Phase == Building {
			step.Kind = BuildStep
			if row.Attempts > 0 {
				row.Message = "" // it spoke of the attempt that failed
			}
			step.Build, err = buildRequest(ctx, tx, row)
		} else {
			err = planPurge(ctx, tx, row, &step)
		}
		if problem.Has(err, BaseChanged) {
			if err := s.giveUp(ctx, tx, row, FailureOf(err).String()); err != nil {
				return Step{}, false, err
			}
			continue // the run is failing now and comes back as such
		}
		if err != nil {
			return Step{}, false, err
		}
		return step, true, tx.SaveRun(ctx, row)
	}
}

// buildRequest tells what to build; BaseChanged when a base is no longer the last landed run.
func buildRequest(ctx context.Context, tx Tx, row *Row) (BuildRequest, error) {
	j, err := job(ctx, tx, row.Job)
	if err != nil {
		return BuildRequest{}, err
	}
	landed, err := tx.Landed(ctx, row.Job)
	if err != nil {
		return BuildRequest{}, err
	}
	if err := checkBases(row.Seal, landed); err != nil {
		return BuildRequest{}, BaseChanged.New(err, "build run %s", row.ID)
	}
	r := BuildRequest{
		Job: row.Job, Run: row.ID, Attempt: row.Epoch, Server: j.Server, ServerName: j.ServerName,
		LicenseType: j.LicenseType, RoleName: j.RoleName, Description: or(row.Description, j.Description),
		Encrypted: row.Encrypted, KMSKeyID: row.KMSKeyID,
	}
	for _, d := range row.Seal {
		disk := BuildDisk{SealedDisk: d}
		if base := baseOf(d, landed); base != nil {
			disk.BaseImage = base.Image
		}
		r.Disks = append(r.Disks, disk)
	}
	r.Images, err = tx.Images(ctx, row.Job)
	return r, err
}

// RenewStep extends a reconciler's lease and records its percent; the answer
// is Renew's.
func (s *Service) RenewStep(ctx context.Context, l Lease, percent int) (Renewal, error) {
	if l.Run == "" {
		return s.renewJob(ctx, l)
	}
	var renewal Renewal
	err := s.store.Replicate(ctx, func(tx Tx) error {
		row, err := held(ctx, tx, l)
		if err != nil {
			return err
		}
		if row.Phase == Deleting {
			renewal = Renewal{Job: row.Job, TTL: row.LeaseUntil.Sub(tx.Now()), Cancel: true}
			return nil
		}
		if row.Phase == Building {
			row.advance(StageConverting, percent)
		}
		row.LeaseUntil = tx.Now().Add(s.limits.Lease)
		renewal = Renewal{Job: row.Job, TTL: s.limits.Lease}
		return tx.SaveRun(ctx, row)
	})
	return renewal, err
}

// Land records that every disk of the run is complete, in one transaction on
// condition of the lease and of every disk's base being what landed last:
// the run is the base of the job's next one from now on. BuildRefused when
// what was built is not what was sealed.
func (s *Service) Land(ctx context.Context, l Lease, b Built) error {
	return s.change(ctx, func(tx Tx) error {
		row, err := heldIn(ctx, tx, l, Building)
		if err != nil {
			return err
		}
		j, err := job(ctx, tx, row.Job)
		if err != nil {
			return err
		}
		image := ImageRow{Job: row.Job, Run: row.ID, Image: b.Image, Created: tx.Now()}
		for _, d := range row.Seal {
			built, err := builtDisk(b, d)
			if err != nil {
				return BuildRefused.New(err, "land run %s", row.ID)
			}
			ok, err := tx.PutLanded(ctx, row.Job, Landed{
				Disk: d.Disk, Run: row.ID, Key: d.Key, Digest: d.Digest, ManifestSHA256: d.ManifestSHA256,
				ChangeID: d.ChangeID, Size: d.Size, Image: built.Image,
			}, d.BaseDigest)
			if err != nil {
				return err
			}
			if !ok {
				return BaseChanged.New(nil, "land disk %s of run %s", d.Disk, row.ID)
			}
			row.landed(d, built)
			image.Disks = append(image.Disks, ImageDisk{Disk: d.Disk, Key: d.Key, ManifestSHA256: d.ManifestSHA256, Image: built.Image})
		}
		if err := tx.InsertImage(ctx, image); err != nil {
			return err
		}
		row.Image, j.LatestImage = b.Image, b.Image
		row.advance(StageConverting, 100)
		row.enter(Purging, tx.Now())
		row.release(tx.Now())
		if err := tx.SaveJob(ctx, j); err != nil {
			return err
		}
		return tx.SaveRun(ctx, row)
	})
}

func builtDisk(b Built, d SealedDisk) (BuiltDisk, error) {
	i := slices.IndexFunc(b.Disks, func(x BuiltDisk) bool { return x.Disk == d.Disk })
	switch {
	case i < 0:
		return BuiltDisk{}, fmt.Errorf("disk %s is missing", d.Disk)
	case !bytes.Equal(b.Disks[i].Digest, d.Digest):
		return BuiltDisk{}, fmt.Errorf("disk %s has the digest %x instead of %x", d.Disk, b.Disks[i].Digest, d.Digest)
	}
	return b.Disks[i], nil
}

// landed notes the disk's digest and image where the run shows its disks.
func (r *Row) landed(d SealedDisk, b BuiltDisk) {
	i := slices.IndexFunc(r.Disks, func(x RunDisk) bool { return x.ID == d.Disk })
	if i < 0 {
		i = len(r.Disks)
		r.Disks = append(r.Disks, RunDisk{ID: d.Disk, Name: d.Name, Size: d.Size})
	}
	r.Disks[i].Name, r.Disks[i].Digest, r.Disks[i].Image = d.Name, d.Digest, b.Image
}
