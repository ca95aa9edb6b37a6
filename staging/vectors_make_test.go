package staging

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

var makeVectors = flag.Bool("make-vectors", false, "write the test vectors, which must not exist yet")

// TestMakeVectors tells how the published vectors came about. What was
// published stays: it writes into an empty place only.
func TestMakeVectors(t *testing.T) {
	if !*makeVectors {
		t.Skip("the vectors are published; -make-vectors writes new ones")
	}
	if _, err := os.Stat(vectorsDir); err == nil {
		t.Fatalf("%s exists, and what was published does not change", vectorsDir)
	}
	m := newVectorMaker(t)
	m.firstRun()
	m.secondRun()
	m.refuseSegments()
	m.refuseMaps()
	m.refuseDocuments()
	p, err := json.MarshalIndent(m.vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	m.write("vectors.json", append(p, '\n'))
}

const vectorDiskSize = 600<<20 + 4096 // two shards, the last block partial

type vectorMaker struct {
	*testing.T
	vectors vectors
	encoder *zstd.Encoder
	facts   Facts
	shards  [2]Shard
	blocks  map[int64]vectorBlock
	first   *Manifest
	sum     Hash // of the first run's stored manifest
	// objects of the runs, to be spoiled
	plan, manifest, segment, shard []byte
	planSum                        Hash
}

func newVectorMaker(t *testing.T) *vectorMaker {
	encoder, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	return &vectorMaker{T: t, encoder: encoder, vectors: vectors{Version: Version}, blocks: map[int64]vectorBlock{},
		facts: Facts{
			Job: "sms-job-00000001", Run: "sms-run-00000001",
			Disk:     Disk{ID: "6000c29a-0000-0000-0000-000000000001", Name: "Hard disk 1", Size: vectorDiskSize},
			Snapshot: Snapshot{ID: "snapshot-41", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Consistency: "quiesced"},
			ChangeID: "52 01/7", Mode: Full, Reason: "first run",
		}}
}

// firstRun covers blocks 0 to 39 and the last one. The second of its three
// slices has zero blocks only: that segment is not stored.
func (m *vectorMaker) firstRun() {
	for _, n := range []int64{0, 2, 3, 32} {
		m.set(n, fmt.Sprintf("first run, block %d\n", n), BlockSize)
	}
	m.set(1200, "the last block is padded\n", 4096)
	plan := m.storePlan([]Range{{0, 40}, {1200, 1}})
	m.segment = m.storeSegment(plan, 0, []int64{0, 2, 3}, nil)
	m.storeSegment(plan, 2, []int64{32, 1200}, nil)
	manifest := &Manifest{Segments: []Range{{0, 1}, {2, 1}}, Counters: Counters{
		Planned: 40*BlockSize + 4096, Read: 40*BlockSize + 4096, Changed: 5 * BlockSize, Sent: 5 * BlockSize, Stored: 66000}}
	m.seal(manifest, m.facts.Run, m.facts.Run)
	m.first = manifest
}

// secondRun covers a superset of what changed: block 1 was written (stored
// raw), 2 became zero, 3 changed; 0 and 1199 are as they were. The second
// shard of its map is the first run's.
func (m *vectorMaker) secondRun() {
	m.facts.Run = "sms-run-00000002"
	m.facts.Base = &Base{Run: m.first.Run, Manifest: m.sum, Digest: m.first.Digest, ChangeID: m.facts.ChangeID, Size: vectorDiskSize}
	m.facts.Snapshot = Snapshot{ID: "snapshot-42", Created: time.Date(2026, 1, 3, 3, 4, 5, 0, time.UTC),
		Consistency: "crash", Note: "the guest did not come to rest in time"}
	m.facts.ChangeID, m.facts.Mode, m.facts.Reason = "52 01/9", Incremental, ""
	m.set(1, "second run, block 1\n", BlockSize)
	delete(m.blocks, 2)
	m.shards[0][2] = Hash{}
	m.set(3, "second run, block 3\n", BlockSize)
	plan := m.storePlan([]Range{{0, 4}, {1199, 1}})
	m.storeSegment(plan, 0, []int64{1, 2, 3}, []int64{1})
	m.seal(&Manifest{Segments: []Range{{0, 1}}, Counters: Counters{
		Planned: 5 * BlockSize, Read: 69 * BlockSize, Changed: 3 * BlockSize, Sent: 2 * BlockSize, Stored: 558000}}, m.facts.Run, m.first.Run)
}

func (m *vectorMaker) set(n int64, text string, length int) {
	b := vectorBlock{Block: n, Text: text, Length: length}
	b.Sum = HashBlock(b.bytes())
	m.blocks[n] = b
	m.shards[n/ShardBlocks][n%ShardBlocks] = b.Sum
}

func (m *vectorMaker) storePlan(ranges []Range) *Plan {
	plan, err := NewPlan(m.facts, ranges)
	if err != nil {
		m.Fatal(err)
	}
	m.plan, err = EncodeObject(plan)
	if err != nil {
		m.Fatal(err)
	}
	m.facts, m.planSum = plan.Facts, sha256.Sum256(m.plan)
	m.object(vectorObject{Key: plan.Place().Plan(), Kind: "plan", Lines: m.lines(m.plan)}, m.plan)
	return plan
}

func (m *vectorMaker) storeSegment(plan *Plan, n int64, blocks, raw []int64) []byte {
	w := NewSegmentWriter(SegmentBlocks, nil, nil)
	for _, b := range blocks {
		if w.encoder = m.encoder; slices.Contains(raw, b) {
			w.encoder = nil
		}
		block := m.blocks[b]
		if err := w.Add(b, block.Sum, block.bytes()); err != nil {
			m.Fatal(err)
		}
	}
	sum := m.planSum
	o := vectorObject{Key: plan.Place().Segment(n), Kind: "segment", Plan: &sum, N: n}
	for _, e := range w.entries {
		o.Entries = append(o.Entries, vectorEntry(e))
	}
	p := bytes.Clone(w.Bytes(SegmentID{sum, n}))
	m.object(o, p)
	return p
}

// seal stores the shards that this run holds, and the manifest.
func (m *vectorMaker) seal(manifest *Manifest, holders ...string) {
	manifest.Facts, manifest.Plan, manifest.Software = m.facts, m.planSum, "skylift test vectors"
	manifest.Sealed = m.facts.Snapshot.Created.Add(time.Hour)
	place := m.facts.Place()
	for i, holder := range holders {
		sum := m.shards[i].Sum()
		manifest.AddShard(int64(i), sum, holder)
		if holder != m.facts.Run {
			continue
		}
		o := vectorObject{Key: place.Map(int64(i), sum), Kind: "map", N: int64(i), Shard: &sum}
		for slot, h := range m.shards[i] {
			if !h.IsZero() {
				o.Blocks = append(o.Blocks, vectorSlot{int64(slot), h})
			}
		}
		m.shard = m.shards[i].Encode(int64(i))
		m.object(o, m.shard)
	}
	var err error
	if manifest.Digest, err = manifest.ComputeDigest(); err != nil {
		m.Fatal(err)
	}
	if m.manifest, err = EncodeObject(manifest); err != nil {
		m.Fatal(err)
	}
	m.sum = sha256.Sum256(m.manifest)
	m.object(vectorObject{Key: place.Manifest(), Kind: "manifest", Lines: m.lines(m.manifest)}, m.manifest)
	d := vectorDisk{Run: m.facts.Run, Size: vectorDiskSize, Digest: manifest.Digest}
	for _, b := range m.blocks {
		d.Blocks = append(d.Blocks, b)
	}
	slices.SortFunc(d.Blocks, func(a, b vectorBlock) int { return int(a.Block - b.Block) })
	m.vectors.Disks = append(m.vectors.Disks, d)
}

// refuseSegments spoils the first run's first segment, of three entries.
func (m *vectorMaker) refuseSegments() {
	plan := *m.vectors.Objects[1].Plan
	good := m.segment
	const second, third = headerSize + entrySize, headerSize + 2*entrySize
	edit := func(at int, b ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[at:], b)
		return p
	}
	sealed := func(at int, b ...byte) []byte { return sealIndex(edit(at, b...), 3) }
	long, err := zstd.NewWriter(nil)
	if err != nil {
		m.Fatal(err)
	}
	bomb := long.EncodeAll(make([]byte, 64<<20), nil)
	for _, s := range []struct {
		name, why string
		p         []byte
	}{
		{"empty", "truncated", nil},
		{"cut-in-header", "truncated", good[:40]},
		{"cut-in-index", "truncated", good[:third]},
		{"cut-in-payload", "truncated", good[:len(good)-1]},
		{"trailing-byte", "trailing", append(bytes.Clone(good), 0)},
		{"other-magic", "malformed", edit(0, 'X')},
		{"version-2", "version", sealed(8, 2)},
		{"no-entries", "range", edit(12, 0)},
		{"65-entries", "range", edit(12, 65)},
		{"index-bit-flipped", "checksum", edit(second, 7)},
		{"header-reserved", "malformed", sealed(10, 1)},
		{"other-number", "mismatch", sealed(16, 1)},
		{"other-plan", "mismatch", sealed(24, plan[0]^1)},
		{"entry-reserved", "malformed", sealed(headerSize+18, 1)},
		{"patch-entry", "version", sealed(headerSize+16, byte(Patch))},
		{"unknown-kind", "malformed", sealed(headerSize+16, 4)},
		{"unknown-codec", "malformed", sealed(headerSize+17, 2)},
		{"raw-of-other-length", "malformed", sealed(headerSize+17, byte(Raw))},
		{"zero-with-payload", "malformed", sealed(headerSize+16, byte(Zero))},
		{"blocks-out-of-order", "order", sealed(second, 0)},
		{"gap-in-payload", "order", sealed(third+8, 0xff)},
		{"block-past-64-tib", "range", sealed(headerSize, 0, 0, 0, 8)},
		{"other-hash", "checksum", sealed(headerSize+24, good[headerSize+24]^1)},
		{"payload-decodes-longer", "malformed", m.onePayload(bomb)},
		{"payload-decodes-shorter", "malformed", m.onePayload(long.EncodeAll([]byte("short"), nil))},
		{"payload-no-zstd", "malformed", m.onePayload([]byte("no zstd frame"))},
	} {
		m.refuse(vectorRefused{File: "segment-" + s.name, Kind: "segment", Why: s.why, Plan: &plan}, s.p)
	}
}

// onePayload makes a segment 0 with one compressed block of this payload.
func (m *vectorMaker) onePayload(payload []byte) []byte {
	p := bytes.Clone(m.segment[:headerSize+entrySize+checksumSize])
	binary.LittleEndian.PutUint32(p[12:], 1)
	putEntry(p[headerSize:], Entry{Block: 0, Kind: Data, Codec: Zstd, Length: uint32(len(payload)), Sum: Hash{1}})
	return append(sealIndex(p, 1), payload...)
}

// refuseMaps spoils shard 0 of the second run.
func (m *vectorMaker) refuseMaps() {
	sum := m.shards[0].Sum()
	edit := func(at int, b byte) []byte {
		p := bytes.Clone(m.shard)
		p[at] = b
		return p
	}
	for _, s := range []struct {
		name, why string
		p         []byte
	}{
		{"cut", "truncated", m.shard[:80]},
		{"trailing-byte", "trailing", append(bytes.Clone(m.shard), 0)},
		{"other-magic", "malformed", edit(0, 'X')[:80]},
		{"version-2", "version", edit(8, 2)[:80]},
		{"reserved", "malformed", edit(10, 1)[:80]},
		{"other-shard", "mismatch", edit(12, 1)[:80]},
		{"bit-flipped", "checksum", edit(20, m.shard[20]^1)},
	} {
		m.refuse(vectorRefused{File: "map-" + s.name, Kind: "map", Why: s.why, Shard: &sum}, s.p)
	}
}

// refuseDocuments spoils the second run's plan and manifest.
func (m *vectorMaker) refuseDocuments() {
	plan, manifest := m.lines(m.plan), m.lines(m.manifest)
	replace := func(lines []string, line int, old, with string) []byte {
		if !strings.Contains(lines[line], old) {
			m.Fatalf("line %d has no %s: %s", line, old, lines[line])
		}
		out := slices.Clone(lines)
		out[line] = strings.Replace(out[line], old, with, 1)
		return m.document(out)
	}
	for _, s := range []struct {
		kind, name, why string
		p               []byte
	}{
		{"plan", "cut", "truncated", m.plan[:len(m.plan)-9]},
		{"plan", "no-zstd", "malformed", []byte(strings.Join(plan, "\n") + "\n")},
		{"plan", "version-2", "version", replace(plan, 0, `"version":1`, `"version":2`)},
		{"plan", "other-format", "malformed", replace(plan, 0, "skylift-plan", "skylift-manifest")},
		{"plan", "unknown-field", "malformed", replace(plan, 0, `"job":`, `"extra":1,"job":`)},
		{"plan", "unsafe-name", "malformed", replace(plan, 0, "sms-run-00000002", "../x")},
		{"plan", "base-is-itself", "malformed", replace(plan, 0, `"base":{"run":"sms-run-00000001"`, `"base":{"run":"sms-run-00000002"`)},
		{"plan", "full-with-base", "malformed", replace(plan, 0, `"mode":"incremental"`, `"mode":"full"`)},
		{"plan", "base-larger", "range", replace(plan, 0, `"size":629149696},"snapshot"`, `"size":629149697},"snapshot"`)},
		{"plan", "other-segment-size", "range", replace(plan, 0, `"segmentBlocks":16`, `"segmentBlocks":64`)},
		{"plan", "other-block-count", "mismatch", replace(plan, 0, `"blocks":5`, `"blocks":6`)},
		{"plan", "range-past-the-end", "range", replace(plan, 2, "[1199,1]", "[1200,2]")},
		{"plan", "ranges-touch", "order", replace(plan, 2, "[1199,1]", "[4,1]")},
		{"plan", "line-missing", "truncated", m.document(plan[:2])},
		{"plan", "line-too-many", "trailing", m.document(append(slices.Clone(plan), "[1200,1]"))},
		{"manifest", "cut", "truncated", m.manifest[:len(m.manifest)-9]},
		{"manifest", "version-2", "version", replace(manifest, 0, `"version":1`, `"version":2`)},
		{"manifest", "other-digest", "checksum", replace(manifest, 0, `"digest":"`+m.vectors.Disks[1].Digest.String(), `"digest":"`+m.first.Digest.String())},
		{"manifest", "segments-out-of-order", "order", m.document(slices.Insert(m.counted(manifest, `"segments":1`, `"segments":2`), 2, "[0,1]"))},
		{"manifest", "holder-is-itself", "malformed", replace(manifest, 2, "sms-run-00000001", "sms-run-00000002")},
		{"manifest", "holder-unknown", "malformed", replace(manifest, 4, `"holder":1`, `"holder":2`)},
		{"manifest", "shard-past-the-end", "order", replace(manifest, 4, `"n":1`, `"n":2`)},
		{"manifest", "zero-shard", "malformed", m.zeroShard(manifest)},
		{"manifest", "hash-in-upper-case", "malformed", m.document(append(slices.Clone(manifest[:4]), strings.ReplaceAll(strings.ToUpper(manifest[4]), `"N":1,"HOLDER":1,"SHA256"`, `"n":1,"holder":1,"sha256"`)))},
		{"manifest", "line-missing", "truncated", m.document(manifest[:4])},
		{"manifest", "line-too-many", "trailing", m.document(append(slices.Clone(manifest), "{}"))},
	} {
		m.refuse(vectorRefused{File: s.kind + "-" + s.name, Kind: s.kind, Why: s.why}, s.p)
	}
}

func (m *vectorMaker) counted(lines []string, old, with string) []string {
	out := slices.Clone(lines)
	out[0] = strings.Replace(out[0], old, with, 1)
	return out
}

func (m *vectorMaker) zeroShard(lines []string) []byte {
	out := slices.Clone(lines)
	out[4] = out[4][:strings.Index(out[4], `"sha256":"`)] + `"sha256":"` + strings.Repeat("0", 64) + `"}`
	return m.document(out)
}

func (m *vectorMaker) lines(stored []byte) []string {
	return strings.Split(strings.TrimSuffix(decompress(m.T, stored), "\n"), "\n")
}

func (m *vectorMaker) document(lines []string) []byte {
	return compress(m.T, []byte(strings.Join(lines, "\n")+"\n"))
}

func (m *vectorMaker) object(o vectorObject, p []byte) {
	o.Sum = sha256.Sum256(p)
	m.vectors.Objects = append(m.vectors.Objects, o)
	m.write("bucket/"+o.Key, p)
}

func (m *vectorMaker) refuse(r vectorRefused, p []byte) {
	r.File = "refused/" + r.File
	m.vectors.Refused = append(m.vectors.Refused, r)
	m.write(r.File, p)
}

func (m *vectorMaker) write(name string, p []byte) {
	path := filepath.Join(vectorsDir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(path, p, 0o644); err != nil {
		m.Fatal(err)
	}
}
