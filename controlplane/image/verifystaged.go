package image

import (
	"context"
	"errors"
	"sync"

	"skylift/staging"
)

// maxFaults bounds how many faults a StagedResult lists.
const maxFaults = 100

// StagedResult is what VerifyStaged found.
type StagedResult struct {
	Manifest staging.Hash // SHA-256 of the manifest that was read
	Run      *staging.Manifest
	Segments int64 // read
	Blocks   int64 // in them, whose hashes are right
	Bytes    int64 // of them as they are stored
	Faults   []*Fault
	More     int64 // faults that are not listed
}

// OK reports whether the run can be built.
func (r *StagedResult) OK() bool { return len(r.Faults) == 0 }

// VerifyStaged reads all that is staged of one disk of a run and checks that
// an image can be built of it on its base's: every shard of its map is there,
// every block that differs from the base's map has its entry, and all hashes
// are right. Its error says that something could not be read; faults are in
// the result. Which manifest was sealed is not known here: compare
// result.Manifest with what was recorded.
func VerifyStaged(ctx context.Context, store staging.Store, place staging.Place) (StagedResult, error) {
	v := &stagedVerifier{store: store}
	err := v.verify(ctx, place)
	var fault *Fault
	var shard *mapFault
	switch {
	case errors.As(err, &fault):
		_ = v.note(fault)
	case errors.As(err, &shard):
		_ = v.note(&Fault{-1, -1, shard})
	case err != nil:
		return v.result, err
	}
	return v.result, nil
}

type stagedVerifier struct {
	store  staging.Store
	mu     sync.Mutex
	result StagedResult
}

// note takes a fault; the verification goes on.
func (v *stagedVerifier) note(f *Fault) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.result.Faults) < maxFaults {
		v.result.Faults = append(v.result.Faults, f)
	} else {
		v.result.More++
	}
	return nil
}

// verify ends with the fault that leaves nothing more to look at.
func (v *stagedVerifier) verify(ctx context.Context, place staging.Place) error {
	if err := place.Validate(); err != nil {
		return err
	}
	run, sum, err := staging.ReadManifest(ctx, v.store, place)
	if err != nil && isDamage(err) {
		return &Fault{-1, -1, err}
	}
	if err != nil {
		return err
	}
	v.result.Run, v.result.Manifest = run, sum
	shards := &cursor{store: v.store, m: run}
	for _, ref := range run.Shards {
		_, err := shards.at(ctx, ref.N*staging.ShardBlocks)
		if shard := (*mapFault)(nil); errors.As(err, &shard) {
			err = v.note(&Fault{-1, ref.N * staging.ShardBlocks, shard})
		}
		if err != nil {
			return err
		}
	}
	if len(v.result.Faults) > 0 {
		return nil // without the map nothing else can be said
	}
	base, err := loadBase(ctx, v.store, run)
	if err != nil {
		return err
	}
	s, err := openStaged(ctx, v.store, run, base)
	if err != nil {
		return err
	}
	a := applier{staged: s, parallel: defaultParallel, refuse: v.note, segment: func(blocks, bytes int64) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.result.Segments++
		v.result.Blocks += blocks
		v.result.Bytes += bytes
	}}
	return a.apply(ctx)
}
