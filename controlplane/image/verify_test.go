package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"skylift/staging"
	"skylift/staging/stagingtest"
)

// imageFile makes a sparse file of what the guest had.
func imageFile(t *testing.T, run staged1) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.raw"))
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	for b, p := range run.blocks {
		_, err := f.WriteAt(p[:min(blockSize, run.m.Disk.Size-b*blockSize)], b*blockSize)
		must(t, err)
	}
	must(t, f.Truncate(run.m.Disk.Size))
	return f
}

func TestVerifyImageFindsEveryDifference(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		harm   func(t *testing.T, f *os.File)
		size   int64
		ranges []staging.Range
	}{
		"none": {func(*testing.T, *os.File) {}, 0, nil},
		"a bit in three blocks, two of them neighbors": {func(t *testing.T, f *os.File) {
			must(t, scribble(f.Name(), 5*blockSize))
			must(t, scribble(f.Name(), 7*blockSize-1))
			must(t, scribble(f.Name(), 0))
		}, 0, []staging.Range{{First: 0, Count: 1}, {First: 5, Count: 2}}},
		"data in a hole":        {func(t *testing.T, f *os.File) { must(t, scribble(f.Name(), 12*blockSize+77)) }, 0, []staging.Range{{First: 12, Count: 1}}},
		"a hole in data":        {func(t *testing.T, f *os.File) { must(t, (&rawFile{f, 1 << 40}).put(3, nil)) }, 0, []staging.Range{{First: 3, Count: 1}}},
		"the last byte":         {func(t *testing.T, f *os.File) { must(t, scribble(f.Name(), 20*blockSize-101)) }, 0, []staging.Range{{First: 19, Count: 1}}},
		"a missing end of data": {func(t *testing.T, f *os.File) { must(t, f.Truncate(18*blockSize)) }, 18 * blockSize, []staging.Range{{First: 19, Count: 1}}},
		"more than there was":   {func(t *testing.T, f *os.File) { must(t, f.Truncate(21*blockSize)) }, 21 * blockSize, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, stagingtest.NewMemory(), "disk", 20*blockSize-100, 15)
			for b := range int64(10) {
				g.write(b)
			}
			g.write(19)
			run := g.stage()
			f := imageFile(t, run)
			test.harm(t, f)
			size := g.size
			if test.size != 0 {
				size = test.size
			}
			var done int64
			result, err := VerifyImage(t.Context(), f, size, run.m, g.store, func(n int64) { done += n })
			must(t, err)
			content, err := os.ReadFile(f.Name())
			must(t, err)
			plain, err := VerifyImage(t.Context(), bytes.NewReader(content), size, run.m, g.store, nil)
			must(t, err)
			for _, r := range []Result{result, plain} {
				var differing int64
				for i, want := range test.ranges {
					differing += want.Count
					if i >= len(r.Ranges) || r.Ranges[i] != want {
						t.Fatalf("it finds %v", r.Ranges)
					}
				}
				ok := test.ranges == nil && size == g.size
				if r.Differing != differing || r.OK() != ok || (r.Err() == nil) != ok || r.Blocks != 20 {
					t.Errorf("it finds %+v", r)
				}
			}
			if done != g.size {
				t.Errorf("it was done with %d bytes of %d", done, g.size)
			}
		})
	}
}

func TestVerifyImageBoundsItsListAndReadsNoHoles(t *testing.T) {
	t.Parallel()
	const size = 3*staging.ShardSize + 5*blockSize
	g := newGuest(t, stagingtest.NewMemory(), "disk", size, 16)
	g.write(2500)
	run := g.stage()
	f := imageFile(t, run)
	result, err := VerifyImage(t.Context(), f, size, run.m, g.store, nil)
	if err != nil || !result.OK() || result.Blocks != staging.Blocks(size) {
		t.Fatalf("it finds %+v: %v", result, err)
	}
	for b := int64(0); b < 600; b += 2 {
		must(t, scribble(f.Name(), b*blockSize))
	}
	result, err = VerifyImage(t.Context(), f, size, run.m, g.store, nil)
	if err != nil || result.Differing != 300 || len(result.Ranges) != maxRanges {
		t.Errorf("it counts %d and lists %d: %v", result.Differing, len(result.Ranges), err)
	}
}

func TestVerifyImageTellsWhatItCannotReadFromADifference(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 4*blockSize, 17)
	g.write(1)
	run := g.stage()
	f := imageFile(t, run)
	none := errors.New("no answer")
	g.store.SetFault(func(stagingtest.Op, string) error { return none })
	if _, err := VerifyImage(t.Context(), f, g.size, run.m, g.store, nil); !errors.Is(err, none) {
		t.Errorf("without the map it says %v", err)
	}
	g.store.SetFault(nil)
	if _, err := VerifyImage(t.Context(), bytes.NewReader(nil), g.size, run.m, g.store, nil); err == nil {
		t.Error("an image that cannot be read is compared")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := VerifyImage(ctx, f, g.size, run.m, g.store, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel it says %v", err)
	}
}
