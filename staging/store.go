package staging

import (
	"context"
	"errors"
	"io"
)

// Store is what the format needs of an object store. Objects are written
// whole or not at all, can be read as soon as Put has returned, and are then
// in every listing. Package bucket keeps this contract on S3 and probes that
// a server does.
//
// Methods may be called at once from many goroutines. Each retries by itself
// within one budget; an error is final. Keys are relative to the staging
// prefix.
type Store interface {
	// Put stores p under key and replaces what was there. The store has
	// verified a checksum of the bytes when it returns. p is not kept.
	Put(ctx context.Context, key string, p []byte) error
	// Create is Put for a key that must not exist yet: ErrExists if it does.
	// On a store without conditional writes it looks before it writes, which
	// two writers can pass together; the control plane's record of what was
	// sealed decides then.
	Create(ctx context.Context, key string, p []byte) error
	// Get opens n bytes at off of an object; n < 0 stands for all that
	// follows. ErrNotFound when there is none. A range that reaches past the
	// end is cut there. A stream that breaks is an error of Read, never an
	// early io.EOF.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	// List emits the objects whose keys begin with prefix in ascending order
	// of their keys, one call at a time, until emit errs.
	List(ctx context.Context, prefix string, emit func(Object) error) error
	// Delete removes objects, all their versions where the store keeps some.
	// Missing ones are no error.
	Delete(ctx context.Context, keys []string) error
}

// Object is one entry of a listing.
type Object struct {
	Key  string
	Size int64
}

// What a Store's errors can be told apart by.
var (
	ErrNotFound = errors.New("staging: no such object")
	ErrExists   = errors.New("staging: the object exists already")
)
