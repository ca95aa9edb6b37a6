package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// fakeDisk is a frozen disk in memory. It keeps the contract of a source, in
// pieces of odd sizes, and checks that its caller does.
type fakeDisk struct {
	info  hypervisor.DiskInfo
	bytes []byte
	// changed answers Changed.
	changed func(since hypervisor.ChangeID) ([]hypervisor.Extent, error)
	// fault may fail a Read after some bytes; called before each piece.
	fault func(off int64) error
	piece int64

	mu     sync.Mutex
	reads  int // under way
	opened int // since ever
}

// open tells how many Reads are under way.
func (d *fakeDisk) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads
}

func (d *fakeDisk) Info() hypervisor.DiskInfo { return d.info }

func (d *fakeDisk) Changed(ctx context.Context, since hypervisor.ChangeID, emit func(hypervisor.Extent) error) error {
	if d.changed == nil {
		return emit(hypervisor.Extent{Length: d.info.Size})
	}
	extents, err := d.changed(since)
	for _, e := range extents {
		if err := emit(e); err != nil {
			return err
		}
	}
	return err
}

func (d *fakeDisk) Read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	d.mu.Lock()
	d.reads++
	d.opened++
	busy := d.reads > 1 && !d.info.RandomAccess
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.reads--
		d.mu.Unlock()
	}()
	if busy {
		return errors.New("a second Read of a disk without random access")
	}
	last := int64(-1)
	for _, e := range in {
		if e.Offset%staging.BlockSize != 0 || e.Offset < last || e.End()%staging.BlockSize != 0 && e.End() != d.info.Size {
			return fmt.Errorf("extent %+v after %d breaks the contract", e, last)
		}
		last = e.End()
		for off := e.Offset; off < e.End(); {
			if err := ctx.Err(); err != nil {
				return err
			}
			if d.fault != nil {
				if err := d.fault(off); err != nil {
					return err
				}
			}
			n := min(d.piece, e.End()-off)
			p := d.bytes[off : off+n]
			var err error
			began := time.Now()
			if staging.IsZero(p) && off/staging.BlockSize%2 == 0 {
				err = emit(off, nil, n)
			} else {
				err = emit(off, bytes.Clone(p), 0)
			}
			if waited := time.Since(began); d.info.Patience > 0 && waited > d.info.Patience {
				return fmt.Errorf("the stream died: emit blocked for %s", waited)
			}
			if err != nil {
				return err
			}
			off += n
		}
	}
	return nil
}

// fakeSnapshot is gone when its error says so.
type fakeSnapshot struct{ gone error }

func (s *fakeSnapshot) Disks() []hypervisor.Disk         { return nil }
func (s *fakeSnapshot) Verify(ctx context.Context) error { return errors.Join(s.gone, ctx.Err()) }
func (s *fakeSnapshot) Close() error                     { return nil }

// random is a seeded generator that also fills buffers quickly.
type random struct {
	*rand.Rand
	fill *rand.ChaCha8
}

func newRandom(seed uint64) *random {
	source := rand.NewChaCha8([32]byte{byte(seed)})
	return &random{rand.New(source), source}
}

// guest is a disk that is written to and frozen again and again.
type guest struct {
	t      *testing.T
	rng    *random
	bytes  []byte
	epoch  int
	writes []map[int64]bool // by epoch: blocks written
	base   *staging.Base
	image  []byte // what the base's image holds
	stream bool   // the disk can only be read in order
	raw    bool   // compression is off: it is slow under the race detector
}

func newGuest(t *testing.T, size int64, seed uint64) *guest {
	g := &guest{t: t, rng: newRandom(seed), bytes: make([]byte, size), writes: []map[int64]bool{{}}}
	return g
}

// write puts random bytes, text or zeros at a random place.
func (g *guest) write() {
	n := g.rng.Int64N(2*staging.BlockSize) + 1
	g.writeAt(g.rng.Int64N(int64(len(g.bytes))), n, g.rng.IntN(3))
}

func (g *guest) writeAt(off, n int64, kind int) {
	n = min(n, int64(len(g.bytes))-off)
	p := g.bytes[off : off+n]
	switch kind {
	case 0:
		_, _ = g.rng.fill.Read(p)
	case 1:
		copy(p, bytes.Repeat([]byte("lorem ipsum "), len(p)/12+1))
	default:
		clear(p)
	}
	for b := off / staging.BlockSize; b <= (off+n-1)/staging.BlockSize; b++ {
		g.writes[g.epoch][b] = true
	}
}

func (g *guest) grow(n int64) { g.bytes = append(g.bytes, make([]byte, n)...) }

// freeze returns the disk as a snapshot would hold it, with honest tracking.
func (g *guest) freeze() *fakeDisk {
	g.epoch++
	g.writes = append(g.writes, map[int64]bool{})
	epoch, size := g.epoch, int64(len(g.bytes))
	return &fakeDisk{
		info: hypervisor.DiskInfo{ID: "6000C29-test", Name: "Hard disk 1", Size: size,
			ChangeID: hypervisor.ChangeID(fmt.Sprintf("id/%d", epoch)), RandomAccess: !g.stream},
		bytes: bytes.Clone(g.bytes),
		piece: g.rng.Int64N(3*staging.BlockSize) + 1000,
		changed: func(since hypervisor.ChangeID) ([]hypervisor.Extent, error) {
			from := 0
			if since != "" {
				if _, err := fmt.Sscanf(string(since), "id/%d", &from); err != nil {
					return nil, err
				}
			}
			var out []hypervisor.Extent
			for b := range staging.Blocks(size) {
				for _, written := range g.writes[from:epoch] {
					if written[b] {
						off := b * staging.BlockSize
						out = append(out, hypervisor.Extent{Offset: off, Length: min(staging.BlockSize, size-off)})
						break
					}
				}
			}
			return out, nil
		},
	}
}

// differing counts the bytes of blocks that a frozen disk has changed against
// the base's image.
func (g *guest) differing(d *fakeDisk) (changed, data int64) {
	var buf, old [staging.BlockSize]byte
	for off := 0; off < len(d.bytes); off += staging.BlockSize {
		clear(buf[:])
		clear(old[:])
		copy(buf[:], d.bytes[off:])
		if off < len(g.image) {
			copy(old[:], g.image[off:])
		}
		if buf != old {
			changed += staging.BlockSize
			if !staging.IsZero(buf[:]) {
				data += staging.BlockSize
			}
		}
	}
	return changed, data
}

func (g *guest) task(d *fakeDisk, store staging.Store, progress *Progress) Task {
	compression := Zstd
	if g.raw {
		compression = Off
	}
	return Task{
		Job: "sms-job-1", Run: fmt.Sprintf("sms-run-%d", g.epoch),
		Snapshot: &fakeSnapshot{}, Disk: d, Store: store, Base: g.base, Compression: compression, Progress: progress,
		Ref: hypervisor.SnapshotRef{ID: fmt.Sprintf("snapshot-%d", g.epoch), Created: time.Unix(1e9, 0), Consistency: hypervisor.CrashConsistent},
	}
}

// land builds the image that a builder would, checks it against the frozen
// disk, and makes the run the base of the next.
func (g *guest) land(d *fakeDisk, store staging.Store, sealed Sealed) {
	g.t.Helper()
	image := rebuild(g.t, store, sealed, g.image)
	if !bytes.Equal(image, d.bytes) {
		g.t.Fatalf("run %s: the image differs from the disk", sealed.Manifest.Run)
	}
	g.image = image
	g.base = &staging.Base{Run: sealed.Manifest.Run, Manifest: sealed.Sum, Digest: sealed.Manifest.Digest,
		ChangeID: sealed.Manifest.ChangeID, Size: sealed.Manifest.Disk.Size}
}

// rebuild makes an image from the base's image and what lies in staging, as
// the format says: the map is the authority.
func rebuild(t *testing.T, store staging.Store, sealed Sealed, base []byte) []byte {
	t.Helper()
	ctx := t.Context()
	m, err := staging.ReadSealed(ctx, store, sealed.Manifest.Place(), sealed.Sum)
	if err != nil {
		t.Fatal(err)
	}
	padded := make([]byte, staging.Blocks(m.Disk.Size)*staging.BlockSize)
	if m.Base != nil {
		copy(padded, base)
	}
	reader, err := staging.NewSegmentReader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, r := range m.Segments {
		for n := r.First; n < r.First+r.Count; n++ {
			body, err := store.Get(ctx, m.Place().Segment(n), 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			err = reader.Read(body, m.SegmentID(n), func(e staging.Entry, raw []byte) error {
				block := padded[e.Block*staging.BlockSize:][:staging.BlockSize]
				clear(block)
				copy(block, raw)
				return nil
			})
			if err := errors.Join(err, body.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var shard staging.Shard
	for n := range staging.Blocks(m.Disk.Size) {
		if n%staging.ShardBlocks == 0 {
			if err := m.ReadShard(ctx, store, n/staging.ShardBlocks, &shard); err != nil {
				t.Fatal(err)
			}
		}
		if staging.HashBlock(padded[n*staging.BlockSize:][:staging.BlockSize]) != shard[n%staging.ShardBlocks] {
			t.Fatalf("block %d of the rebuilt image is not what the block map says", n)
		}
	}
	return padded[:m.Disk.Size]
}

func newMover(t testing.TB, c Config) *Mover {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	c.Log = log
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newStore() *stagingtest.Memory { return stagingtest.NewMemory() }
