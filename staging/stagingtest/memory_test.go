package stagingtest

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"skylift/staging"
)

func TestTheMemoryStoreKeepsTheContract(t *testing.T) { TestStore(t, NewMemory()) }

func TestAFaultIsTheCallsError(t *testing.T) {
	m := NewMemory()
	ctx := t.Context()
	if err := errors.Join(m.Put(ctx, "a", []byte("x")), m.Put(ctx, "b", nil)); err != nil {
		t.Fatal(err)
	}
	r, err := m.Get(ctx, "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	broken := errors.New("broken")
	var asked []Op
	m.SetFault(func(op Op, key string) error {
		asked = append(asked, op)
		if key == "b" {
			return nil
		}
		return broken
	})
	_, getErr := m.Get(ctx, "a", 0, -1)
	_, readErr := r.Read(make([]byte, 1))
	for _, err := range []error{
		m.Put(ctx, "a", nil), m.Create(ctx, "c", nil), getErr, readErr,
		m.List(ctx, "", func(staging.Object) error { return nil }), m.Delete(ctx, []string{"a", "b"}),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	if want := []Op{Get, Read, Put, Create, List, Delete, Delete}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
	m.SetFault(nil)
	if keys := m.Keys(); !slices.Equal(keys, []string{"a"}) {
		t.Errorf("left %v: a fault keeps its own key only", keys)
	}
	if p, err := io.ReadAll(r); err != nil || string(p) != "x" {
		t.Errorf("the reader after the fault: %q, %v", p, err)
	}
}

func TestACanceledReaderStops(t *testing.T) {
	m := NewMemory()
	if err := m.Put(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := m.Get(ctx, "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
