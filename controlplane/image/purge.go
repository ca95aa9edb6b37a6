package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"skylift/controlplane/replication"
	"skylift/staging"
)

// Purger clears staging.
type Purger struct{ Store staging.Store }

var _ replication.Purger = (*Purger)(nil)

// purgeBatch is how many objects are deleted at once.
const purgeBatch = 1000

// purgePasses bounds how often a prefix is listed again because the last
// listing still had something to delete.
const purgePasses = 5

// Purge removes the data and the state of dead runs, except the map shards
// that manifests of living disks refer to. Data goes first; unless every
// living manifest can be read, no state goes.
func (p *Purger) Purge(ctx context.Context, r replication.PurgeRequest) (left []string, err error) {
	if err := checkPurge(r); err != nil {
		return nil, err
	}
	for _, d := range r.Dead {
		if !d.Data {
			continue
		}
		if _, err := p.clear(ctx, staging.DataPrefix(r.Job, d.Run), nil); err != nil {
			return nil, fmt.Errorf("clear the data of run %s: %w", d.Run, err)
		}
	}
	if !slices.ContainsFunc(r.Dead, func(d replication.DeadRun) bool { return d.State }) {
		return nil, nil
	}
	kept, err := p.referred(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, d := range r.Dead {
		if !d.State {
			continue
		}
		some, err := p.clear(ctx, staging.StatePrefix(r.Job, d.Run), kept)
		if err != nil {
			return nil, fmt.Errorf("clear the state of run %s: %w", d.Run, err)
		}
		if some {
			left = append(left, d.Run)
		}
	}
	return left, nil
}

// checkPurge refuses a request that could take what is needed.
func checkPurge(r replication.PurgeRequest) error {
	for _, d := range r.Dead {
		if err := checkNames(r.Job, d.Run); err != nil {
			return err
		}
		if d.State && slices.ContainsFunc(r.Live, func(l replication.LiveDisk) bool { return l.Run == d.Run }) {
			return fmt.Errorf("clear staging of job %s: run %s is named both dead and living", r.Job, d.Run)
		}
	}
	return nil
}

// referred returns the keys of the shards that living manifests find in dead
// runs. One manifest at a time is in memory.
func (p *Purger) referred(ctx context.Context, r replication.PurgeRequest) (map[string]bool, error) {
	dead, kept := map[string]bool{}, map[string]bool{}
	for _, d := range r.Dead {
		dead[d.Run] = d.State
	}
	for _, l := range r.Live {
		place := staging.Place{Job: r.Job, Run: l.Run, Disk: l.Key}
		if err := place.Validate(); err != nil {
			return nil, err
		}
		if len(l.ManifestSHA256) != len(staging.Hash{}) {
			return nil, fmt.Errorf("a manifest's hash of %d bytes is recorded for run %s", len(l.ManifestSHA256), l.Run)
		}
		m, err := staging.ReadSealed(ctx, p.Store, place, staging.Hash(l.ManifestSHA256))
		if err != nil {
			return nil, fmt.Errorf("see what run %s still needs: %w", l.Run, err)
		}
		for _, ref := range m.Shards {
			if place.Run = m.Holder(ref); dead[place.Run] {
				kept[place.Map(ref.N, ref.Sum)] = true
			}
		}
	}
	return kept, nil
}

// clear deletes what is under prefix but for what is kept, and tells whether
// anything was. It is done when a listing has nothing more to delete: one that
// objects are deleted from as it goes on may skip some.
func (p *Purger) clear(ctx context.Context, prefix string, kept map[string]bool) (some bool, err error) {
	for range purgePasses {
		deleted := false
		some, deleted, err = p.pass(ctx, prefix, kept)
		if err != nil || !deleted {
			return some, err
		}
	}
	return some, errors.New("objects are still listed after they were deleted, or somebody writes there")
}

func (p *Purger) pass(ctx context.Context, prefix string, kept map[string]bool) (some, deleted bool, err error) {
	batch := make([]string, 0, purgeBatch)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := p.Store.Delete(ctx, batch)
		batch, deleted = batch[:0], true
		return err
	}
	err = p.Store.List(ctx, prefix, func(o staging.Object) error {
		if kept[o.Key] {
			some = true
			return nil
		}
		if batch = append(batch, o.Key); len(batch) == purgeBatch {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return some, deleted, err
}
