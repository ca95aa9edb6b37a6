package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"skylift/hypervisor"
	"skylift/internal/problem"
	"skylift/staging"
)

// PlanMismatch says that a run cannot go on from what lies in staging.
var PlanMismatch = &problem.Kind{
	Code:  "plan-mismatch",
	Title: "the run's plan in staging does not fit its snapshot or its base",
	Hint:  "Nothing needs mending: this run fails, and the job's next run begins anew",
}

// makePlan finds the run's plan in staging, or makes and stores it, and reads
// the base's manifest where the plan has a base.
func (mv *move) makePlan(ctx context.Context) error {
	existing, sum, err := staging.ReadPlan(ctx, mv.Store, mv.facts.Place())
	if err == nil {
		return mv.adopt(ctx, existing, sum)
	}
	if !errors.Is(err, staging.ErrNotFound) {
		return err
	}
	if err := mv.loadBase(ctx); err != nil {
		return err
	}
	ranges, err := mv.chooseRanges(ctx)
	if err != nil {
		return err
	}
	plan, p, err := encodePlan(mv.facts, ranges)
	if err != nil {
		return err
	}
	err = mv.Store.Create(ctx, plan.Place().Plan(), p)
	if errors.Is(err, staging.ErrExists) {
		// Another attempt of this run was faster.
		if existing, sum, err = staging.ReadPlan(ctx, mv.Store, plan.Place()); err != nil {
			return err
		}
		return mv.adopt(ctx, existing, sum)
	}
	if err != nil {
		return fmt.Errorf("store the plan: %w", err)
	}
	mv.progress.Stored.Add(int64(len(p)))
	mv.plan, mv.planSum = plan, sha256.Sum256(p)
	return nil
}

func encodePlan(facts staging.Facts, ranges []staging.Range) (*staging.Plan, []byte, error) {
	plan, err := staging.NewPlan(facts, ranges)
	if err != nil {
		return nil, nil, err
	}
	p, err := staging.EncodeObject(plan)
	return plan, p, err
}

// replan puts a plan of the whole disk in the place of one whose sample has
// found a lie when it was already being carried out. Segments tell which plan
// they are of, so that those of the old one are nobody's from now on: it is as
// if another attempt had made the plan.
func (mv *move) replan(ctx context.Context, lie int64) error {
	facts := mv.plan.Facts
	ranges := mv.distrust(&facts, lie)
	plan, p, err := encodePlan(facts, ranges)
	if err != nil {
		return err
	}
	if err := mv.Store.Put(ctx, plan.Place().Plan(), p); err != nil {
		return fmt.Errorf("replace the plan: %w", err)
	}
	mv.progress.restarted()
	mv.progress.Stored.Add(int64(len(p)))
	mv.plan, mv.planSum = plan, sha256.Sum256(p)
	return nil
}

// adopt goes on with a plan that an earlier attempt made.
func (mv *move) adopt(ctx context.Context, plan *staging.Plan, sum staging.Hash) error {
	want := mv.facts
	switch {
	case plan.Snapshot.ID != want.Snapshot.ID:
		return PlanMismatch.New(nil, "disk %s: the plan is of snapshot %s, and the run's snapshot is %s", want.Disk.Name, plan.Snapshot.ID, want.Snapshot.ID)
	case plan.Disk.ID != want.Disk.ID || plan.Disk.Size != want.Disk.Size:
		return PlanMismatch.New(nil, "disk %s: the plan is of %s with %d bytes, not of %s with %d", want.Disk.Name, plan.Disk.ID, plan.Disk.Size, want.Disk.ID, want.Disk.Size)
	case plan.Base != nil && (mv.Base == nil || *plan.Base != *mv.Base):
		return PlanMismatch.New(nil, "disk %s: the plan builds on another run than the last one that landed", want.Disk.Name)
	}
	mv.plan, mv.planSum = plan, sum
	if plan.Base == nil {
		return nil
	}
	base, err := staging.ReadSealed(ctx, mv.Store, mv.basePlace(), mv.Base.Manifest)
	mv.base = base
	return err
}

func (mv *move) basePlace() staging.Place {
	place := mv.facts.Place()
	place.Run = mv.Base.Run
	return place
}

// loadBase reads the base's manifest and settles on the base. Without its
// manifest a base is of no use: the run is full, and says why.
func (mv *move) loadBase(ctx context.Context) error {
	mv.facts.Mode = staging.Full
	if mv.Base == nil {
		mv.facts.Reason = "first run"
		return nil
	}
	base, err := staging.ReadSealed(ctx, mv.Store, mv.basePlace(), mv.Base.Manifest)
	var format *staging.FormatError
	switch {
	case errors.Is(err, staging.ErrNotFound) || errors.As(err, &format):
		mv.facts.Reason = "the base's manifest cannot be used"
		mv.log.WithError(err).Warn("the base's manifest cannot be used; the run is full")
		return nil
	case err != nil:
		return err
	case base.Digest != mv.Base.Digest || base.Disk.ID != mv.facts.Disk.ID || base.Disk.Size != mv.Base.Size:
		return PlanMismatch.New(nil, "disk %s: the base's manifest is not that of the run that landed", mv.facts.Disk.Name)
	}
	mv.base, mv.facts.Base = base, mv.Base
	return nil
}

// chooseRanges settles the mode and returns the blocks that the run covers.
func (mv *move) chooseRanges(ctx context.Context) ([]staging.Range, error) {
	if mv.base == nil {
		return mv.chooseAllocated(ctx)
	}
	compare := func(reason string) ([]staging.Range, error) {
		mv.facts.Mode, mv.facts.Reason = staging.Comparing, reason
		return mv.wholeDisk(), nil
	}
	switch {
	case mv.Base.ChangeID == "":
		return compare("the base has no change ID")
	case mv.Base.Size != mv.facts.Disk.Size:
		return compare("the disk has grown")
	}
	ranges, err := mv.changed(ctx, hypervisor.ChangeID(mv.Base.ChangeID))
	if tracking, ok := hypervisor.TrackingUnusable(err); ok {
		return compare(tracking.Error())
	}
	if err != nil {
		return nil, err
	}
	mv.facts.Mode, mv.facts.Reason = staging.Incremental, ""
	lie, err := mv.sample(ctx, ranges)
	if err != nil {
		return nil, err
	}
	if lie >= 0 {
		return mv.distrust(&mv.facts, lie), nil
	}
	return ranges, nil
}

// chooseAllocated returns the blocks of a run without a base: those that the
// source calls allocated. A few of the others are read, to see that they are
// zero; the run reads the whole disk when one is not.
func (mv *move) chooseAllocated(ctx context.Context) ([]staging.Range, error) {
	ranges, err := mv.changed(ctx, "")
	if tracking, ok := hypervisor.TrackingUnusable(err); ok {
		mv.log.WithError(tracking).Info("allocated extents are not known; the whole disk is read")
		return mv.wholeDisk(), nil
	}
	if err != nil {
		return nil, err
	}
	lie, err := mv.sample(ctx, ranges)
	if err != nil {
		return nil, err
	}
	if lie >= 0 {
		return mv.distrust(&mv.facts, lie), nil
	}
	return ranges, nil
}

// distrust is for a source that was caught: it named block neither changed nor
// allocated, and it is other than it was. The run reads the whole disk, and
// facts say why.
func (mv *move) distrust(facts *staging.Facts, block int64) []staging.Range {
	log := mv.log.WithField("block", block)
	if facts.Base == nil {
		facts.Reason += fmt.Sprintf("; the source lied about what is allocated: block %d is not zero", block)
		log.Warn("the source lied about what is allocated; the whole disk is read")
	} else {
		facts.Mode = staging.Comparing
		facts.Reason = fmt.Sprintf("change tracking lied: block %d changed, and it did not say so", block)
		log.Warn("change tracking lied; the whole disk is read and compared")
	}
	return mv.wholeDisk()
}

func (mv *move) wholeDisk() []staging.Range {
	return []staging.Range{{First: 0, Count: staging.Blocks(mv.facts.Disk.Size)}}
}

// changed returns the blocks that the source names, coalesced so that memory
// stays bounded however many extents there are.
func (mv *move) changed(ctx context.Context, since hypervisor.ChangeID) ([]staging.Range, error) {
	var ranges []staging.Range
	end := int64(0)
	err := mv.Disk.Changed(ctx, since, func(e hypervisor.Extent) error {
		if e.Offset < end || e.Length <= 0 || e.Length > mv.facts.Disk.Size-e.Offset {
			return fmt.Errorf("the source named %d bytes at %d after offset %d of a disk of %d bytes", e.Length, e.Offset, end, mv.facts.Disk.Size)
		}
		end = e.End()
		first := e.Offset / staging.BlockSize
		last := (end - 1) / staging.BlockSize
		if k := len(ranges); k > 0 && first <= ranges[k-1].First+ranges[k-1].Count {
			ranges[k-1].Count = last + 1 - ranges[k-1].First
			return nil
		}
		if len(ranges) == 2*staging.MaxRanges {
			ranges = staging.Coalesce(ranges, staging.MaxRanges)
		}
		ranges = append(ranges, staging.Range{First: first, Count: last + 1 - first})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask what changed on disk %s: %w", mv.facts.Disk.Name, err)
	}
	return ranges, nil
}

// seal writes the manifest, or finds the one that another attempt wrote.
func (mv *move) seal(ctx context.Context) (*staging.Manifest, staging.Hash, error) {
	m := &staging.Manifest{
		Facts: mv.plan.Facts, Plan: mv.planSum, Counters: mv.progress.counters(), Software: mv.mover.software,
		Sealed: mv.mover.now().UTC(), Segments: mv.segments.ranges(),
	}
	if err := mv.blocks.fill(m); err != nil {
		return nil, staging.Hash{}, err
	}
	var err error
	if m.Digest, err = m.ComputeDigest(); err != nil {
		return nil, staging.Hash{}, err
	}
	var p bytes.Buffer
	if err := m.Encode(&p); err != nil {
		return nil, staging.Hash{}, err
	}
	err = mv.Store.Create(ctx, m.Place().Manifest(), p.Bytes())
	if errors.Is(err, staging.ErrExists) {
		return mv.sealed(ctx, m.Digest)
	}
	if err != nil {
		return nil, staging.Hash{}, fmt.Errorf("store the manifest: %w", err)
	}
	mv.progress.Stored.Add(int64(p.Len()))
	// Read back: what is reported as sealed is what lies there.
	return mv.sealed(ctx, m.Digest)
}

// sealed reads the manifest that lies in staging and checks that it is of this
// run's snapshot and, unless zero, of this digest.
func (mv *move) sealed(ctx context.Context, digest staging.Hash) (*staging.Manifest, staging.Hash, error) {
	m, sum, err := staging.ReadManifest(ctx, mv.Store, mv.facts.Place())
	if err != nil {
		return nil, staging.Hash{}, err
	}
	if m.Snapshot.ID != mv.facts.Snapshot.ID || !digest.IsZero() && m.Digest != digest {
		return nil, staging.Hash{}, PlanMismatch.New(nil, "disk %s: another attempt sealed other bytes (digest %s, snapshot %s)", mv.facts.Disk.Name, m.Digest, m.Snapshot.ID)
	}
	return m, sum, nil
}
