package staging

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Kind says what a segment's entry holds.
type Kind uint8

// The kinds of entries. Patch is reserved and refused by version 1.
const (
	Data  Kind = 1 // the block's bytes
	Zero  Kind = 2 // the block became zero; no payload
	Patch Kind = 3
)

// Codec says how an entry's payload is encoded.
type Codec uint8

// The codecs.
const (
	Raw  Codec = 0
	Zstd Codec = 1
)

// Layout of a segment; docs/staging-format.md has the tables.
const (
	segmentMagic  = "SKYLSEG\n"
	headerSize    = 56
	entrySize     = 56
	checksumSize  = 4
	MaxEntries    = LargeSegmentBlocks
	MaxIndexSize  = headerSize + MaxEntries*entrySize + checksumSize
	encodingSlack = 64 << 10 // the most that zstd adds to a block it cannot compress, with room to spare
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SegmentID says which segment this is: the SHA-256 of the stored plan, and
// the number of the slice. Two attempts of a run that made different plans can
// not take each other's segments for their own.
type SegmentID struct {
	Plan Hash
	N    int64
}

// Entry describes one block of a segment.
type Entry struct {
	Block  int64
	Kind   Kind
	Codec  Codec
	Offset uint32 // of the payload, from the payload's start
	Length uint32
	Sum    Hash // of the raw block; zero for Zero
}

// SegmentWriter encodes one segment at a time into a buffer of its own. It
// allocates nothing after it was made.
type SegmentWriter struct {
	buf     []byte // room for the largest index, then the payload
	entries []Entry
	limit   int
	encoder *zstd.Encoder
}

// SegmentBuffer returns the memory in bytes that a writer of segments of n
// blocks holds.
func SegmentBuffer(n int) int { return indexSize(n) + n*BlockSize + encodingSlack }

// NewSegmentWriter makes a writer of segments of at most n blocks. With an
// encoder, payloads are compressed where that makes them smaller. The buffer
// is SegmentBuffer(n) long, or nil to allocate one.
func NewSegmentWriter(n int, encoder *zstd.Encoder, buffer []byte) *SegmentWriter {
	if buffer == nil {
		buffer = make([]byte, SegmentBuffer(n))
	}
	w := &SegmentWriter{buf: buffer, limit: n, encoder: encoder, entries: make([]Entry, 0, n)}
	w.Reset()
	return w
}

// NewEncoder makes an encoder for NewSegmentWriter: fastest level, one
// goroutine's worth of memory. It may be shared.
func NewEncoder(concurrency int) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(concurrency),
		zstd.WithWindowSize(BlockSize), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
}

// Reset forgets all entries.
func (w *SegmentWriter) Reset() {
	w.entries = w.entries[:0]
	w.buf = w.buf[:indexSize(w.limit)]
}

// Len returns how many entries there are.
func (w *SegmentWriter) Len() int { return len(w.entries) }

// Add takes a block whose hash is sum; a zero hash makes it an entry of kind
// Zero, whatever raw is. Blocks come in ascending order. raw is BlockSize long
// and not kept.
func (w *SegmentWriter) Add(block int64, sum Hash, raw []byte) error {
	switch {
	case len(w.entries) == w.limit:
		return bad("segment", ErrRange, "more than %d entries", w.limit)
	case block < 0 || block >= MaxBlocks:
		return bad("segment", ErrRange, "block %d", block)
	case len(w.entries) > 0 && block <= w.entries[len(w.entries)-1].Block:
		return bad("segment", ErrOrder, "block %d after %d", block, w.entries[len(w.entries)-1].Block)
	}
	start := len(w.buf)
	e := Entry{Block: block, Kind: Zero, Offset: uint32(start - indexSize(w.limit))}
	if !sum.IsZero() {
		if len(raw) != BlockSize {
			return bad("segment", ErrRange, "a block of %d bytes", len(raw))
		}
		e.Kind, e.Sum = Data, sum
		w.buf, e.Codec = w.encode(raw)
		e.Length = uint32(len(w.buf) - start)
	}
	w.entries = append(w.entries, e)
	return nil
}

// encode appends raw in the codec that makes it smaller.
func (w *SegmentWriter) encode(raw []byte) ([]byte, Codec) {
	if w.encoder != nil {
		if out := w.encoder.EncodeAll(raw, w.buf); len(out)-len(w.buf) < BlockSize {
			return out, Zstd
		}
	}
	return append(w.buf, raw...), Raw
}

// Bytes returns the segment as it is stored, until the next Reset or Add. A
// segment without entries is not stored: nil.
func (w *SegmentWriter) Bytes(id SegmentID) []byte {
	if len(w.entries) == 0 {
		return nil
	}
	size := indexSize(len(w.entries))
	p := w.buf[indexSize(w.limit)-size:]
	copy(p, segmentMagic)
	binary.LittleEndian.PutUint16(p[8:], Version)
	binary.LittleEndian.PutUint16(p[10:], 0)
	binary.LittleEndian.PutUint32(p[12:], uint32(len(w.entries)))
	binary.LittleEndian.PutUint64(p[16:], uint64(id.N))
	copy(p[24:headerSize], id.Plan[:])
	for i, e := range w.entries {
		putEntry(p[headerSize+i*entrySize:], e)
	}
	binary.LittleEndian.PutUint32(p[size-checksumSize:], crc32.Checksum(p[:size-checksumSize], castagnoli))
	return p
}

func putEntry(p []byte, e Entry) {
	binary.LittleEndian.PutUint64(p, uint64(e.Block))
	binary.LittleEndian.PutUint32(p[8:], e.Offset)
	binary.LittleEndian.PutUint32(p[12:], e.Length)
	p[16], p[17] = byte(e.Kind), byte(e.Codec)
	clear(p[18:24])
	copy(p[24:], e.Sum[:])
}

func getEntry(p []byte) Entry {
	return Entry{
		Block:  int64(binary.LittleEndian.Uint64(p)),
		Offset: binary.LittleEndian.Uint32(p[8:]),
		Length: binary.LittleEndian.Uint32(p[12:]),
		Kind:   Kind(p[16]),
		Codec:  Codec(p[17]),
		Sum:    Hash(p[24:entrySize]),
	}
}

func indexSize(entries int) int { return headerSize + entries*entrySize + checksumSize }

// ReadIndex reads a segment's header and index from its first bytes and checks
// them and that it is the segment id. A reader of an index alone asks for the
// first MaxIndexSize bytes of the object.
func ReadIndex(r io.Reader, id SegmentID) ([]Entry, error) {
	var fixed [MaxIndexSize]byte
	head := fixed[:headerSize]
	if err := readFull("segment", r, head); err != nil {
		return nil, err
	}
	if !bytes.Equal(head[:8], []byte(segmentMagic)) {
		return nil, bad("segment", ErrMalformed, "no segment begins like this")
	}
	if v := binary.LittleEndian.Uint16(head[8:]); v != Version {
		return nil, bad("segment", ErrVersion, "version %d", v)
	}
	count := binary.LittleEndian.Uint32(head[12:])
	if count == 0 || count > MaxEntries {
		return nil, bad("segment", ErrRange, "%d entries", count)
	}
	p := fixed[:indexSize(int(count))]
	if err := readFull("segment", r, p[headerSize:]); err != nil {
		return nil, err
	}
	body := p[:len(p)-checksumSize]
	if binary.LittleEndian.Uint32(p[len(body):]) != crc32.Checksum(body, castagnoli) {
		return nil, bad("segment", ErrChecksum, "of the index")
	}
	if binary.LittleEndian.Uint16(head[10:]) != 0 {
		return nil, bad("segment", ErrMalformed, "reserved bytes are set")
	}
	if got := (SegmentID{Hash(head[24:]), int64(binary.LittleEndian.Uint64(head[16:]))}); got != id {
		return nil, bad("segment", ErrMismatch, "it is segment %d of plan %s", got.N, got.Plan)
	}
	return parseEntries(body[headerSize:])
}

func parseEntries(p []byte) ([]Entry, error) {
	entries := make([]Entry, 0, len(p)/entrySize)
	last, offset := int64(-1), uint32(0)
	for ; len(p) > 0; p = p[entrySize:] {
		e := getEntry(p)
		if err := e.validate(); err != nil {
			return nil, err
		}
		if !IsZero(p[18:24]) {
			return nil, bad("segment", ErrMalformed, "reserved bytes of block %d are set", e.Block)
		}
		if e.Block <= last || e.Offset != offset {
			return nil, bad("segment", ErrOrder, "block %d at %d", e.Block, e.Offset)
		}
		last, offset = e.Block, offset+e.Length
		entries = append(entries, e)
	}
	return entries, nil
}

func (e Entry) validate() error {
	if e.Block < 0 || e.Block >= MaxBlocks {
		return bad("segment", ErrRange, "block %d", e.Block)
	}
	ok := false
	switch e.Kind {
	case Zero:
		ok = e.Codec == Raw && e.Length == 0 && e.Sum.IsZero()
	case Data:
		ok = !e.Sum.IsZero() && (e.Codec == Raw && e.Length == BlockSize || e.Codec == Zstd && e.Length > 0 && e.Length < BlockSize)
	case Patch:
		return bad("segment", ErrVersion, "block %d is a patch, which version %d does not know", e.Block, Version)
	}
	if !ok {
		return bad("segment", ErrMalformed, "block %d has kind %d, codec %d, length %d", e.Block, e.Kind, e.Codec, e.Length)
	}
	return nil
}

// SegmentReader decodes segments; it may be used again and again, by one
// goroutine at a time. Close frees it.
type SegmentReader struct {
	decoder      *zstd.Decoder
	payload, raw []byte
}

// NewSegmentReader makes a reader; it holds two blocks of memory.
func NewSegmentReader() (*SegmentReader, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(BlockSize),
		zstd.WithDecoderMaxWindow(BlockSize), zstd.WithDecoderLowmem(true), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, err
	}
	return &SegmentReader{decoder, make([]byte, BlockSize), make([]byte, 0, BlockSize)}, nil
}

// Close frees the decoder.
func (s *SegmentReader) Close() { s.decoder.Close() }

// Read decodes the whole segment id and emits its blocks in ascending order,
// each after its hash was checked. raw is nil for Zero entries and valid until
// emit returns.
func (s *SegmentReader) Read(r io.Reader, id SegmentID, emit func(e Entry, raw []byte) error) error {
	entries, err := ReadIndex(r, id)
	if err != nil {
		return err
	}
	for _, e := range entries {
		raw, err := s.block(r, e)
		if err != nil {
			return err
		}
		if err := emit(e, raw); err != nil {
			return err
		}
	}
	if n, err := io.ReadFull(r, s.payload[:1]); n != 0 {
		return bad("segment", ErrTrailing, "after block %d", entries[len(entries)-1].Block)
	} else if err != io.EOF {
		return err
	}
	return nil
}

func (s *SegmentReader) block(r io.Reader, e Entry) ([]byte, error) {
	if e.Kind == Zero {
		return nil, nil
	}
	raw := s.payload[:e.Length]
	if err := readFull("segment", r, raw); err != nil {
		return nil, err
	}
	if e.Codec == Zstd {
		var err error
		if raw, err = s.decoder.DecodeAll(raw, s.raw); err != nil || len(raw) != BlockSize {
			return nil, bad("segment", ErrMalformed, "block %d does not decode to %d bytes: %v", e.Block, BlockSize, err)
		}
	}
	if sha256.Sum256(raw) != e.Sum {
		return nil, bad("segment", ErrChecksum, "block %d is not what its hash says", e.Block)
	}
	return raw, nil
}

// readFull reads all of p; a stream that ends before is a FormatError, any
// other error of the reader comes back as it is.
func readFull(object string, r io.Reader, p []byte) error {
	n, err := io.ReadFull(r, p)
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return bad(object, ErrTruncated, "%d of %d bytes", n, len(p))
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", object, err)
	}
	return nil
}
