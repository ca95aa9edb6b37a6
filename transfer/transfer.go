package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	"skylift/staging"
)

// Config sets up a Mover. The zero value of a field takes its default.
type Config struct {
	// Memory bounds the buffers of all Moves together, in bytes: 96 MiB.
	Memory int64
	// Parallel is how many slices of one disk are under way at once: 8.
	Parallel int
	// Bandwidth bounds what is sent: no limit. It is up to the stores to have
	// their connections paced by it; here it is asked whether anything may be
	// sent at all.
	Bandwidth *bandwidth.Limiter
	// Software is written into manifests.
	Software string
	// Now is the clock: time.Now.
	Now func() time.Time
	// Random returns a number from 0 up to, not including, n: the choice of
	// the tracking sample.
	Random func(n int64) int64
	Log    logrus.FieldLogger
}

// Mover moves disks into staging. It bounds the memory of all its Moves.
type Mover struct {
	pool       *pool
	compressor *compressor
	bandwidth  *bandwidth.Limiter
	parallels  int
	software   string
	now        func() time.Time
	random     func(n int64) int64
	log        logrus.FieldLogger
}

// New makes a Mover.
func New(c Config) (*Mover, error) {
	encoder, err := staging.NewEncoder(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, fmt.Errorf("set up compression: %w", err)
	}
	m := &Mover{bandwidth: c.Bandwidth, parallels: c.Parallel, software: c.Software, now: c.Now, random: c.Random, log: c.Log}
	if c.Memory == 0 {
		c.Memory = 96 << 20
	}
	if m.parallels == 0 {
		m.parallels = 8
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.random == nil {
		m.random = rand.Int64N
	}
	if m.log == nil {
		m.log = logrus.StandardLogger()
	}
	if m.bandwidth == nil {
		m.bandwidth = bandwidth.New(bandwidth.Timetable{}, nil)
	}
	m.pool = newPool(c.Memory, encoder)
	m.compressor = newCompressor(runtime.GOMAXPROCS(0), m.parallels, m.bandwidth.Limit)
	return m, nil
}

// Open waits until anything may be sent at all. Who is about to make something
// for a Move that costs others while it waits, asks first.
func (m *Mover) Open(ctx context.Context) error {
	return m.bandwidth.Open(ctx, func(what string) func() { return hypervisor.Waiting(ctx, what) })
}

// Task is one disk of a run.
type Task struct {
	Job, Run string
	Snapshot hypervisor.Snapshot
	Ref      hypervisor.SnapshotRef
	Disk     hypervisor.Disk
	// Base is the disk's last landed run; nil if there is none.
	Base        *staging.Base
	Store       staging.Store
	Compression Compression // Auto by default
	// Progress is counted in while the Move goes on; may be nil.
	Progress *Progress
}

// Sealed is a disk whose manifest is in staging.
type Sealed struct {
	Manifest *staging.Manifest
	// Sum is the SHA-256 of the stored manifest.
	Sum staging.Hash
}

// Move brings the disk into staging, from where an earlier attempt left off
// if there was one, and seals it. It retries nothing: source and store have
// their budgets. Errors are hypervisor.SnapshotGone, PlanMismatch and what
// source and store report; after one, another Move can go on.
func (m *Mover) Move(ctx context.Context, t Task) (Sealed, error) {
	mv := &move{mover: m, Task: t, progress: t.Progress, gate: gated{t.Store, m.bandwidth}}
	mv.Store = mv.gate
	switch t.Compression {
	case "":
		mv.Compression = Auto
	case Zstd, Off, Auto:
	default:
		return Sealed{}, fmt.Errorf("transfer disk %s: compression is %q, which is not known", t.Disk.Info().Name, t.Compression)
	}
	if mv.progress == nil {
		mv.progress = new(Progress)
	}
	info := t.Disk.Info()
	mv.log = m.log.WithFields(logrus.Fields{"run": t.Run, "disk": info.Name})
	mv.facts = staging.Facts{
		Job: t.Job, Run: t.Run,
		Disk: staging.Disk{ID: string(info.ID), Name: info.Name, Position: info.Position, Size: info.Size},
		Snapshot: staging.Snapshot{ID: t.Ref.ID, Created: t.Ref.Created.UTC(),
			Consistency: string(t.Ref.Consistency), Note: t.Ref.Note},
		ChangeID:      string(info.ChangeID),
		SegmentBlocks: staging.SegmentBlocks,
	}
	sealed, err := mv.run(ctx)
	if err != nil {
		return Sealed{}, fmt.Errorf("transfer disk %s: %w", info.Name, err)
	}
	return sealed, nil
}

// move is one Move under way.
type move struct {
	Task
	mover    *Mover
	log      logrus.FieldLogger
	progress *Progress
	gate     gated // Task.Store is this
	facts    staging.Facts
	plan     *staging.Plan
	planSum  staging.Hash // of the stored plan
	base     *staging.Manifest
	blocks   *blockMap
	segments *segmentSet
}

func (mv *move) run(ctx context.Context) (Sealed, error) {
	m, sum, err := mv.sealed(ctx, staging.Hash{})
	if err == nil {
		mv.progress.sealed(m)
		return Sealed{m, sum}, nil
	}
	if !errors.Is(err, staging.ErrNotFound) {
		return Sealed{}, err
	}
	if err := mv.makePlan(ctx); err != nil {
		return Sealed{}, err
	}
	err = mv.slices(ctx)
	if lie := (*trackingLie)(nil); errors.As(err, &lie) {
		if err := mv.replan(ctx, lie.block); err != nil {
			return Sealed{}, err
		}
		err = mv.slices(ctx) // the plan leaves out nothing: there is no sample
	}
	if err != nil {
		return Sealed{}, err
	}
	if err := mv.Snapshot.Verify(ctx); err != nil {
		return Sealed{}, fmt.Errorf("see the snapshot again: %w", err)
	}
	m, sum, err = mv.seal(ctx)
	return Sealed{m, sum}, err
}

// slices brings every slice of the plan into staging.
func (mv *move) slices(ctx context.Context) error {
	mv.progress.planned(mv.plan)
	mv.blocks = newBlockMap(mv.Store, mv.plan, mv.base, func(n int64) { mv.progress.Stored.Add(n) })
	mv.segments = newSegmentSet(mv.plan.Segments())
	stored, err := mv.listSegments(ctx)
	if err != nil {
		return err
	}
	if !mv.Disk.Info().RandomAccess {
		return mv.stream(ctx, stored)
	}
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(int64(mv.mover.parallels), mv.plan.Segments()) {
		group.Go(func() error {
			for {
				n := next.Add(1) - 1
				if n >= mv.plan.Segments() {
					return nil
				}
				if err := mv.slice(ctx, n, stored); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

func (mv *move) slice(ctx context.Context, n int64, stored *segmentSet) error {
	s, err := mv.begin(ctx, n)
	if err != nil {
		return err
	}
	if stored.has(n) {
		if ok, err := mv.resume(ctx, s); ok || err != nil {
			return err
		}
	}
	return mv.readSlice(ctx, s)
}

// listSegments finds what earlier attempts stored.
func (mv *move) listSegments(ctx context.Context) (*segmentSet, error) {
	place := mv.plan.Place()
	found := newSegmentSet(mv.plan.Segments())
	err := mv.Store.List(ctx, place.SegmentPrefix(), func(o staging.Object) error {
		if n, ok := place.ParseSegment(o.Key); ok && n < mv.plan.Segments() {
			found.add(n)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the segments in staging: %w", err)
	}
	return found, nil
}
