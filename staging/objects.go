package staging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
)

// ReadPlan reads and checks the plan of a place and returns the SHA-256 of its
// stored bytes. ErrNotFound when there is none.
func ReadPlan(ctx context.Context, store Store, place Place) (*Plan, Hash, error) {
	return read(ctx, store, place.Plan(), func(r io.Reader) (*Plan, error) {
		plan, err := DecodePlan(r)
		if err == nil && plan.Place() != place {
			err = bad("plan", ErrMismatch, "it is of %+v", plan.Place())
		}
		return plan, err
	})
}

// ReadManifest reads and checks the manifest of a place and returns the
// SHA-256 of its stored bytes. ErrNotFound when there is none.
func ReadManifest(ctx context.Context, store Store, place Place) (*Manifest, Hash, error) {
	return read(ctx, store, place.Manifest(), func(r io.Reader) (*Manifest, error) {
		m, err := DecodeManifest(r)
		if err == nil && m.Place() != place {
			err = bad("manifest", ErrMismatch, "it is of %+v", m.Place())
		}
		return m, err
	})
}

// read decodes an object and hashes what is stored of it.
func read[T any](ctx context.Context, store Store, key string, decode func(io.Reader) (*T, error)) (*T, Hash, error) {
	body, err := store.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, Hash{}, fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	sum := sha256.New()
	v, err := decode(io.TeeReader(body, sum))
	if err != nil {
		return nil, Hash{}, fmt.Errorf("read %s: %w", key, err)
	}
	return v, Hash(sum.Sum(nil)), nil
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
