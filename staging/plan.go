package staging

import (
	"io"
	"iter"
	"sort"
	"time"
)

// Limits of a plan.
const (
	MaxRanges          = 65536
	SegmentBlocks      = 16
	LargeSegmentBlocks = 64
	// LargePlan is the number of blocks from which on segments are large.
	LargePlan = 4 << 40 / BlockSize
)

// Mode is how a run covers a disk.
type Mode string

// The modes: everything that may be other than zero, what changed since the
// base, or everything compared with the base.
const (
	Full        Mode = "full"
	Incremental Mode = "incremental"
	Comparing   Mode = "comparing"
)

// Disk is a disk's identity and size in bytes.
type Disk struct {
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Position int    `json:"position"`
	Size     int64  `json:"size"`
}

// Base is the landed run that a run builds on.
type Base struct {
	Run      string `json:"run"`
	Manifest Hash   `json:"manifest"` // SHA-256 of the stored manifest
	Digest   Hash   `json:"digest"`
	ChangeID string `json:"changeId,omitempty"`
	Size     int64  `json:"size"`
}

// Snapshot is what a run reads from.
type Snapshot struct {
	ID          string    `json:"id"`
	Created     time.Time `json:"created"`
	Consistency string    `json:"consistency"`
	Note        string    `json:"note,omitempty"`
}

// Range is a run of blocks.
type Range struct{ First, Count int64 }

// Facts are what plan and manifest have in common.
type Facts struct {
	Job           string   `json:"job"`
	Run           string   `json:"run"`
	Disk          Disk     `json:"disk"`
	Base          *Base    `json:"base,omitempty"` // nil in a run without a base
	Snapshot      Snapshot `json:"snapshot"`
	ChangeID      string   `json:"changeId,omitempty"` // of the snapshot
	Mode          Mode     `json:"mode"`
	Reason        string   `json:"reason,omitempty"` // why the mode is not incremental
	SegmentBlocks int      `json:"segmentBlocks"`
}

// Place returns where the disk of the run lies.
func (f *Facts) Place() Place { return Place{f.Job, f.Run, DiskKey(f.Disk.ID)} }

func (f *Facts) validate(object string) error {
	if err := f.Place().Validate(); err != nil {
		return bad(object, ErrMalformed, "%v", err)
	}
	if f.Disk.ID == "" || f.Disk.Size <= 0 || f.Disk.Size > MaxDiskSize {
		return bad(object, ErrRange, "disk %.80q of %d bytes", f.Disk.ID, f.Disk.Size)
	}
	if f.SegmentBlocks != SegmentBlocks && f.SegmentBlocks != LargeSegmentBlocks {
		return bad(object, ErrRange, "%d blocks per segment", f.SegmentBlocks)
	}
	switch {
	case f.Mode != Full && f.Mode != Incremental && f.Mode != Comparing:
		return bad(object, ErrMalformed, "mode %.20q", f.Mode)
	case (f.Mode == Full) != (f.Base == nil):
		return bad(object, ErrMalformed, "mode %s, but base %v", f.Mode, f.Base)
	case f.Base == nil:
		return nil
	case validateName(f.Base.Run) != nil || f.Base.Run == f.Run:
		return bad(object, ErrMalformed, "base run %.80q", f.Base.Run)
	case f.Base.Size <= 0 || f.Base.Size > f.Disk.Size:
		return bad(object, ErrRange, "a base of %d bytes for a disk of %d", f.Base.Size, f.Disk.Size)
	}
	return nil
}

// Plan says what a run reads of a disk: written first, and once.
type Plan struct {
	Facts
	// Ranges of blocks in ascending order, without overlap or touching.
	Ranges []Range
	// starts[i] is how many blocks of the plan lie before Ranges[i].
	starts []int64
}

type planHeader struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Facts
	Blocks int64 `json:"blocks"`
	Ranges int   `json:"ranges"`
}

const planFormat = "skylift-plan"

// NewPlan makes a plan of ranges, which it coalesces to at most MaxRanges, and
// chooses the size of its segments.
func NewPlan(f Facts, ranges []Range) (*Plan, error) {
	p := &Plan{Facts: f, Ranges: Coalesce(ranges, MaxRanges)}
	var blocks int64
	for _, r := range p.Ranges {
		blocks += r.Count
	}
	p.SegmentBlocks = SegmentBlocks
	if blocks > LargePlan {
		p.SegmentBlocks = LargeSegmentBlocks
	}
	if err := p.index(); err != nil {
		return nil, err
	}
	return p, nil
}

// index checks the plan and fills starts.
func (p *Plan) index() error {
	if err := p.validate("plan"); err != nil {
		return err
	}
	if len(p.Ranges) > MaxRanges {
		return bad("plan", ErrRange, "%d ranges", len(p.Ranges))
	}
	all, end, blocks := Blocks(p.Disk.Size), int64(-1), int64(0)
	p.starts = make([]int64, len(p.Ranges))
	for i, r := range p.Ranges {
		if r.First < 0 || r.Count <= 0 || r.Count > all || r.First > all-r.Count {
			return bad("plan", ErrRange, "blocks %d+%d of %d", r.First, r.Count, all)
		}
		if r.First <= end {
			return bad("plan", ErrOrder, "blocks %d+%d begin before %d", r.First, r.Count, end+1)
		}
		p.starts[i] = blocks
		end, blocks = r.First+r.Count, blocks+r.Count
	}
	if want := blocks > LargePlan; want != (p.SegmentBlocks == LargeSegmentBlocks) {
		return bad("plan", ErrRange, "%d blocks per segment in a plan of %d blocks", p.SegmentBlocks, blocks)
	}
	return nil
}

// Blocks returns how many blocks the plan covers.
func (p *Plan) Blocks() int64 {
	if len(p.Ranges) == 0 {
		return 0
	}
	last := len(p.Ranges) - 1
	return p.starts[last] + p.Ranges[last].Count
}

// Segments returns how many slices the plan has.
func (p *Plan) Segments() int64 {
	return (p.Blocks() + int64(p.SegmentBlocks) - 1) / int64(p.SegmentBlocks)
}

// Slice yields the block ranges of segment n: the n-th slice of the plan's blocks.
func (p *Plan) Slice(n int64) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		from := n * int64(p.SegmentBlocks)
		to := min(from+int64(p.SegmentBlocks), p.Blocks())
		i := sort.Search(len(p.starts), func(i int) bool { return p.starts[i] > from }) - 1
		for ; i >= 0 && i < len(p.Ranges) && from < to; i++ {
			skip := from - p.starts[i]
			r := Range{p.Ranges[i].First + skip, min(p.Ranges[i].Count-skip, to-from)}
			if !yield(r) {
				return
			}
			from += r.Count
		}
	}
}

// Encode writes the plan as it is stored.
func (p *Plan) Encode(w io.Writer) error {
	if err := p.index(); err != nil {
		return err
	}
	d, err := newDocumentWriter("plan", w)
	if err != nil {
		return err
	}
	d.line(planHeader{planFormat, Version, p.Facts, p.Blocks(), len(p.Ranges)})
	for _, r := range p.Ranges {
		d.line([2]int64{r.First, r.Count})
	}
	return d.close()
}

// DecodePlan reads a stored plan.
func DecodePlan(r io.Reader) (*Plan, error) {
	d, err := newDocumentReader("plan", r)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var head planHeader
	if err := d.header(planFormat, &head); err != nil {
		return nil, err
	}
	if head.Ranges < 0 || head.Ranges > MaxRanges {
		return nil, bad("plan", ErrRange, "%d ranges", head.Ranges)
	}
	p := &Plan{Facts: head.Facts}
	for range head.Ranges {
		first, count, err := d.pair()
		if err != nil {
			return nil, err
		}
		p.Ranges = append(p.Ranges, Range{first, count})
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := p.index(); err != nil {
		return nil, err
	}
	if p.Blocks() != head.Blocks {
		return nil, bad("plan", ErrMismatch, "%d blocks, and its header says %d", p.Blocks(), head.Blocks)
	}
	return p, nil
}

// pair reads a line of two numbers.
func (d *documentReader) pair() (first, second int64, err error) {
	var p []int64
	if err := d.line(&p); err != nil {
		return 0, 0, err
	}
	if len(p) != 2 {
		return 0, 0, bad(d.object, ErrMalformed, "%d numbers where two belong", len(p))
	}
	return p[0], p[1], nil
}

// Coalesce joins ascending ranges that touch or overlap, and then those with
// the smallest gaps between them until at most limit are left. A superset of
// the blocks is harmless: what did not change is dropped when it is compared.
func Coalesce(ranges []Range, limit int) []Range {
	out := make([]Range, 0, len(ranges))
	for _, r := range ranges {
		if n := len(out); n > 0 && r.First <= out[n-1].First+out[n-1].Count {
			out[n-1].Count = max(out[n-1].Count, r.First+r.Count-out[n-1].First)
			continue
		}
		out = append(out, r)
	}
	if len(out) <= limit {
		return out
	}
	gaps := make([]int64, len(out)-1)
	for i := range gaps {
		gaps[i] = gap(out, i+1)
	}
	sort.Slice(gaps, func(i, j int) bool { return gaps[i] < gaps[j] })
	// Every gap below widest is closed, and as many as needed of exactly widest.
	close := len(out) - limit
	widest := gaps[close-1]
	equal := close - sort.Search(len(gaps), func(i int) bool { return gaps[i] >= widest })
	joined := out[:1]
	for i := 1; i < len(out); i++ {
		last := &joined[len(joined)-1]
		g := out[i].First - (last.First + last.Count)
		if g < widest || g == widest && equal > 0 {
			if g == widest {
				equal--
			}
			last.Count = out[i].First + out[i].Count - last.First
			continue
		}
		joined = append(joined, out[i])
	}
	return joined
}

func gap(ranges []Range, i int) int64 {
	return ranges[i].First - (ranges[i-1].First + ranges[i-1].Count)
}
