package try

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"skylift/cmd/internal/controlplaned"
	"skylift/config"
	"skylift/controlplane/image"
	"skylift/controlplane/replication"
	"skylift/internal/need"
	"skylift/internal/simulator/vcenter"
	"skylift/staging"
)

// memoryLimit is what one connector may have resident at its highest.
const memoryLimit = 256 << 20

// memoryLoad says how much the disks hold. Their sizes are always the same:
// 64 TiB, 1 TiB, and eight of 1 GiB.
type memoryLoad struct {
	pieces int   // of 64 KiB each on the 64 TiB disk, one at a time; a quarter of it on that of 1 TiB
	filled int64 // MiB on each of the eight
	again  []string
	limit  time.Duration
}

// TestAHugeDiskAndEightAtOnceFitIntoLittleMemory runs the connector as it is,
// with its default settings. Images of 64 TiB have no place on most file
// systems, so the control plane, the real one too, takes an image for made
// when what was sealed is whole and is what the snapshot held.
func TestAHugeDiskAndEightAtOnceFitIntoLittleMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		need.Missing(t, "memory is measured with /proc, as Linux has it: %v", err)
	}
	load := memoryLoad{pieces: 512, filled: 48, again: []string{"many", "large"}, limit: 5 * time.Minute}
	if os.Getenv("SKYLIFT_SOAK") == "1" {
		// The tracking sample of the huge disk alone is 64 GiB.
		load = memoryLoad{pieces: 16384, filled: 400, again: []string{"many", "large", "huge"}, limit: 40 * time.Minute}
	}
	c := &checker{bases: map[string]*scattered{}, writes: map[string][]int64{}}
	servers := c.servers(load)
	w := newWorld(t, servers, func(s *stack) {
		s.planeSettings["lease"] = "30s"
		delete(s.connSettings, "report-every")
		s.serve = func() (*process, error) { return servePlane(t, s, c.open) }
	})
	c.seen = w.source.seen
	w.must(w.tour.createJobs())
	w.complete("full", 0, load.limit, "huge", "many", "large")

	rng := rand.New(rand.NewPCG(7, 7))
	for _, spec := range servers {
		for i, d := range w.source.sim.VM(spec.Name).Disks() {
			w.must(c.guest(rng, d, spec.Disks[i].UUID))
		}
	}
	for _, s := range w.tour.servers {
		if slices.Contains(load.again, s.name) {
			_, err := w.tour.api.StartOnDemandReplicationRun(w.ctx, s.job, "second run")
			w.must(err)
		}
	}
	w.complete("incremental", 1, load.limit, load.again...)
	w.noSnapshotLeft()
}

// complete waits until the named servers' n-th runs are completed, and
// measures the connector.
func (w *world) complete(kind string, n int, limit time.Duration, names ...string) {
	w.Helper()
	var read int64
	for _, s := range w.tour.servers {
		if !slices.Contains(names, s.name) {
			continue
		}
		w.eventually(s.name+" to be replicated", limit, func() error {
			run, ok, err := w.tour.nthRun(s, n)
			if err != nil || !ok || !ended(run) {
				return fmt.Errorf("it is %s %s %s (%v)", run.State, run.StageDetails.Stage, run.StatusMessage, err)
			}
			if run.State != "COMPLETED" {
				w.Fatalf("the %s run of %s is %s: %s", kind, s.name, run.State, run.StatusMessage)
			}
			for _, d := range run.Disks {
				read += d.ReadBytes
				if d.Kind != kind {
					w.Errorf("the run of %s was %s (%s), not %s", s.name, d.Kind, d.Reason, kind)
				}
			}
			return nil
		})
	}
	peak := w.peak()
	w.note("%s runs of %q: %d MiB read; the connector had %d MiB resident at most", kind, names, read>>20, peak>>20)
	if peak > memoryLimit {
		w.Errorf("the connector had %d MiB resident, more than %d", peak>>20, memoryLimit>>20)
	}
}

// peak is the most memory that the connector has had resident, in bytes.
func (w *world) peak() int64 {
	w.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.stack.conn.pid))
	w.must(err)
	_, rest, _ := strings.Cut(string(p), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		w.Fatalf("no VmHWM in %s: %v", p, err)
	}
	return kib << 10
}

// servePlane runs the control plane in this process, with another maker of images.
func servePlane(t *testing.T, s *stack, images func(staging.Store) (controlplaned.Images, error)) (*process, error) {
	for _, v := range s.env {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	settings, err := config.LoadControlPlane(s.settingsFile("controlplane"), pflag.NewFlagSet("", pflag.ContinueOnError))
	if err != nil {
		return nil, err
	}
	settings.Log.Level = "warning"
	ctx, cancel := context.WithCancel(context.Background())
	plane, err := controlplaned.Open(ctx, settings)
	if err != nil {
		cancel()
		return nil, err
	}
	plane.Images = images
	p := &process{name: "control plane", pid: os.Getpid(), done: make(chan struct{}), signal: func(os.Signal) error { cancel(); return nil }}
	go func() {
		defer close(p.done)
		defer cancel()
		p.err = plane.Serve(ctx)
		if err := plane.Close(); p.err == nil {
			p.err = err
		}
	}()
	return p, nil
}

// checker takes an image for made when it could be: all that was sealed is
// whole in staging, and its block map is that of the frozen disk.
type checker struct {
	store  staging.Store
	seen   *witness
	bases  map[string]*scattered
	writes map[string][]int64 // where guests wrote, by disk
}

func (c *checker) open(store staging.Store) (controlplaned.Images, error) {
	c.store = store
	return c, nil
}

func (c *checker) servers(load memoryLoad) []vcenter.ServerSpec {
	disk := func(name string, size int64, pieces int, length int64) vcenter.DiskSpec {
		c.bases[name] = newScattered(size, pieces, length, uint64(len(c.bases)))
		return vcenter.DiskSpec{UUID: name, Content: vcenter.Over(c.bases[name])}
	}
	many := vcenter.ServerSpec{Name: "many", ChangeTracking: true}
	for i := range 8 {
		many.Disks = append(many.Disks, disk(fmt.Sprintf("many-%d", i), 1<<30, int(load.filled), 1<<20))
	}
	return []vcenter.ServerSpec{
		{Name: "huge", ChangeTracking: true, Disks: []vcenter.DiskSpec{disk("huge", 64<<40, load.pieces, 64<<10)}},
		many,
		{Name: "large", ChangeTracking: true, Disks: []vcenter.DiskSpec{disk("large", 1<<40, load.pieces/4, 64<<10)}},
	}
}

// guest writes here and there.
func (c *checker) guest(rng *rand.Rand, d *vcenter.Disk, name string) error {
	for range 64 {
		at := rng.Int64N(d.Size()/4096) * 4096
		if _, err := d.WriteAt([]byte(fmt.Sprintf("written at %d", at)), at); err != nil {
			return err
		}
		c.writes[name] = append(c.writes[name], at)
	}
	return nil
}

// Build implements replication.Builder.
func (c *checker) Build(ctx context.Context, r replication.BuildRequest, _ func(int)) (replication.Built, error) {
	built := replication.Built{Image: "img-" + r.Run}
	held := c.seen.of(r.Run)
	if held == nil || len(held.Disks) != len(r.Disks) {
		return built, fmt.Errorf("run %s is not of the snapshot that was seen", r.Run)
	}
	for _, d := range r.Disks {
		i := slices.IndexFunc(held.Disks, func(f vcenter.FrozenDisk) bool { return f.UUID == d.Disk })
		if i < 0 {
			return built, fmt.Errorf("the snapshot had no disk %s", d.Disk)
		}
		digest, err := c.check(ctx, staging.Place{Job: r.Job, Run: r.Run, Disk: d.Key}, staging.Hash(d.ManifestSHA256), held.Disks[i])
		if err != nil {
			return built, fmt.Errorf("disk %s: %w", d.Disk, err)
		}
		built.Disks = append(built.Disks, replication.BuiltDisk{Disk: d.Disk, Image: d.Disk, Digest: digest[:]})
	}
	return built, nil
}

// Retire implements replication.Retirer.
func (c *checker) Retire(context.Context, replication.ImageRow) error { return nil }

// check returns the digest of what was sealed.
func (c *checker) check(ctx context.Context, place staging.Place, sum staging.Hash, frozen vcenter.FrozenDisk) (staging.Hash, error) {
	m, err := staging.ReadSealed(ctx, c.store, place, sum)
	if err != nil {
		return staging.Hash{}, err
	}
	staged, err := image.VerifyStaged(ctx, c.store, place)
	if err != nil {
		return staging.Hash{}, err
	}
	if !staged.OK() {
		return staging.Hash{}, fmt.Errorf("%d faults in staging, the first: %w", len(staged.Faults), staged.Faults[0])
	}
	if err := c.compareMap(ctx, m, frozen); err != nil {
		return staging.Hash{}, err
	}
	return m.ComputeDigest()
}

// compareMap holds the block map against the frozen disk: the blocks that can
// hold something are hashed, and all others must be zero in the map.
func (c *checker) compareMap(ctx context.Context, m *staging.Manifest, frozen vcenter.FrozenDisk) error {
	blocks := map[int64]bool{}
	for n := range c.bases[frozen.UUID].pieces {
		e := c.bases[frozen.UUID].extent(n)
		for b := e.Offset / staging.BlockSize; b*staging.BlockSize < e.End(); b++ {
			blocks[b] = true
		}
	}
	for _, at := range c.writes[frozen.UUID] {
		blocks[at/staging.BlockSize] = true
	}
	var shard staging.Shard
	raw := make([]byte, staging.BlockSize)
	for _, ref := range m.Shards {
		if err := m.ReadShard(ctx, c.store, ref.N, &shard); err != nil {
			return err
		}
		for i, sum := range shard {
			b := ref.N*staging.ShardBlocks + int64(i)
			if !blocks[b] {
				if !sum.IsZero() {
					return fmt.Errorf("block %d is zero, and not so in the map", b)
				}
				continue
			}
			delete(blocks, b)
			if err := readAt(frozen, raw, b*staging.BlockSize); err != nil {
				return err
			}
			if want := staging.HashBlock(raw); want != sum {
				return fmt.Errorf("block %d has the hash %s, and %s in the map", b, want, sum)
			}
		}
	}
	for b := range blocks {
		if err := readAt(frozen, raw, b*staging.BlockSize); err != nil {
			return err
		}
		if want := staging.HashBlock(raw); !want.IsZero() {
			return fmt.Errorf("block %d is not zero, and its shard is not in the map", b)
		}
	}
	return nil
}
