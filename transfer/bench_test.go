package transfer

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"skylift/hypervisor"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// loopDisk repeats some bytes. Its Read costs nothing.
type loopDisk struct {
	size int64
	loop []byte // whole blocks
}

func (d *loopDisk) Info() hypervisor.DiskInfo {
	return hypervisor.DiskInfo{ID: "6000C29-loop", Name: "Hard disk 1", Size: d.size, RandomAccess: true}
}

func (d *loopDisk) Changed(_ context.Context, _ hypervisor.ChangeID, emit func(hypervisor.Extent) error) error {
	return emit(hypervisor.Extent{Length: d.size})
}

func (d *loopDisk) Read(_ context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	for _, e := range in {
		for off := e.Offset; off < e.End(); off += staging.BlockSize {
			at := off % int64(len(d.loop))
			if err := emit(off, d.loop[at:at+staging.BlockSize], 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// hollowStore keeps everything but segments.
type hollowStore struct{ *stagingtest.Memory }

func (s hollowStore) Put(ctx context.Context, key string, p []byte) error {
	if strings.Contains(key, "/segment-") {
		return nil
	}
	return s.Memory.Put(ctx, key, p)
}

func moveLoop(t testing.TB, m *Mover, d *loopDisk) {
	t.Helper()
	task := taskOf(d, hollowStore{newStore()}, nil)
	task.Compression = Zstd
	if _, err := m.Move(t.Context(), task); err != nil {
		t.Fatal(err)
	}
}

func taskOf(d hypervisor.Disk, store staging.Store, p *Progress) Task {
	return Task{Job: "job", Run: "run", Snapshot: &fakeSnapshot{}, Disk: d, Ref: hypervisor.SnapshotRef{ID: "snapshot-1"}, Store: store, Progress: p}
}

// BenchmarkMove is the pipeline alone: a first run from memory to nowhere.
func BenchmarkMove(b *testing.B) {
	const size, loop = 256 << 20, 8 << 20
	random := make([]byte, loop)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	var text bytes.Buffer
	for rng := rand.New(rand.NewPCG(1, 2)); text.Len() < loop; {
		fmt.Fprintf(&text, "%08d server-%d answered %d in %d ms\n", text.Len(), rng.IntN(50), rng.IntN(5)*100, rng.IntN(1000))
	}
	for name, content := range map[string][]byte{"random": random, "text": text.Bytes()[:loop], "zero": make([]byte, loop)} {
		b.Run(name, func(b *testing.B) {
			m := newMover(b, Config{})
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				moveLoop(b, m, &loopDisk{size, content})
			}
		})
	}
}

// TestBlocksAreMovedWithoutAllocation compares a small and a larger disk. A
// slice costs some things of its own, about one for each block; anything that
// was allocated for each block would double that.
func TestBlocksAreMovedWithoutAllocation(t *testing.T) {
	const few, many = 4, 12 // slices
	content := make([]byte, staging.SegmentBlocks*staging.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	m := newMover(t, Config{Parallel: 2})
	allocations := func(slices int64) float64 {
		d := &loopDisk{slices * staging.SegmentBlocks * staging.BlockSize, content}
		moveLoop(t, m, d) // buffers are made once
		return testing.AllocsPerRun(2, func() { moveLoop(t, m, d) })
	}
	perSlice := (allocations(many) - allocations(few)) / (many - few)
	if perSlice >= 1.5*staging.SegmentBlocks {
		t.Errorf("%.1f allocations for a slice of %d blocks", perSlice, staging.SegmentBlocks)
	}
}
