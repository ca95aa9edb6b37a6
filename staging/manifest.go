package staging

import (
	"io"
	"sort"
	"time"
)

// Counters tell what a run did for a disk, in bytes.
type Counters struct {
	Planned int64 `json:"planned"` // of the plan's blocks
	Read    int64 `json:"read"`    // from the source, the sample included
	Changed int64 `json:"changed"` // of blocks that differ from the base
	Sent    int64 `json:"sent"`    // of those put into segments by the attempt that sealed
	Stored  int64 `json:"stored"`  // of objects written by it
	Resumed int64 `json:"resumed"` // of blocks that it found in staging
}

// ShardRef names a stored shard of the block map.
type ShardRef struct {
	N      int64
	Sum    Hash
	holder int // 0: the manifest's own run; else an index into Holders, from 1
}

// Manifest seals a disk of a run: written last, and once.
type Manifest struct {
	Facts
	// Plan is the SHA-256 of the stored plan.
	Plan     Hash
	Digest   Hash
	Counters Counters
	Software string
	Sealed   time.Time
	// Segments are the numbers of the stored segments.
	Segments []Range
	// Holders are the earlier runs that keep shards of this map.
	Holders []string
	// Shards of the map that are not zero, in ascending order.
	Shards []ShardRef
}

type manifestHeader struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Facts
	Plan     Hash      `json:"plan"`
	Digest   Hash      `json:"digest"`
	Counters Counters  `json:"counters"`
	Software string    `json:"software"`
	Sealed   time.Time `json:"sealed"`
	Segments int       `json:"segments"`
	Holders  int       `json:"holders"`
	Shards   int       `json:"shards"`
}

type shardLine struct {
	N      int64 `json:"n"`
	Holder int   `json:"holder,omitempty"`
	Sum    Hash  `json:"sha256"`
}

const manifestFormat = "skylift-manifest"

// Holder returns the run that keeps the shard.
func (m *Manifest) Holder(ref ShardRef) string {
	if ref.holder == 0 {
		return m.Run
	}
	return m.Holders[ref.holder-1]
}

// AddShard appends shard n, kept by run. Zero shards are left out. Shards come
// in ascending order.
func (m *Manifest) AddShard(n int64, sum Hash, run string) {
	if sum.IsZero() {
		return
	}
	m.Shards = append(m.Shards, ShardRef{n, sum, m.holderIndex(run)})
}

func (m *Manifest) holderIndex(run string) int {
	if run == m.Run {
		return 0
	}
	// Neighbors often have the same holder, and there are few of them.
	for i := len(m.Holders) - 1; i >= 0; i-- {
		if m.Holders[i] == run {
			return i + 1
		}
	}
	m.Holders = append(m.Holders, run)
	return len(m.Holders)
}

// Shard finds shard n; false means that it is zero.
func (m *Manifest) Shard(n int64) (ShardRef, bool) {
	i := sort.Search(len(m.Shards), func(i int) bool { return m.Shards[i].N >= n })
	if i == len(m.Shards) || m.Shards[i].N != n {
		return ShardRef{}, false
	}
	return m.Shards[i], true
}

// SegmentID returns the identity of segment n.
func (m *Manifest) SegmentID(n int64) SegmentID { return SegmentID{m.Plan, n} }

// ComputeDigest returns the digest of the disk that the shards describe.
func (m *Manifest) ComputeDigest() (Hash, error) {
	d := NewDigester(m.Disk.Size)
	for _, s := range m.Shards {
		if err := d.Add(s.N, s.Sum); err != nil {
			return Hash{}, err
		}
	}
	return d.Sum(), nil
}

func (m *Manifest) validate() error {
	if err := m.Facts.validate("manifest"); err != nil {
		return err
	}
	last := int64(-1)
	for _, r := range m.Segments {
		if r.First < 0 || r.Count <= 0 || r.Count > MaxBlocks || r.First > MaxBlocks-r.Count {
			return bad("manifest", ErrRange, "segments %d+%d", r.First, r.Count)
		}
		if r.First <= last {
			return bad("manifest", ErrOrder, "segments %d+%d after %d", r.First, r.Count, last)
		}
		last = r.First + r.Count
	}
	for _, run := range m.Holders {
		if validateName(run) != nil || run == m.Run {
			return bad("manifest", ErrMalformed, "holder %.80q", run)
		}
	}
	for _, s := range m.Shards {
		if s.Sum.IsZero() || s.holder < 0 || s.holder > len(m.Holders) {
			return bad("manifest", ErrMalformed, "shard %d of holder %d", s.N, s.holder)
		}
	}
	digest, err := m.ComputeDigest()
	if err != nil {
		return &FormatError{"manifest", err}
	}
	if digest != m.Digest {
		return bad("manifest", ErrChecksum, "its digest is not that of its shards")
	}
	return nil
}

// Encode writes the manifest as it is stored.
func (m *Manifest) Encode(w io.Writer) error {
	if err := m.validate(); err != nil {
		return err
	}
	d, err := newDocumentWriter("manifest", w)
	if err != nil {
		return err
	}
	d.line(manifestHeader{manifestFormat, Version, m.Facts, m.Plan, m.Digest, m.Counters, m.Software, m.Sealed,
		len(m.Segments), len(m.Holders), len(m.Shards)})
	for _, r := range m.Segments {
		d.line([2]int64{r.First, r.Count})
	}
	for _, run := range m.Holders {
		d.line(run)
	}
	for _, s := range m.Shards {
		d.line(shardLine{s.N, s.holder, s.Sum})
	}
	return d.close()
}

// DecodeManifest reads a stored manifest.
func DecodeManifest(r io.Reader) (*Manifest, error) {
	d, err := newDocumentReader("manifest", r)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var head manifestHeader
	if err := d.header(manifestFormat, &head); err != nil {
		return nil, err
	}
	m := &Manifest{Facts: head.Facts, Plan: head.Plan, Digest: head.Digest, Counters: head.Counters, Software: head.Software, Sealed: head.Sealed}
	if err := m.Facts.validate("manifest"); err != nil {
		return nil, err
	}
	shards := Shards(m.Disk.Size)
	if head.Segments < 0 || head.Holders < 0 || head.Shards < 0 || int64(head.Shards) > shards ||
		int64(head.Segments) > Blocks(m.Disk.Size) || head.Holders > head.Shards {
		return nil, bad("manifest", ErrRange, "%d segment ranges, %d holders, %d shards", head.Segments, head.Holders, head.Shards)
	}
	for range head.Segments {
		first, count, err := d.pair()
		if err != nil {
			return nil, err
		}
		m.Segments = append(m.Segments, Range{first, count})
	}
	for range head.Holders {
		var run string
		if err := d.line(&run); err != nil {
			return nil, err
		}
		m.Holders = append(m.Holders, run)
	}
	for range head.Shards {
		var s shardLine
		if err := d.line(&s); err != nil {
			return nil, err
		}
		m.Shards = append(m.Shards, ShardRef{s.N, s.Sum, s.Holder})
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return m, m.validate()
}
