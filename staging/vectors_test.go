package staging

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The published test vectors: a staging prefix in small under bucket/, objects
// that every reader must refuse under refused/, and what is to be found in
// them in vectors.json. They are part of the format: they never change.
const vectorsDir = "testdata/v1"

// vectors is vectors.json.
type vectors struct {
	Version int             `json:"version"`
	Disks   []vectorDisk    `json:"disks"`
	Objects []vectorObject  `json:"objects"`
	Refused []vectorRefused `json:"refused"`
}

// vectorDisk is the disk as a run saw it: blocks not listed are zero.
type vectorDisk struct {
	Run    string        `json:"run"`
	Size   int64         `json:"size"`
	Digest Hash          `json:"digest"`
	Blocks []vectorBlock `json:"blocks"`
}

// vectorBlock is a block whose first Length bytes are Text over and over, and
// the rest zeros.
type vectorBlock struct {
	Block  int64  `json:"block"`
	Text   string `json:"text"`
	Length int    `json:"length"`
	Sum    Hash   `json:"sha256"`
}

func (b vectorBlock) bytes() []byte {
	p := make([]byte, BlockSize)
	for filled := 0; filled < b.Length; {
		filled += copy(p[filled:b.Length], b.Text)
	}
	return p
}

// vectorObject is a stored object; which fields are set depends on its kind.
type vectorObject struct {
	Key  string `json:"key"`
	Kind string `json:"kind"`
	Sum  Hash   `json:"sha256"` // of the stored bytes
	// of a plan or manifest
	Lines []string `json:"lines,omitempty"`
	// of a segment
	Plan    *Hash         `json:"plan,omitempty"`
	N       int64         `json:"n"`
	Entries []vectorEntry `json:"entries,omitempty"`
	// of a map, whose shard N this is
	Shard  *Hash        `json:"shard,omitempty"`
	Blocks []vectorSlot `json:"blocks,omitempty"`
}

type vectorEntry struct {
	Block  int64  `json:"block"`
	Kind   Kind   `json:"kind"`
	Codec  Codec  `json:"codec"`
	Offset uint32 `json:"offset"`
	Length uint32 `json:"length"`
	Sum    Hash   `json:"sha256"`
}

// vectorSlot is a hash in a map that is not zero, at its place in the shard.
type vectorSlot struct {
	Slot int64 `json:"slot"`
	Sum  Hash  `json:"sha256"`
}

// vectorRefused is an object that must be refused when it is read as N of Plan
// (a segment) or as shard N with the hash Shard (a map).
type vectorRefused struct {
	File  string `json:"file"`
	Kind  string `json:"kind"`
	Why   string `json:"why"`
	Plan  *Hash  `json:"plan,omitempty"`
	N     int64  `json:"n"`
	Shard *Hash  `json:"shard,omitempty"`
}

// reasons are the values of why.
var reasons = map[string]error{
	"truncated": ErrTruncated, "trailing": ErrTrailing, "version": ErrVersion, "checksum": ErrChecksum,
	"range": ErrRange, "order": ErrOrder, "malformed": ErrMalformed, "mismatch": ErrMismatch,
}

func loadVectors(t *testing.T) vectors {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(vectorsDir, "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	in := json.NewDecoder(bytes.NewReader(p))
	in.DisallowUnknownFields()
	var v vectors
	if err := in.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if v.Version != Version || len(v.Disks) == 0 || len(v.Objects) == 0 || len(v.Refused) == 0 {
		t.Fatalf("vectors.json has version %d, %d disks, %d objects, %d to refuse", v.Version, len(v.Disks), len(v.Objects), len(v.Refused))
	}
	return v
}

func vectorFile(t *testing.T, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(vectorsDir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestThePublishedObjectsAreReadAsTheyWereMeant(t *testing.T) {
	for _, o := range loadVectors(t).Objects {
		t.Run(o.Key, func(t *testing.T) {
			p := vectorFile(t, "bucket/"+o.Key)
			if sha256.Sum256(p) != o.Sum {
				t.Fatal("the file is not the one that was published")
			}
			switch o.Kind {
			case "plan":
				plan, err := DecodePlan(bytes.NewReader(p))
				if err != nil || plan.Place().Plan() != o.Key {
					t.Fatalf("decode: %+v, %v", plan, err)
				}
				checkLines(t, p, o.Lines, plan)
			case "manifest":
				m, err := DecodeManifest(bytes.NewReader(p))
				if err != nil || m.Place().Manifest() != o.Key {
					t.Fatalf("decode: %+v, %v", m, err)
				}
				checkLines(t, p, o.Lines, m)
			case "segment":
				checkSegment(t, p, o)
			case "map":
				checkMap(t, p, o)
			default:
				t.Errorf("an object of kind %q", o.Kind)
			}
		})
	}
}

// checkLines compares a document's text with what was published, as it is
// stored and as it is written again. Its compressed bytes may differ.
func checkLines(t *testing.T, stored []byte, lines []string, decoded interface{ Encode(io.Writer) error }) {
	t.Helper()
	want := strings.Join(lines, "\n") + "\n"
	if got := decompress(t, stored); got != want {
		t.Errorf("it holds\n%s\nwant\n%s", got, want)
	}
	again, err := EncodeObject(decoded)
	if err != nil {
		t.Fatal(err)
	}
	if got := decompress(t, again); got != want {
		t.Errorf("written again it holds\n%s\nwant\n%s", got, want)
	}
}

func decompress(t *testing.T, p []byte) string {
	t.Helper()
	in, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	text, err := in.DecodeAll(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkSegment compares a segment with what was published. Written again, its
// bytes are the same up to the first block that is compressed.
func checkSegment(t *testing.T, p []byte, o vectorObject) {
	t.Helper()
	id := SegmentID{*o.Plan, o.N}
	entries, blocks := readSegment(t, p, id)
	var got []vectorEntry
	for _, e := range entries {
		got = append(got, vectorEntry(e))
	}
	if !slices.Equal(got, o.Entries) {
		t.Errorf("its index is %+v, want %+v", got, o.Entries)
	}

	encoder, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	w := NewSegmentWriter(SegmentBlocks, nil, nil)
	same := headerSize
	for i, e := range entries {
		if w.encoder = nil; e.Codec == Zstd {
			w.encoder = encoder
		}
		if err := w.Add(e.Block, e.Sum, blocks[e.Block]); err != nil {
			t.Fatal(err)
		}
		if w.encoder == nil && same == headerSize+i*entrySize {
			same += entrySize
		}
	}
	again := w.Bytes(id)
	if !bytes.Equal(again[:same], p[:same]) {
		t.Errorf("written again it begins with\n%x\nwant\n%x", again[:same], p[:same])
	}
	raw := 0 // bytes of payload in front of the first block that is compressed
	for _, e := range entries[:(same-headerSize)/entrySize] {
		raw += int(e.Length)
	}
	if at := indexSize(len(entries)); !bytes.Equal(again[at:at+raw], p[at:at+raw]) {
		t.Error("written again its raw payload differs")
	}
	if _, back := readSegment(t, again, id); len(back) != len(blocks) {
		t.Errorf("written again it has %d blocks, want %d", len(back), len(blocks))
	}
}

func readSegment(t *testing.T, p []byte, id SegmentID) ([]Entry, map[int64][]byte) {
	t.Helper()
	reader, err := NewSegmentReader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var entries []Entry
	blocks := map[int64][]byte{}
	err = reader.Read(bytes.NewReader(p), id, func(e Entry, raw []byte) error {
		entries = append(entries, e)
		blocks[e.Block] = bytes.Clone(raw)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries, blocks
}

func checkMap(t *testing.T, p []byte, o vectorObject) {
	t.Helper()
	var s Shard
	if err := s.Decode(bytes.NewReader(p), o.N, *o.Shard); err != nil {
		t.Fatal(err)
	}
	var want Shard
	for _, b := range o.Blocks {
		want[b.Slot] = b.Sum
	}
	if s != want {
		t.Error("its hashes are not those that were published")
	}
	if !bytes.Equal(want.Encode(o.N), p) {
		t.Error("written again it differs")
	}
}

// What a builder does, over the published bucket: each block that the map has
// and the base's has not must be in a segment, and together they are the disk.
func TestThePublishedRunsBuildTheDisk(t *testing.T) {
	v := loadVectors(t)
	disk := map[int64][]byte{}
	manifests := map[string]*Manifest{}
	for _, d := range v.Disks {
		m, segments := vectorRun(t, v, d.Run)
		manifests[d.Run] = m
		if m.Digest != d.Digest || m.Disk.Size != d.Size {
			t.Errorf("%s: digest %s of %d bytes, want %s of %d", d.Run, m.Digest, m.Disk.Size, d.Digest, d.Size)
		}
		if m.Base != nil && m.Base.Digest != manifests[m.Base.Run].Digest {
			t.Errorf("%s: it is not made against the run that it names", d.Run)
		}
		for n, raw := range segments {
			disk[n] = raw
		}
		want := map[int64]Hash{}
		for _, b := range d.Blocks {
			want[b.Block] = b.Sum
			if HashBlock(b.bytes()) != b.Sum || !bytes.Equal(disk[b.Block], b.bytes()) {
				t.Errorf("%s: block %d is not what was published", d.Run, b.Block)
			}
		}
		for n := range Shards(d.Size) {
			var s Shard
			if ref, ok := m.Shard(n); ok {
				place := m.Place()
				place.Run = m.Holder(ref)
				if err := s.Decode(bytes.NewReader(vectorFile(t, "bucket/"+place.Map(n, ref.Sum))), n, ref.Sum); err != nil {
					t.Fatal(err)
				}
			}
			for slot, sum := range s {
				block := n*ShardBlocks + int64(slot)
				if sum != want[block] {
					t.Errorf("%s: the map has %s for block %d, want %s", d.Run, sum, block, want[block])
				}
				if raw := disk[block]; sum.IsZero() != (raw == nil) || raw != nil && HashBlock(raw) != sum {
					t.Errorf("%s: block %d is not what the map says", d.Run, block)
				}
			}
		}
	}
}

// vectorRun returns a run's manifest and the blocks of its segments, nil for
// those that became zero.
func vectorRun(t *testing.T, v vectors, run string) (*Manifest, map[int64][]byte) {
	t.Helper()
	var m *Manifest
	blocks := map[int64][]byte{}
	var segments []int64
	for _, o := range v.Objects {
		if !strings.Contains(o.Key, "/"+run+"/") {
			continue
		}
		p := vectorFile(t, "bucket/"+o.Key)
		switch o.Kind {
		case "segment":
			_, got := readSegment(t, p, SegmentID{*o.Plan, o.N})
			for n, raw := range got {
				blocks[n] = raw
			}
			segments = append(segments, o.N)
		case "manifest":
			var err error
			if m, err = DecodeManifest(bytes.NewReader(p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var named []int64
	for _, r := range m.Segments {
		for n := r.First; n < r.First+r.Count; n++ {
			named = append(named, n)
		}
	}
	if !slices.Equal(named, segments) {
		t.Errorf("%s: the manifest names segments %v, and there are %v", run, named, segments)
	}
	for n, raw := range blocks {
		if len(raw) == 0 {
			blocks[n] = nil
		}
	}
	return m, blocks
}

func TestThePublishedBadObjectsAreRefused(t *testing.T) {
	for _, r := range loadVectors(t).Refused {
		t.Run(r.File, func(t *testing.T) {
			p := vectorFile(t, r.File)
			want, ok := reasons[r.Why]
			if !ok {
				t.Fatalf("an unknown reason %q", r.Why)
			}
			if err := r.read(p); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}

// read decodes the object as what it claims to be.
func (r vectorRefused) read(p []byte) error {
	switch r.Kind {
	case "plan":
		_, err := DecodePlan(bytes.NewReader(p))
		return err
	case "manifest":
		_, err := DecodeManifest(bytes.NewReader(p))
		return err
	case "map":
		return new(Shard).Decode(bytes.NewReader(p), r.N, *r.Shard)
	case "segment":
		reader, err := NewSegmentReader()
		if err != nil {
			return err
		}
		defer reader.Close()
		return reader.Read(bytes.NewReader(p), SegmentID{*r.Plan, r.N}, func(Entry, []byte) error { return nil })
	}
	return errors.New("an unknown kind " + r.Kind)
}
