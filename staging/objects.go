package staging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
)

// ReadPlan reads and checks the plan of a place; ErrNotFound when there is none.
func ReadPlan(ctx context.Context, store Store, place Place) (*Plan, error) {
	body, err := store.Get(ctx, place.Plan(), 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", place.Plan(), err)
	}
	defer body.Close()
	plan, err := DecodePlan(body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", place.Plan(), err)
	}
	if plan.Place() != place {
		return nil, fmt.Errorf("read %s: %w", place.Plan(), bad("plan", ErrMismatch, "it is of %+v", plan.Place()))
	}
	return plan, nil
}

// ReadManifest reads and checks the manifest of a place and returns the
// SHA-256 of its stored bytes. ErrNotFound when there is none.
func ReadManifest(ctx context.Context, store Store, place Place) (*Manifest, Hash, error) {
	body, err := store.Get(ctx, place.Manifest(), 0, -1)
	if err != nil {
		return nil, Hash{}, fmt.Errorf("read %s: %w", place.Manifest(), err)
	}
	defer body.Close()
	sum := sha256.New()
	tee := io.TeeReader(body, sum)
	m, err := DecodeManifest(tee)
	if err == nil && m.Place() != place {
		err = bad("manifest", ErrMismatch, "it is of %+v", m.Place())
	}
	if err != nil {
		return nil, Hash{}, fmt.Errorf("read %s: %w", place.Manifest(), err)
	}
	return m, Hash(sum.Sum(nil)), nil
}

// ReadSealed is ReadManifest for a manifest whose stored bytes were recorded
// to have the hash want: any other is refused.
func ReadSealed(ctx context.Context, store Store, place Place, want Hash) (*Manifest, error) {
	m, got, err := ReadManifest(ctx, store, place)
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, fmt.Errorf("read %s: %w", place.Manifest(),
			bad("manifest", ErrMismatch, "it is not the one that was sealed: its SHA-256 is %s, not %s", got, want))
	}
	return m, nil
}

// EncodeObject returns an object's stored bytes.
func EncodeObject(object interface{ Encode(io.Writer) error }) ([]byte, error) {
	var p bytes.Buffer
	if err := object.Encode(&p); err != nil {
		return nil, err
	}
	return p.Bytes(), nil
}
