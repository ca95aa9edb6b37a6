package staging

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// sealIndex writes the right checksum behind a segment's changed index.
func sealIndex(p []byte, entries int) []byte {
	size := indexSize(entries)
	binary.LittleEndian.PutUint32(p[size-checksumSize:], crc32.Checksum(p[:size-checksumSize], castagnoli))
	return p
}

func testSegment(t testing.TB) []byte {
	t.Helper()
	encoder, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	w := NewSegmentWriter(SegmentBlocks, encoder, nil)
	text := bytes.Repeat([]byte("text"), BlockSize/4)
	if err := errors.Join(w.Add(3, HashBlock(text), text), w.Add(4, Hash{}, nil), w.Add(9, HashBlock(text), text)); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(w.Bytes(testID))
}

func TestABadSegmentIsRefused(t *testing.T) {
	good := testSegment(t)
	edit := func(at int, b ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[at:], b)
		return p
	}
	second := headerSize + entrySize
	w := NewSegmentWriter(1, nil, nil)
	if err := w.Add(0, HashBlock(testBlock(1)), testBlock(1)); err != nil {
		t.Fatal(err)
	}
	flipped := w.Bytes(testID)
	flipped[len(flipped)-1] ^= 1
	reader, err := NewSegmentReader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for name, test := range map[string]struct {
		p    []byte
		want error
	}{
		"nothing":                    {nil, ErrTruncated},
		"a part of the header":       {good[:9], ErrTruncated},
		"a part of the index":        {good[:headerSize+entrySize], ErrTruncated},
		"a part of the payload":      {good[:len(good)-1], ErrTruncated},
		"trailing bytes":             {append(bytes.Clone(good), 0), ErrTrailing},
		"another magic":              {edit(0, 'X'), ErrMalformed},
		"a newer version":            {edit(8, 2), ErrVersion},
		"no entries":                 {edit(12, 0), ErrRange},
		"a huge count":               {edit(12, 0xff, 0xff, 0xff, 0xff), ErrRange},
		"a flipped bit in the index": {edit(headerSize, 2), ErrChecksum},
		"a flipped bit in payload":   {flipped, ErrChecksum},
		"another segment":            {sealIndex(edit(16, 9), 3), ErrMismatch},
		"a segment of another plan":  {sealIndex(edit(24, 9), 3), ErrMismatch},
		"reserved bytes in header":   {sealIndex(edit(10, 1), 3), ErrMalformed},
		"reserved bytes in entry":    {sealIndex(edit(headerSize+18, 1), 3), ErrMalformed},
		"a patch":                    {sealIndex(edit(headerSize+16, byte(Patch)), 3), ErrVersion},
		"an unknown kind":            {sealIndex(edit(headerSize+16, 9), 3), ErrMalformed},
		"an unknown codec":           {sealIndex(edit(headerSize+17, 9), 3), ErrMalformed},
		"a zero block with a codec":  {sealIndex(edit(second+17, 1), 3), ErrMalformed},
		"a zero block with a hash":   {sealIndex(edit(second+24, 1), 3), ErrMalformed},
		"a raw block of another len": {sealIndex(edit(headerSize+17, 0), 3), ErrMalformed},
		"a block past all disks":     {sealIndex(edit(headerSize, 0, 0, 0, 8), 3), ErrRange},
		"a negative block":           {sealIndex(edit(headerSize, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 3), ErrRange},
		"blocks out of order":        {sealIndex(edit(second, 3), 3), ErrOrder},
		"payloads that overlap":      {sealIndex(edit(headerSize+2*entrySize+8, 0, 0), 3), ErrOrder},
		"another block's hash":       {sealIndex(edit(headerSize+24, 1), 3), ErrChecksum},
	} {
		err := reader.Read(bytes.NewReader(test.p), testID, func(Entry, []byte) error { return nil })
		var format *FormatError
		if !errors.As(err, &format) || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// document makes a compressed document of lines.
func document(t testing.TB, lines ...any) []byte {
	t.Helper()
	var text bytes.Buffer
	for _, line := range lines {
		if s, ok := line.(string); ok {
			text.WriteString(s + "\n")
			continue
		}
		p, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(p, '\n'))
	}
	return compress(t, text.Bytes())
}

func compress(t testing.TB, p []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithWindowSize(documentWindow))
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(p, nil)
}

func TestABadPlanIsRefused(t *testing.T) {
	head := func(edit func(*planHeader)) planHeader {
		f := testFacts()
		f.SegmentBlocks = SegmentBlocks
		h := planHeader{planFormat, Version, f, 3, 2}
		if edit != nil {
			edit(&h)
		}
		return h
	}
	good := document(t, head(nil), "[1,2]", "[5,1]")
	if _, err := DecodePlan(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		p    []byte
		want error
	}{
		"nothing":                  {nil, ErrTruncated},
		"no zstd":                  {[]byte("{}\n{}\n{}\n{}\n"), ErrMalformed},
		"a cut stream":             {good[:len(good)-5], ErrTruncated},
		"a line less":              {document(t, head(nil), "[1,2]"), ErrTruncated},
		"a line more":              {document(t, head(nil), "[1,2]", "[5,1]", "[9,1]"), ErrTrailing},
		"two values in a line":     {document(t, head(nil), "[1,2] [5,1]", "[5,1]"), ErrTrailing},
		"three numbers":            {document(t, head(nil), "[1,2,3]", "[5,1]"), ErrMalformed},
		"no numbers":               {document(t, head(nil), "[\"1\",2]", "[5,1]"), ErrMalformed},
		"an unknown member":        {document(t, `{"format":"skylift-plan","version":1,"patch":true}`), ErrMalformed},
		"a newer version":          {document(t, `{"format":"skylift-plan","version":2,"patch":true}`), ErrVersion},
		"another format":           {document(t, `{"format":"skylift-manifest","version":1}`), ErrMalformed},
		"a huge line":              {document(t, `{"format":"`+strings.Repeat("x", 1<<20)+`"}`), ErrRange},
		"a huge count":             {document(t, head(func(h *planHeader) { h.Ranges = 1 << 40 })), ErrRange},
		"ranges out of order":      {document(t, head(nil), "[5,2]", "[1,1]"), ErrOrder},
		"ranges that overlap":      {document(t, head(nil), "[1,2]", "[2,1]"), ErrOrder},
		"ranges that touch":        {document(t, head(nil), "[1,2]", "[3,1]"), ErrOrder},
		"a range past the end":     {document(t, head(nil), "[1,2]", "[9000,1]"), ErrRange},
		"a range that overflows":   {document(t, head(nil), "[1,2]", "[9223372036854775807,1]"), ErrRange},
		"an empty range":           {document(t, head(nil), "[1,0]", "[5,1]"), ErrRange},
		"another count of blocks":  {document(t, head(func(h *planHeader) { h.Blocks = 4 }), "[1,2]", "[5,1]"), ErrMismatch},
		"an unsafe name":           {document(t, head(func(h *planHeader) { h.Run = "../x" }), "[1,2]", "[5,1]"), ErrMalformed},
		"a disk without size":      {document(t, head(func(h *planHeader) { h.Disk.Size = 0 }), "[1,2]", "[5,1]"), ErrRange},
		"a disk that is too large": {document(t, head(func(h *planHeader) { h.Disk.Size = MaxDiskSize + 1 }), "[1,2]", "[5,1]"), ErrRange},
		"an unknown mode":          {document(t, head(func(h *planHeader) { h.Mode = "patch" }), "[1,2]", "[5,1]"), ErrMalformed},
		"no base":                  {document(t, head(func(h *planHeader) { h.Base = nil }), "[1,2]", "[5,1]"), ErrMalformed},
		"a base that is larger":    {document(t, head(func(h *planHeader) { h.Base.Size = h.Disk.Size + 1 }), "[1,2]", "[5,1]"), ErrRange},
		"a base that is itself":    {document(t, head(func(h *planHeader) { h.Base.Run = h.Run }), "[1,2]", "[5,1]"), ErrMalformed},
		"segments of another size": {document(t, head(func(h *planHeader) { h.SegmentBlocks = LargeSegmentBlocks }), "[1,2]", "[5,1]"), ErrRange},
	} {
		_, err := DecodePlan(bytes.NewReader(test.p))
		var format *FormatError
		if !errors.As(err, &format) || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestABadManifestIsRefused(t *testing.T) {
	m := testManifest(t)
	head := func(edit func(*manifestHeader)) manifestHeader {
		h := manifestHeader{manifestFormat, Version, m.Facts, m.Plan, m.Digest, m.Counters, m.Software, m.Sealed, 2, 2, 3}
		if edit != nil {
			edit(&h)
		}
		return h
	}
	shard := func(n int64, holder int, sum Hash) shardLine { return shardLine{n, holder, sum} }
	body := []any{"[0,2]", "[7,1]", `"sms-run-1"`, `"sms-run-0"`, shard(1, 1, Hash{1}), shard(2, 2, Hash{2}), shard(3, 0, Hash{3})}
	with := func(at int, line any) []any {
		out := append([]any{head(nil)}, body...)
		out[at+1] = line
		return out
	}
	good := document(t, with(0, body[0])...)
	if _, err := DecodeManifest(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	only := func(h manifestHeader) []any { return append([]any{h}, body...) }
	for name, test := range map[string]struct {
		lines []any
		want  error
	}{
		"another digest":         {only(head(func(h *manifestHeader) { h.Digest = Hash{9} })), ErrChecksum},
		"huge counts":            {only(head(func(h *manifestHeader) { h.Shards = 1 << 30 })), ErrRange},
		"negative counts":        {only(head(func(h *manifestHeader) { h.Segments = -1 })), ErrRange},
		"more holders":           {only(head(func(h *manifestHeader) { h.Holders = 4 })), ErrRange},
		"segments overlap":       {with(1, "[1,3]"), ErrOrder},
		"segments negative":      {with(0, "[-1,3]"), ErrRange},
		"a holder that is bad":   {with(2, `"../x"`), ErrMalformed},
		"a holder that is it":    {with(2, `"sms-run-2"`), ErrMalformed},
		"a holder that is none":  {with(4, shard(1, 3, Hash{1})), ErrMalformed},
		"a zero shard":           {with(4, shard(1, 1, Hash{})), ErrMalformed},
		"shards out of order":    {with(5, shard(1, 1, Hash{2})), ErrOrder},
		"a shard out of range":   {with(6, shard(4, 0, Hash{3})), ErrOrder},
		"a changed shard":        {with(4, shard(1, 1, Hash{7})), ErrChecksum},
		"a hash in upper case":   {with(4, `{"n":1,"holder":1,"sha256":"`+strings.ToUpper(Hash{0xab}.String())+`"}`), ErrMalformed},
		"a hash that is short":   {with(4, `{"n":1,"holder":1,"sha256":"ab"}`), ErrMalformed},
		"a line less":            {only(head(nil))[:7], ErrTruncated},
		"a line more":            {append(only(head(nil)), "{}"), ErrTrailing},
		"a newer version":        {only(head(func(h *manifestHeader) { h.Version = 2 })), ErrVersion},
		"the document of a plan": {only(head(func(h *manifestHeader) { h.Format = planFormat })), ErrMalformed},
	} {
		_, err := DecodeManifest(bytes.NewReader(document(t, test.lines...)))
		var format *FormatError
		if !errors.As(err, &format) || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestABombDoesNotFillTheMemory(t *testing.T) {
	bomb := compress(t, make([]byte, 256<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, errPlan := DecodePlan(bytes.NewReader(bomb))
	_, errManifest := DecodeManifest(bytes.NewReader(bomb))
	runtime.ReadMemStats(&after)
	if !errors.Is(errPlan, ErrRange) || !errors.Is(errManifest, ErrRange) {
		t.Errorf("got %v and %v", errPlan, errManifest)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("%d bytes were allocated for %d", grown, len(bomb))
	}
}

func TestNamesThatAreUnsafeInKeysAreRefused(t *testing.T) {
	for _, name := range []string{"", "..", "a/b", "A", "ü", strings.Repeat("a", 65), "a b"} {
		if (Place{name, "run", "disk"}).Validate() == nil {
			t.Errorf("%q was taken", name)
		}
	}
	place := Place{"sms-job-1", "sms-run-1", DiskKey("[ds 1] ../../x.vmdk")}
	if err := place.Validate(); err != nil {
		t.Error(err)
	}
	if n, ok := place.ParseSegment(place.Segment(123)); !ok || n != 123 {
		t.Errorf("segment 123 is parsed as %d", n)
	}
	for _, key := range []string{place.Plan(), place.SegmentPrefix() + "1", place.SegmentPrefix() + "-0000001", place.Segment(5) + "x"} {
		if n, ok := place.ParseSegment(key); ok {
			t.Errorf("%q was parsed as segment %d", key, n)
		}
	}
}
