package stagingtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"skylift/staging"
)

// Op names a method of the store to a Fault.
type Op string

// The store's methods, and Read for every read of what Get has opened.
const (
	Put    Op = "put"
	Create Op = "create"
	Get    Op = "get"
	Read   Op = "read"
	List   Op = "list"
	Delete Op = "delete"
)

// Fault is asked before each call; its error is the call's. key is the call's
// key or prefix; a Delete asks for each of its keys. It may be called at once
// from many goroutines, may block, and must not call the store.
type Fault func(op Op, key string) error

// Memory is a staging.Store in memory, for tests. It keeps the contract to the
// letter: bytes are copied both ways, a listing is a snapshot in ascending
// order, and a reader goes on with what was there when it was opened.
type Memory struct {
	mu      sync.Mutex
	objects map[string][]byte // contents are never changed, only replaced
	fault   Fault
}

var _ staging.Store = (*Memory)(nil)

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{objects: map[string][]byte{}} }

// SetFault sets what is asked before each call; nil ends it.
func (m *Memory) SetFault(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// Keys returns the keys of all objects in ascending order.
func (m *Memory) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]string, 0, len(m.objects))
	for key := range m.objects {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// begin checks what every call checks.
func (m *Memory) begin(ctx context.Context, op Op, key string) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", op, key, err)
	}
	m.mu.Lock()
	fault := m.fault
	m.mu.Unlock()
	if fault == nil {
		return nil
	}
	if err := fault(op, key); err != nil {
		return fmt.Errorf("%s %s: %w", op, key, err)
	}
	return nil
}

// Put implements staging.Store.
func (m *Memory) Put(ctx context.Context, key string, p []byte) error {
	if err := m.begin(ctx, Put, key); err != nil {
		return err
	}
	return m.store(Put, key, p)
}

// Create implements staging.Store.
func (m *Memory) Create(ctx context.Context, key string, p []byte) error {
	if err := m.begin(ctx, Create, key); err != nil {
		return err
	}
	return m.store(Create, key, p)
}

func (m *Memory) store(op Op, key string, p []byte) error {
	if key == "" {
		return fmt.Errorf("%s: the key is empty", op)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.objects[key]; there && op == Create {
		return fmt.Errorf("%s %s: %w", op, key, staging.ErrExists)
	}
	m.objects[key] = bytes.Clone(p)
	return nil
}

// Get implements staging.Store.
func (m *Memory) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := m.begin(ctx, Get, key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("%s %s: the offset %d is negative", Get, key, off)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, there := m.objects[key]
	if !there {
		return nil, fmt.Errorf("%s %s: %w", Get, key, staging.ErrNotFound)
	}
	p = p[min(off, int64(len(p))):]
	if n >= 0 {
		p = p[:min(n, int64(len(p)))]
	}
	return &reader{ctx: ctx, store: m, key: key, left: p}, nil
}

type reader struct {
	ctx    context.Context // Get's, which governs the reads
	store  *Memory
	key    string
	left   []byte
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errors.New("stagingtest: read after close")
	}
	if err := r.store.begin(r.ctx, Read, r.key); err != nil {
		return 0, err
	}
	if len(r.left) == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.closed = true
	return nil
}

// List implements staging.Store. emit may call the store.
func (m *Memory) List(ctx context.Context, prefix string, emit func(staging.Object) error) error {
	if err := m.begin(ctx, List, prefix); err != nil {
		return err
	}
	for _, o := range m.snapshot(prefix) {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("%s %s: %w", List, prefix, err)
		}
		if err := emit(o); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) snapshot(prefix string) []staging.Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []staging.Object
	for key, p := range m.objects {
		if strings.HasPrefix(key, prefix) {
			list = append(list, staging.Object{Key: key, Size: int64(len(p))})
		}
	}
	slices.SortFunc(list, func(a, b staging.Object) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// Delete implements staging.Store. A key that a fault keeps does not keep the others.
func (m *Memory) Delete(ctx context.Context, keys []string) error {
	var errs []error
	for _, key := range keys {
		if err := m.begin(ctx, Delete, key); err != nil {
			errs = append(errs, err)
			continue
		}
		m.mu.Lock()
		delete(m.objects, key)
		m.mu.Unlock()
	}
	return errors.Join(errs...)
}
