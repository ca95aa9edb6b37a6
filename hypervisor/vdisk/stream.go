package vdisk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	streamFormat = "streamOptimized VMDK"
	// maxStreamGrain is the largest grain, in sectors (4 MiB), of a stream:
	// grains are held in memory. 64 KiB is what is in use.
	maxStreamGrain = 1 << 13
	// maxStreamTables bounds what is held of a directory; 64 TiB need 1<<21.
	maxStreamTables = 1 << 22
	// streamBuffer is the least read-ahead, in bytes.
	streamBuffer = 256 << 10
	// grainHeader is what precedes a grain's compressed bytes: the disk's
	// sector (64 bits) and how many bytes there are (32 bits).
	grainHeader = 12
)

// Stream decodes a streamOptimized VMDK while it arrives: what vSphere exports
// and OVAs hold. The format is the "Stream-Optimized Compressed Sparse Extent"
// of VMware's Virtual Disk Format 5.0: after a header and a descriptor come
// the disk's grains in ascending order, each compressed, with the tables that
// list them. Grains that are zero are left out.
//
// The tables are not needed to find the grains, but to know that all have
// come: at the end they are compared with the grains seen. So a Stream that
// ends with io.EOF was complete, whether its grains were looked at or not.
//
//	for {
//		off, n, err := s.Next() // ends with io.EOF
//		p, err := s.Grain()     // or not, if these bytes are not wanted
//	}
//
// A Stream is for one goroutine. Inflating is most of the work: to spread it,
// copy Raw and inflate the copies elsewhere, each goroutine with an Inflater
// of its own.
type Stream struct {
	in         *bufio.Reader
	at         int64 // bytes of the stream taken
	header     hosted
	descriptor *Descriptor
	size       int64
	grain      int64

	off, n int64 // of the disk: the current grain
	packed int64 // its compressed length; 0 where there is no current grain
	next   int64 // where on the disk the next grain may start
	err    error // what ended the stream

	tables   tally // the grain tables seen, by the sector they are at
	listed   tally // and as the directory lists them
	grains   tally // the grains seen
	expected tally // and as the tables list them
	sealed   bool  // a footer has come
	gd       int64 // sector of the directory seen behind the grains; 0: none

	inflater Inflater
	buf      []byte
}

// NewStream reads the head of a stream. Errors of r are returned wrapped, a
// stream that ends early is an io.ErrUnexpectedEOF, and what does not fit the
// format is a FormatError.
func NewStream(r io.Reader) (*Stream, error) {
	s := &Stream{in: bufio.NewReaderSize(r, streamBuffer)}
	p, err := s.take(SectorSize)
	if err != nil {
		return nil, fmt.Errorf("%s: read the header: %w", streamFormat, err)
	}
	s.header, err = parseHosted(streamFormat, p)
	const compressed = flagCompressed | flagMarkers
	switch h := &s.header; {
	case err != nil:
		return nil, err
	case h.flags&compressed != compressed || h.compression != 1:
		return nil, malformed("%s: its grains are not compressed (flags %#x, compression %d)", streamFormat, h.flags, h.compression)
	case h.grain > maxStreamGrain:
		return nil, malformed("%s: grains of %d sectors are not supported", streamFormat, h.grain)
	}
	s.size, s.grain = int64(s.header.capacity)*SectorSize, int64(s.header.grain)*SectorSize
	if n := s.directoryEntries(); n > maxStreamTables {
		return nil, malformed("%s: a disk of %d bytes in grains of %d needs %d tables, more than are supported", streamFormat, s.size, s.grain, n)
	}
	s.inflater.grain = int(s.grain)
	if need := int(s.maxPacked()) + SectorSize; need > s.in.Size() {
		s.in = bufio.NewReaderSize(s.in, need)
	}
	if err := s.readHead(); err != nil {
		return nil, err
	}
	return s, nil
}

// Size is the disk's, in bytes.
func (s *Stream) Size() int64 { return s.size }

// GrainSize is the length in bytes of every grain but perhaps the last.
func (s *Stream) GrainSize() int { return int(s.grain) }

// Descriptor is the embedded descriptor, nil where there is none. Its name for
// the file is the one that whoever wrote the stream had for it.
func (s *Stream) Descriptor() *Descriptor { return s.descriptor }

// Next goes to the next grain and says which bytes of the disk it has. What
// lies between it and the one before is zero. It returns io.EOF at the end of
// a complete stream; behind the last grain the disk is zero. After an error it
// keeps returning it.
func (s *Stream) Next() (off, n int64, err error) {
	if s.err == nil {
		s.err = s.advance()
	}
	if s.err != nil {
		s.packed = 0
		return 0, 0, s.err
	}
	return s.off, s.n, nil
}

// Raw is the current grain as it came, for an Inflater; valid until Next.
func (s *Stream) Raw() ([]byte, error) {
	if s.packed == 0 {
		return nil, errors.New("no current grain: Next comes first")
	}
	p, err := s.peek(grainHeader + int(s.packed))
	if err != nil {
		return nil, fmt.Errorf("%s: read the grain at offset %d: %w", streamFormat, s.off, err)
	}
	return p[grainHeader:], nil
}

// NewInflater makes an Inflater for the stream's grains; any goroutine may call it.
func (s *Stream) NewInflater() *Inflater { return &Inflater{grain: int(s.grain)} }

// Grain is the current grain's bytes of the disk; valid until Next.
func (s *Stream) Grain() ([]byte, error) {
	raw, err := s.Raw()
	if err != nil {
		return nil, err
	}
	if s.buf == nil {
		s.buf = make([]byte, s.grain)
	}
	dst := s.buf[:s.n]
	if err := s.inflater.Inflate(dst, raw); err != nil {
		return nil, fmt.Errorf("the grain at offset %d: %w", s.off, err)
	}
	return dst, nil
}

// advance leaves the current grain and goes through what is between it and
// the next one.
func (s *Stream) advance() error {
	if s.packed > 0 {
		if err := s.skip(sectors(grainHeader+s.packed) * SectorSize); err != nil {
			return fmt.Errorf("%s: read the grain at offset %d: %w", streamFormat, s.off, err)
		}
		s.packed = 0
	}
	for {
		p, err := s.peek(SectorSize)
		if err == io.EOF && !s.tablesBehind() {
			if s.grains.n < s.expected.n {
				return fmt.Errorf("%s: it ends after %d of %d grains: %w", streamFormat, s.grains.n, s.expected.n, io.ErrUnexpectedEOF)
			}
			return s.finish()
		}
		if err != nil {
			return fmt.Errorf("%s: read the marker at sector %d: %w", streamFormat, s.at/SectorSize, unexpected(err))
		}
		if size := binary.LittleEndian.Uint32(p[8:]); size > 0 {
			return s.enter(binary.LittleEndian.Uint64(p), int64(size))
		}
		if err := s.marker(binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[12:])); err != nil {
			return err
		}
	}
}

// enter makes the grain of the disk's given sector, of packed compressed
// bytes, the current one.
func (s *Stream) enter(sector uint64, packed int64) error {
	at := s.at / SectorSize
	switch {
	case sector >= s.header.capacity || sector%s.header.grain != 0:
		return malformed("%s: the grain at sector %d of the stream is of sector %d, where the disk of %d sectors has none", streamFormat, at, sector, s.header.capacity)
	case packed > s.maxPacked():
		return malformed("%s: the grain at sector %d of the stream has %d bytes, more than any", streamFormat, at, packed)
	}
	off := int64(sector) * SectorSize
	if off < s.next {
		return malformed("%s: the grain at sector %d of the stream is of sector %d, which has passed already", streamFormat, at, sector)
	}
	s.off, s.n, s.packed = off, min(s.grain, s.size-off), packed
	s.next = off + s.grain
	s.grains.add(uint64(off/s.grain)%hostedEntries, at)
	return nil
}

// maxPacked bounds a grain's compressed length in bytes. Deflate adds far less
// to bytes that it cannot compress.
func (s *Stream) maxPacked() int64 { return 2 * s.grain }

// peek returns the stream's next n bytes, which stay: io.EOF where the stream
// ends before them, io.ErrUnexpectedEOF where it ends within them.
func (s *Stream) peek(n int) ([]byte, error) {
	p, err := s.in.Peek(n)
	if err == io.EOF && len(p) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}

// take returns the stream's next n bytes, valid until the stream is read on.
func (s *Stream) take(n int) ([]byte, error) {
	p, err := s.peek(n)
	if err != nil {
		return nil, unexpected(err)
	}
	s.at += int64(n)
	_, err = s.in.Discard(n)
	return p, err
}

// skip passes over n bytes.
func (s *Stream) skip(n int64) error {
	for n > 0 {
		done, err := s.in.Discard(int(min(n, 1<<30)))
		s.at += int64(done)
		n -= int64(done)
		if err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// unexpected is err where the stream must not end.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sectors is how many sectors n bytes take.
func sectors(n int64) int64 { return (n + SectorSize - 1) / SectorSize }
