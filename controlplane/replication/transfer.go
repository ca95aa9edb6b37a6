package replication

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// RecordSnapshot records the run's snapshot under its lease. A run has one
// snapshot for life: another one is refused with SnapshotRefused.
func (s *Service) RecordSnapshot(ctx context.Context, l Lease, snap Snapshot) error {
	return s.store.Replicate(ctx, func(tx Tx) error {
		row, err := heldIn(ctx, tx, l, Transferring, Settling)
		if err != nil {
			return err
		}
		switch {
		case snap.ID == "" || snap.Run != l.Run:
			return SnapshotRefused.New(fmt.Errorf("it is named %q, of run %q", snap.ID, snap.Run), "record the snapshot of run %s", l.Run)
		case row.Snapshot == nil && row.Phase == Transferring:
			row.Snapshot, row.Consistency, row.Note = &snap, snap.Consistency, snap.Note
			return tx.SaveRun(ctx, row)
		case row.Snapshot == nil || row.Snapshot.ID != snap.ID:
			return SnapshotRefused.New(nil, "record snapshot %s of run %s", snap.ID, l.Run)
		}
		return nil
	})
}

// Seal records the manifests of all disks of a run. Repeating it with the
// same content is no error. SealRefused when it is incomplete, when no
// snapshot was recorded or the run was sealed otherwise; BaseChanged when a
// disk was made against something else than its last landed run.
func (s *Service) Seal(ctx context.Context, l Lease, disks []SealedDisk) error {
	return s.store.Replicate(ctx, func(tx Tx) error {
		row, err := heldIn(ctx, tx, l, Transferring, Settling)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("seal run %s", l.Run)
		if row.Phase == Settling {
			if !sameSeal(row.Seal, disks) {
				return SealRefused.New(errors.New("it was sealed before with other content"), "%s", what)
			}
			return nil
		}
		if row.Snapshot == nil {
			return SealRefused.New(errors.New("no snapshot was recorded"), "%s", what)
		}
		if err := checkSeal(disks); err != nil {
			return SealRefused.New(err, "%s", what)
		}
		landed, err := tx.Landed(ctx, row.Job)
		if err != nil {
			return err
		}
		if err := checkBases(disks, landed); err != nil {
			return BaseChanged.New(err, "%s", what)
		}
		row.Seal = slices.Clone(disks)
		row.enter(Settling, tx.Now())
		return tx.SaveRun(ctx, row)
	})
}

// keySafe is what a disk's name in staging keys can be.
var keySafe = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// checkSeal refuses what cannot be a seal of a whole run.
func checkSeal(disks []SealedDisk) error {
	if len(disks) == 0 {
		return errors.New("it has no disk")
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for _, d := range disks {
		switch {
		case d.Disk == "" || names[d.Disk]:
			return fmt.Errorf("disk %q is there twice or has no identity", d.Disk)
		case !keySafe.MatchString(d.Key) || keys[d.Key]:
			return fmt.Errorf("the staging key %q of disk %s is used twice or not safe", d.Key, d.Disk)
		case d.Size <= 0:
			return fmt.Errorf("disk %s has %d bytes", d.Disk, d.Size)
		case len(d.ManifestSHA256) != sha256.Size || len(d.Digest) != sha256.Size:
			return fmt.Errorf("disk %s lacks its manifest's hash or its digest", d.Disk)
		case (d.BaseRun == "") != (len(d.BaseDigest) == 0):
			return fmt.Errorf("disk %s names a base run without its digest, or the reverse", d.Disk)
		}
		names[d.Disk], keys[d.Key] = true, true
	}
	return nil
}

// checkBases refuses disks whose base is not what has landed last.
func checkBases(disks []SealedDisk, landed []Landed) error {
	for _, d := range disks {
		if d.BaseRun == "" {
			continue
		}
		base := baseOf(d, landed)
		switch {
		case base == nil:
			return fmt.Errorf("disk %s: run %s has not landed with this digest, or is not the last that did", d.Disk, d.BaseRun)
		case base.Size > d.Size:
			return fmt.Errorf("disk %s: it is smaller than its base and must be a disk of its own", d.Disk)
		}
	}
	return nil
}

// baseOf returns the landed row that a sealed disk names as its base, or nil.
func baseOf(d SealedDisk, landed []Landed) *Landed {
	for i, l := range landed {
		if l.Disk == d.Disk && l.Run == d.BaseRun && bytes.Equal(l.Digest, d.BaseDigest) {
			return &landed[i]
		}
	}
	return nil
}

func sameSeal(a, b []SealedDisk) bool {
	return slices.EqualFunc(a, b, func(x, y SealedDisk) bool {
		return x.Disk == y.Disk && x.Key == y.Key && x.Name == y.Name && x.Position == y.Position && x.Size == y.Size &&
			x.BaseRun == y.BaseRun && x.ChangeID == y.ChangeID && bytes.Equal(x.ManifestSHA256, y.ManifestSHA256) &&
			bytes.Equal(x.Digest, y.Digest) && bytes.Equal(x.BaseDigest, y.BaseDigest)
	})
}

// Settled records that the sealed run's snapshot has ended and what anchor
// stays, if any; the run goes on to be built.
func (s *Service) Settled(ctx context.Context, l Lease, anchor *Anchor) error {
	return s.change(ctx, func(tx Tx) error {
		row, err := heldIn(ctx, tx, l, Settling, Deleting)
		if err != nil {
			return err
		}
		if row.Phase == Deleting {
			return s.end(ctx, tx, row, Deleted)
		}
		row.Anchor = anchor
		row.Message = ""
		row.enter(Building, tx.Now())
		row.release(tx.Now())
		return tx.SaveRun(ctx, row)
	})
}
