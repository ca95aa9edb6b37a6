package staging

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"
	"time"
)

var testID = SegmentID{Hash{7}, 5}

func testBlock(seed byte) []byte {
	p := make([]byte, BlockSize)
	rng := rand.NewChaCha8([32]byte{seed})
	_, _ = rng.Read(p)
	return p
}

func testFacts() Facts {
	return Facts{
		Job: "sms-job-1", Run: "sms-run-2",
		Disk: Disk{ID: "6000C29a-disk", Name: "Hard disk 1", Size: 3*ShardSize + 4096},
		Base: &Base{Run: "sms-run-1", Manifest: Hash{1}, Digest: Hash{2}, ChangeID: "52 aa/7", Size: 3 * ShardSize},
		Snapshot: Snapshot{ID: "snapshot-41", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			Consistency: "crash"},
		ChangeID: "52 aa/9",
		Mode:     Incremental,
	}
}

func TestASegmentComesBackAsItWasWritten(t *testing.T) {
	encoder, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := NewSegmentReader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	text := bytes.Repeat([]byte("lorem ipsum dolor "), BlockSize/18+1)[:BlockSize]
	blocks := map[int64][]byte{3: testBlock(1), 4: text, 9: make([]byte, BlockSize), MaxBlocks - 1: testBlock(2)}
	order := []int64{3, 4, 9, MaxBlocks - 1}
	for name, w := range map[string]*SegmentWriter{
		"compressed": NewSegmentWriter(SegmentBlocks, encoder, nil),
		"raw":        NewSegmentWriter(SegmentBlocks, nil, nil),
	} {
		t.Run(name, func(t *testing.T) {
			for round := range 2 { // a writer is used again
				w.Reset()
				for _, n := range order {
					if err := w.Add(n, HashBlock(blocks[n]), blocks[n]); err != nil {
						t.Fatal(err)
					}
				}
				stored := w.Bytes(testID)
				var got []int64
				err := reader.Read(iotest.OneByteReader(bytes.NewReader(stored)), testID, func(e Entry, raw []byte) error {
					got = append(got, e.Block)
					if (e.Kind == Zero) != IsZero(blocks[e.Block]) || e.Kind == Data && !bytes.Equal(raw, blocks[e.Block]) {
						t.Errorf("round %d: block %d came back different", round, e.Block)
					}
					return nil
				})
				if err != nil || !slices.Equal(got, order) {
					t.Fatalf("round %d: read %v: %v", round, got, err)
				}
				if name == "compressed" && len(stored) > 2*BlockSize+BlockSize/10 {
					t.Errorf("text was not compressed: %d bytes", len(stored))
				}
				if entries, err := ReadIndex(bytes.NewReader(stored[:min(len(stored), MaxIndexSize)]), testID); err != nil || len(entries) != 4 {
					t.Errorf("the index alone: %v, %v", entries, err)
				}
			}
		})
	}
}

func TestASegmentWriterAllocatesNothingPerBlock(t *testing.T) {
	encoder, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	w := NewSegmentWriter(SegmentBlocks, encoder, nil)
	random, text := testBlock(1), bytes.Repeat([]byte("text"), BlockSize/4)
	sums := [2]Hash{HashBlock(random), HashBlock(text)}
	allocs := testing.AllocsPerRun(20, func() {
		w.Reset()
		for n := int64(0); n < SegmentBlocks; n += 2 {
			if w.Add(n, sums[0], random) != nil || w.Add(n+1, sums[1], text) != nil {
				t.Fatal("Add failed")
			}
		}
		w.Bytes(testID)
	})
	if allocs > 1 {
		t.Errorf("%v allocations for a segment", allocs)
	}
}

func TestASegmentWriterRefusesWhatAReaderWould(t *testing.T) {
	w := NewSegmentWriter(2, nil, nil)
	block := testBlock(1)
	if err := w.Add(MaxBlocks, Hash{1}, block); !errors.Is(err, ErrRange) {
		t.Errorf("block out of range: %v", err)
	}
	if err := w.Add(5, Hash{1}, block[:100]); !errors.Is(err, ErrRange) {
		t.Errorf("short block: %v", err)
	}
	if w.Bytes(testID) != nil {
		t.Error("an empty segment has bytes")
	}
	if err := w.Add(5, Hash{1}, block); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(5, Hash{}, nil); !errors.Is(err, ErrOrder) {
		t.Errorf("the same block twice: %v", err)
	}
	if err := w.Add(6, Hash{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(7, Hash{}, nil); !errors.Is(err, ErrRange) {
		t.Errorf("too many: %v", err)
	}
}

func TestAShardComesBackAsItWasWritten(t *testing.T) {
	var s, got Shard
	if !s.Sum().IsZero() {
		t.Error("a shard of zero blocks has a hash")
	}
	s[0], s[1023] = Hash{1}, Hash{2}
	p := s.Encode(7)
	if err := got.Decode(bytes.NewReader(p), 7, s.Sum()); err != nil || got != s {
		t.Fatalf("decode: %v", err)
	}
	if want := sha256.Sum256(p[mapHeaderSize:]); s.Sum() != Hash(want) {
		t.Error("a shard's hash is not SHA-256 over its blocks' hashes")
	}
	for name, test := range map[string]struct {
		p    []byte
		n    int64
		sum  Hash
		want error
	}{
		"another shard":     {p, 8, s.Sum(), ErrMismatch},
		"another hash":      {p, 7, Hash{3}, ErrChecksum},
		"truncated":         {p[:len(p)-1], 7, s.Sum(), ErrTruncated},
		"only a header":     {p[:10], 7, s.Sum(), ErrTruncated},
		"trailing bytes":    {append(slices.Clone(p), 0), 7, s.Sum(), ErrTrailing},
		"a newer version":   {patched(p, 8, 2), 7, s.Sum(), ErrVersion},
		"reserved bytes":    {patched(p, 10, 1), 7, s.Sum(), ErrMalformed},
		"something else":    {patched(p, 0, 'X'), 7, s.Sum(), ErrMalformed},
		"a flipped bit":     {patched(p, 5000, 1), 7, s.Sum(), ErrChecksum},
		"nothing at all":    {nil, 7, s.Sum(), ErrTruncated},
		"a zero shard kept": {p, 7, Hash{}, ErrChecksum},
	} {
		if err := got.Decode(bytes.NewReader(test.p), test.n, test.sum); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func patched(p []byte, at int, b byte) []byte {
	p = slices.Clone(p)
	p[at] = b
	return p
}

func TestAPlanComesBackAsItWasWritten(t *testing.T) {
	plan, err := NewPlan(testFacts(), []Range{{0, 5}, {5, 2}, {100, 1}, {2000, 1072}})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Ranges) != 3 || plan.Blocks() != 1080 || plan.Segments() != 68 || plan.SegmentBlocks != SegmentBlocks {
		t.Fatalf("plan: %+v", plan)
	}
	stored, err := EncodeObject(plan)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodePlan(iotest.HalfReader(bytes.NewReader(stored)))
	if err != nil || !slices.Equal(got.Ranges, plan.Ranges) || got.Place() != plan.Place() || *got.Base != *plan.Base {
		t.Fatalf("decode: %+v, %v", got, err)
	}
}

func TestSlicesCoverThePlanOnceAndInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		f := testFacts()
		var ranges []Range
		var want []int64
		for at := int64(0); ; {
			r := Range{at + rng.Int64N(40) + 1, rng.Int64N(50) + 1}
			at = r.First + r.Count
			if at > Blocks(f.Disk.Size) {
				break
			}
			ranges = append(ranges, r)
			for b := r.First; b < at; b++ {
				want = append(want, b)
			}
		}
		plan, err := NewPlan(f, ranges)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for n := range plan.Segments() {
			count := int64(0)
			for r := range plan.Slice(n) {
				count += r.Count
				for b := r.First; b < r.First+r.Count; b++ {
					got = append(got, b)
				}
			}
			if count != SegmentBlocks && n != plan.Segments()-1 {
				t.Fatalf("slice %d has %d blocks", n, count)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("slices of %v", ranges)
		}
	}
	empty, err := NewPlan(testFacts(), nil)
	if err != nil || empty.Segments() != 0 || empty.Blocks() != 0 {
		t.Errorf("a plan without blocks: %+v, %v", empty, err)
	}
}

func TestCoalescingClosesTheSmallestGaps(t *testing.T) {
	got := Coalesce([]Range{{0, 1}, {3, 1}, {5, 1}, {100, 1}, {102, 1}}, 3)
	if want := []Range{{0, 1}, {3, 3}, {100, 3}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	var many []Range
	for at := int64(0); len(many) < 70000; {
		at += rng.Int64N(9) + 1
		many = append(many, Range{at, 1})
		at++
	}
	got = Coalesce(slices.Clone(many), MaxRanges)
	if len(got) != MaxRanges {
		t.Fatalf("%d ranges left", len(got))
	}
	i := 0
	for _, r := range many { // every block is still covered
		for got[i].First+got[i].Count <= r.First {
			i++
		}
		if got[i].First > r.First {
			t.Fatalf("block %d is lost", r.First)
		}
	}
}

func TestAManifestComesBackAsItWasWritten(t *testing.T) {
	m := testManifest(t)
	stored, err := EncodeObject(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeManifest(iotest.HalfReader(bytes.NewReader(stored)))
	if err != nil || got.Digest != m.Digest || !slices.Equal(got.Shards, m.Shards) || !slices.Equal(got.Segments, m.Segments) {
		t.Fatalf("decode: %+v, %v", got, err)
	}
	if ref, ok := got.Shard(2); !ok || got.Holder(ref) != "sms-run-0" {
		t.Errorf("shard 2 is held by %+v", ref)
	}
	if ref, ok := got.Shard(3); !ok || got.Holder(ref) != m.Run {
		t.Errorf("shard 3 is held by %+v", ref)
	}
	if _, ok := got.Shard(0); ok {
		t.Error("shard 0 is not zero")
	}
}

func testManifest(t *testing.T) *Manifest {
	t.Helper()
	m := &Manifest{Facts: testFacts(), Software: "test", Segments: []Range{{0, 2}, {7, 1}}}
	m.SegmentBlocks = SegmentBlocks
	m.AddShard(0, Hash{}, m.Run)
	m.AddShard(1, Hash{1}, m.Base.Run)
	m.AddShard(2, Hash{2}, "sms-run-0")
	m.AddShard(3, Hash{3}, m.Run)
	var err error
	if m.Digest, err = m.ComputeDigest(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestADigestKnowsSizeOrderAndPlaceOfShards(t *testing.T) {
	sum := func(size int64, shards map[int64]Hash) Hash {
		d := NewDigester(size)
		for n := range Shards(size) {
			if s, ok := shards[n]; ok {
				if err := d.Add(n, s); err != nil {
					t.Fatal(err)
				}
			}
		}
		return d.Sum()
	}
	digests := []Hash{
		sum(3*ShardSize, nil),
		sum(3*ShardSize-1, nil),
		sum(3*ShardSize, map[int64]Hash{0: {1}}),
		sum(3*ShardSize, map[int64]Hash{1: {1}}),
		sum(3*ShardSize, map[int64]Hash{1: {1}, 2: {2}}),
		sum(3*ShardSize, map[int64]Hash{1: {2}, 2: {1}}),
	}
	for i, a := range digests {
		for _, b := range digests[:i] {
			if a == b {
				t.Error("two disks have one digest")
			}
		}
	}
	d := NewDigester(2 * ShardSize)
	if d.Add(1, Hash{1}) != nil || !errors.Is(d.Add(0, Hash{1}), ErrOrder) || !errors.Is(d.Add(2, Hash{1}), ErrOrder) {
		t.Error("shards out of order were taken")
	}
}

func TestAReaderErrorIsNotTakenForABadObject(t *testing.T) {
	broken := errors.New("connection reset")
	plan, err := NewPlan(testFacts(), []Range{{0, 5}})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := EncodeObject(plan)
	if err != nil {
		t.Fatal(err)
	}
	r := io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), iotest.ErrReader(broken))
	var format *FormatError
	if _, err := DecodePlan(r); !errors.Is(err, broken) || errors.As(err, &format) {
		t.Errorf("got %v", err)
	}
}
