package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/controlplane/replication"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

const (
	mib       = 1 << 20
	blockSize = staging.BlockSize
	testJob   = "sms-job-1"
)

// guest is a disk that is written to, and staged run by run as the format says.
type guest struct {
	t      testing.TB
	rng    *rand.Rand
	fill   *rand.ChaCha8
	store  *stagingtest.Memory
	id     string
	size   int64
	blocks map[int64][]byte // those that are not zero, padded to BlockSize
	runs   []staged1
	zstd   bool
}

// staged1 is one run of a guest.
type staged1 struct {
	m      *staging.Manifest
	sum    staging.Hash
	blocks map[int64][]byte
	hashes map[int64]staging.Hash
}

func newGuest(t testing.TB, store *stagingtest.Memory, id string, size int64, seed uint64) *guest {
	fill := rand.NewChaCha8([32]byte{byte(seed), 1})
	return &guest{t: t, rng: rand.New(fill), fill: fill, store: store, id: id, size: size, blocks: map[int64][]byte{}}
}

// write fills a block with random bytes, as far as the disk reaches.
func (g *guest) write(block int64) {
	p := make([]byte, blockSize)
	_, _ = g.fill.Read(p[:min(blockSize, g.size-block*blockSize)])
	g.blocks[block] = p
}

func (g *guest) zero(block int64) { delete(g.blocks, block) }

// live lets the guest write and zero a few blocks.
func (g *guest) live() {
	for range 1 + g.rng.IntN(12) {
		b := g.rng.Int64N(staging.Blocks(g.size))
		if g.rng.IntN(4) == 0 {
			g.zero(b)
		} else {
			g.write(b)
		}
	}
}

func (g *guest) last() *staged1 {
	if len(g.runs) == 0 {
		return nil
	}
	return &g.runs[len(g.runs)-1]
}

// stage stages the disk as it is now as a run on top of the last, and reads
// more blocks than changed.
func (g *guest) stage() staged1 { return g.stageOn(g.last()) }

func (g *guest) stageOn(base *staged1) staged1 {
	g.t.Helper()
	run := staged1{blocks: map[int64][]byte{}, hashes: map[int64]staging.Hash{}}
	f := staging.Facts{Job: testJob, Run: fmt.Sprintf("sms-run-%04x", len(g.runs)+1), Mode: staging.Full,
		Disk:     staging.Disk{ID: g.id, Name: "Hard disk 1", Size: g.size},
		Snapshot: staging.Snapshot{ID: "snapshot-1", Created: time.Unix(1e9, 0).UTC(), Consistency: "crash"}}
	was := map[int64]staging.Hash{}
	if base != nil {
		f.Mode, was = staging.Incremental, base.hashes
		f.Base = &staging.Base{Run: base.m.Run, Manifest: base.sum, Digest: base.m.Digest, Size: base.m.Disk.Size}
	}
	var ranges []staging.Range
	for b := range staging.Blocks(g.size) {
		if p, ok := g.blocks[b]; ok {
			run.blocks[b], run.hashes[b] = p, sha256.Sum256(p)
		}
		if run.hashes[b] != was[b] || g.rng.IntN(10) == 0 {
			ranges = append(ranges, staging.Range{First: b, Count: 1})
		}
	}
	plan, err := staging.NewPlan(f, ranges)
	g.check(err)
	stored := g.encode(plan)
	g.put(plan.Place().Plan(), stored)
	run.m = &staging.Manifest{Facts: plan.Facts, Plan: sha256.Sum256(stored), Software: "test", Sealed: time.Unix(1e9, 0).UTC()}
	for n := range plan.Segments() {
		if g.segment(plan, run, n, was) {
			run.m.Segments = append(run.m.Segments, staging.Range{First: n, Count: 1})
		}
	}
	run.m.Segments = staging.Coalesce(run.m.Segments, staging.MaxBlocks)
	g.shards(&run, was, base)
	run.m.Digest, err = run.m.ComputeDigest()
	g.check(err)
	g.seal(&run)
	g.runs = append(g.runs, run)
	return run
}

func (g *guest) segment(plan *staging.Plan, run staged1, n int64, was map[int64]staging.Hash) bool {
	w := g.writer()
	for r := range plan.Slice(n) {
		for b := r.First; b < r.First+r.Count; b++ {
			if run.hashes[b] != was[b] {
				g.check(w.Add(b, run.hashes[b], run.blocks[b]))
				run.m.Counters.Changed += blockSize
			}
		}
	}
	if w.Len() > 0 {
		g.put(plan.Place().Segment(n), w.Bytes(run.m.SegmentID(n)))
	}
	return w.Len() > 0
}

func (g *guest) writer() *staging.SegmentWriter {
	if !g.zstd {
		return staging.NewSegmentWriter(staging.SegmentBlocks, nil, nil)
	}
	encoder, err := staging.NewEncoder(1)
	g.check(err)
	return staging.NewSegmentWriter(staging.SegmentBlocks, encoder, nil)
}

// shards stores the shards that changed and refers to the base's for the rest.
func (g *guest) shards(run *staged1, was map[int64]staging.Hash, base *staged1) {
	for n := range staging.Shards(g.size) {
		var now, before staging.Shard
		for i := range now {
			b := n*staging.ShardBlocks + int64(i)
			now[i], before[i] = run.hashes[b], was[b]
		}
		sum := now.Sum()
		switch {
		case now != before && !sum.IsZero():
			g.put(run.m.Place().Map(n, sum), now.Encode(n))
			run.m.AddShard(n, sum, run.m.Run)
		case base != nil && now == before:
			if ref, ok := base.m.Shard(n); ok {
				run.m.AddShard(n, ref.Sum, base.m.Holder(ref))
			}
		}
	}
}

func (g *guest) seal(run *staged1) {
	p := g.encode(run.m)
	run.sum = sha256.Sum256(p)
	g.put(run.m.Place().Manifest(), p)
}

func (g *guest) encode(o interface{ Encode(io.Writer) error }) []byte {
	p, err := staging.EncodeObject(o)
	g.check(err)
	return p
}

func (g *guest) put(key string, p []byte) { g.check(g.store.Put(context.Background(), key, p)) }

func (g *guest) get(key string) []byte {
	body, err := g.store.Get(context.Background(), key, 0, -1)
	g.check(err)
	p, err := io.ReadAll(body)
	g.check(err)
	return p
}

func (g *guest) drop(key string) {
	g.check(g.store.Delete(context.Background(), []string{key}))
}

// spoil flips a bit of an object, at off bytes from its start or, below zero, its end.
func (g *guest) spoil(key string, off int) {
	p := g.get(key)
	if off < 0 {
		off += len(p)
	}
	p[off] ^= 1
	g.put(key, p)
}

func (g *guest) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// sealedDisk is what the control plane has recorded of a run.
func sealedDisk(run staged1) replication.BuildDisk {
	m := run.m
	d := replication.BuildDisk{SealedDisk: replication.SealedDisk{
		Disk: m.Disk.ID, Key: m.Place().Disk, Name: m.Disk.Name, Position: m.Disk.Position, Size: m.Disk.Size,
		ManifestSHA256: run.sum[:], Digest: m.Digest[:],
	}}
	if m.Base != nil {
		d.BaseRun, d.BaseDigest, d.BaseImage = m.Base.Run, m.Base.Digest[:], "the base's file"
	}
	return d
}

func request(runs ...staged1) replication.BuildRequest {
	r := replication.BuildRequest{Job: testJob, Run: runs[0].m.Run, Attempt: 1, Server: "s-0001", ServerName: "web 01/a"}
	for _, run := range runs {
		r.Disks = append(r.Disks, sealedDisk(run))
	}
	return r
}

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func newLocal(t testing.TB, dir string, store staging.Store, o Options) *Local {
	t.Helper()
	o.Log = quiet()
	l, err := NewLocal(dir, store, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// build builds a run and holds every byte of its image against the guest's.
func build(t testing.TB, l *Local, runs ...staged1) replication.Built {
	t.Helper()
	last := 0
	built, err := l.Build(t.Context(), request(runs...), func(p int) {
		if p <= last {
			t.Errorf("the progress goes from %d to %d", last, p)
		}
		last = p
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, run := range runs {
		if built.Disks[i].Disk != run.m.Disk.ID || !bytes.Equal(built.Disks[i].Digest, run.m.Digest[:]) {
			t.Errorf("built %+v of disk %s, whose digest is %s", built.Disks[i], run.m.Disk.ID, run.m.Digest)
		}
		compare(t, built.Disks[i].Image, run)
	}
	clean(t, l.shelf.dir)
	return built
}

// compare holds a file against what the guest had, byte for byte.
func compare(t testing.TB, path string, run staged1) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != run.m.Disk.Size {
		t.Fatalf("%s has %d bytes instead of %d: %v", path, info.Size(), run.m.Disk.Size, err)
	}
	zeros, p := make([]byte, blockSize), make([]byte, blockSize)
	for b := range staging.Blocks(info.Size()) {
		n, err := f.ReadAt(p, b*blockSize)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		want := run.blocks[b]
		if want == nil {
			want = zeros
		}
		if !bytes.Equal(p[:n], want[:n]) {
			t.Fatalf("block %d of %s is not what the guest wrote", b, path)
		}
	}
}

// clean errs unless the working folder is empty.
func clean(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, workName))
	if err != nil || len(entries) > 0 {
		t.Errorf("the working folder holds %v: %v", entries, err)
	}
}

// images returns the images in dir.
func images(t testing.TB, dir string) (ids []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", imagePrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		ids = append(ids, filepath.Base(path))
	}
	slices.Sort(ids)
	return ids
}

// countingStore notes how many keys are deleted at once.
type countingStore struct {
	staging.Store
	batches []int
}

func (c *countingStore) Delete(ctx context.Context, keys []string) error {
	c.batches = append(c.batches, len(keys))
	return c.Store.Delete(ctx, keys)
}

// quickDir is a TempDir in memory where there is one: for tests that make
// hundreds of images, each of which is brought to stable storage.
func quickDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "image-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}
