package stagingtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"skylift/staging"
)

// TestStore checks that an empty store keeps staging.Store's contract. It
// lists and deletes a few dozen objects at once: a store that works in pages
// or batches is given with smaller ones. It deletes what it has written.
func TestStore(t *testing.T, store staging.Store) {
	t.Helper()
	for _, tt := range []struct {
		name string
		test func(*testing.T, staging.Store)
	}{
		{"put replaces, and does not keep the caller's bytes", putReplaces},
		{"create refuses a key that exists", createRefuses},
		{"ranges are exact and cut at the end", ranges},
		{"a missing object is ErrNotFound", missing},
		{"an empty object is an object", empty},
		{"a listing is ascending, complete and of the prefix alone", listing},
		{"a listing ends with emit's error", listingEnds},
		{"delete takes many keys, and missing ones", deletes},
		{"a canceled context ends every method", canceled},
		{"many goroutines may call at once", concurrent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.test(t, store)
			keys := []string{}
			for _, o := range list(t, store, "") {
				keys = append(keys, o.Key)
			}
			if err := store.Delete(t.Context(), keys); err != nil {
				t.Fatalf("clean up: %v", err)
			}
			if left := list(t, store, ""); len(left) != 0 {
				t.Errorf("still listed after Delete: %v", left)
			}
		})
	}
}

// content makes n bytes that depend on n alone.
func content(n int) []byte {
	p := make([]byte, n)
	r := rand.NewPCG(uint64(n), 1)
	for i := range p {
		p[i] = byte(r.Uint64())
	}
	return p
}

func put(t *testing.T, store staging.Store, key string, p []byte) {
	t.Helper()
	if err := store.Put(t.Context(), key, p); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, store staging.Store, key string, off, n int64) []byte {
	t.Helper()
	r, err := store.Get(t.Context(), key, off, n)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

func list(t *testing.T, store staging.Store, prefix string) []staging.Object {
	t.Helper()
	var found []staging.Object
	err := store.List(t.Context(), prefix, func(o staging.Object) error {
		found = append(found, o)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func putReplaces(t *testing.T, store staging.Store) {
	p := content(1000)
	put(t, store, "dir/a", p)
	clear(p)
	if !bytes.Equal(get(t, store, "dir/a", 0, -1), content(1000)) {
		t.Error("the store holds other bytes than were put")
	}
	put(t, store, "dir/a", content(10))
	if !bytes.Equal(get(t, store, "dir/a", 0, -1), content(10)) {
		t.Error("the object was not replaced")
	}
	if l := list(t, store, "dir/"); !slices.Equal(l, []staging.Object{{Key: "dir/a", Size: 10}}) {
		t.Errorf("listed: %v", l)
	}
}

func createRefuses(t *testing.T, store staging.Store) {
	if err := store.Create(t.Context(), "once", content(7)); err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{content(8), content(7)} {
		if err := store.Create(t.Context(), "once", p); !errors.Is(err, staging.ErrExists) {
			t.Errorf("a second Create: %v", err)
		}
	}
	if !bytes.Equal(get(t, store, "once", 0, -1), content(7)) {
		t.Error("a refused Create changed the object")
	}
	if err := store.Delete(t.Context(), []string{"once"}); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), "once", content(8)); err != nil {
		t.Errorf("Create after Delete: %v", err)
	}
}

func ranges(t *testing.T, store staging.Store) {
	const size = 100_000
	whole := content(size)
	put(t, store, "object", whole)
	for _, tt := range []struct{ off, n int64 }{
		{0, -1}, {0, size}, {0, 1}, {0, 0}, {0, size + 1}, {1, -1}, {size / 2, 1000}, {size - 1, 1}, {size - 1, 2},
		{size - 1, -1}, {size, -1}, {size, 1}, {size + 1, -1}, {size + 1, 1}, {1, math.MaxInt64}, {500, 0},
	} {
		want := whole[min(tt.off, size):]
		if tt.n >= 0 {
			want = want[:min(tt.n, int64(len(want)))]
		}
		if got := get(t, store, "object", tt.off, tt.n); !bytes.Equal(got, want) {
			t.Errorf("%d bytes at %d: got %d bytes, want %d", tt.n, tt.off, len(got), len(want))
		}
	}
	if _, err := store.Get(t.Context(), "object", -1, 1); err == nil {
		t.Error("a negative offset was taken")
	}
	r, err := store.Get(t.Context(), "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close in the middle: %v", err)
	}
	if _, err := r.Read(make([]byte, 10)); err == nil || err == io.EOF {
		t.Errorf("Read after Close: %v", err)
	}
}

func missing(t *testing.T, store staging.Store) {
	put(t, store, "there/object", content(1))
	for _, key := range []string{"missing", "there", "there/object2", "there/objec"} {
		for _, n := range []int64{-1, 0, 1} {
			if _, err := store.Get(t.Context(), key, 0, n); !errors.Is(err, staging.ErrNotFound) {
				t.Errorf("Get of %d bytes of %s: %v", n, key, err)
			}
		}
	}
}

func empty(t *testing.T, store staging.Store) {
	put(t, store, "empty", nil)
	for _, n := range []int64{-1, 0, 1} {
		if got := get(t, store, "empty", 0, n); len(got) != 0 {
			t.Errorf("read %d bytes", len(got))
		}
	}
	if l := list(t, store, "emp"); !slices.Equal(l, []staging.Object{{Key: "empty"}}) {
		t.Errorf("listed: %v", l)
	}
}

func listing(t *testing.T, store staging.Store) {
	const objects = 60
	var want []staging.Object
	var wait sync.WaitGroup
	limit := make(chan struct{}, 16)
	for i := range objects {
		o := staging.Object{Key: fmt.Sprintf("data/job/segment-%d", i), Size: int64(i % 7)}
		want = append(want, o)
		wait.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if err := store.Put(t.Context(), o.Key, content(int(o.Size))); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	put(t, store, "data/job.2/plan", nil)
	put(t, store, "data/jo", nil)
	slices.SortFunc(want, func(a, b staging.Object) int { return strings.Compare(a.Key, b.Key) })
	if got := list(t, store, "data/job/"); !slices.Equal(got, want) {
		t.Errorf("got %d objects, want %d in ascending order", len(got), objects)
	}
	if got := list(t, store, "data/job"); len(got) != objects+1 || got[0].Key != "data/job.2/plan" {
		t.Errorf("a prefix that is not a whole name: %d objects", len(got))
	}
	if got := list(t, store, "data/nothing"); len(got) != 0 {
		t.Errorf("nothing is listed as %v", got)
	}
}

func listingEnds(t *testing.T, store staging.Store) {
	put(t, store, "a", nil)
	put(t, store, "b", nil)
	enough := errors.New("enough")
	calls := 0
	err := store.List(t.Context(), "", func(staging.Object) error {
		calls++
		return enough
	})
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func deletes(t *testing.T, store staging.Store) {
	put(t, store, "a/1", nil)
	put(t, store, "a/2", nil)
	put(t, store, "a/3", nil)
	keys := []string{"a/3", "a/1"}
	for i := range 60 {
		keys = append(keys, fmt.Sprintf("a/missing-%d", i))
	}
	if err := store.Delete(t.Context(), keys); err != nil {
		t.Error(err)
	}
	if l := list(t, store, ""); len(l) != 1 || l[0].Key != "a/2" {
		t.Errorf("left: %v", l)
	}
	if err := store.Delete(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func canceled(t *testing.T, store staging.Store) {
	put(t, store, "object", content(100))
	reason := errors.New("the run was canceled")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := store.Get(ctx, "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel(reason)
	_, getErr := store.Get(ctx, "object", 0, -1)
	for name, err := range map[string]error{
		"Put":    store.Put(ctx, "new", nil),
		"Create": store.Create(ctx, "new", nil),
		"Get":    getErr,
		"List":   store.List(ctx, "", func(staging.Object) error { return nil }),
		"Delete": store.Delete(ctx, []string{"object"}),
	} {
		if !errors.Is(err, reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l := list(t, store, ""); len(l) != 1 {
		t.Errorf("after canceled calls there is %v", l)
	}
}

func concurrent(t *testing.T, store staging.Store) {
	const writers = 8
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			key := fmt.Sprintf("dir/%d", w)
			p := content(50_000 + w)
			if err := store.Put(t.Context(), key, p); err != nil {
				t.Error(err)
				return
			}
			r, err := store.Get(t.Context(), key, 0, -1)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, p) {
				t.Errorf("%s: read back %d bytes, %v", key, len(got), err)
			}
			seen := false
			err = store.List(t.Context(), "dir/", func(o staging.Object) error {
				seen = seen || o == staging.Object{Key: key, Size: int64(len(p))}
				return nil
			})
			if err != nil || !seen {
				t.Errorf("%s is not listed after Put (%v)", key, err)
			}
		})
	}
	wait.Wait()
}
