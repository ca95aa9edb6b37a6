package vdisk

import (
	"encoding/binary"
	"fmt"
	"io"
)

// What a marker announces, by the value of its type field.
const (
	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
)

// tally sums up places so that two sets of them can be compared without
// holding either: what the tables list must be what came.
type tally struct {
	n   int64
	sum uint64
}

// add counts the place of entry in its table and of a sector of the stream.
// Sectors are compared as the tables have them: modulo 32 bits.
func (t *tally) add(entry uint64, sector int64) {
	t.n++
	x := (entry<<32 | uint64(uint32(sector))) * 0x9e3779b97f4a7c15
	t.sum += (x ^ x>>32) * 0xd6e8feb86659fd93
}

// tablesBehind reports that the tables come among and behind the grains, as in
// what is written as a stream. Else they are at the head, filled in afterwards,
// as in what qemu-img writes.
func (s *Stream) tablesBehind() bool { return s.header.directory >= s.header.overhead }

// readHead reads what is before the grains: the descriptor, and the tables if
// they are there.
func (s *Stream) readHead() error {
	if s.header.descriptor != 0 {
		if err := s.readDescriptor(); err != nil {
			return err
		}
	}
	if !s.tablesBehind() {
		if err := s.readTablesAtHead(); err != nil {
			return err
		}
	}
	return s.skipTo(s.header.overhead, "the first grain")
}

func (s *Stream) readDescriptor() error {
	length := s.header.length
	if length > DescriptorLimit/SectorSize {
		return malformed("%s: its descriptor has %d sectors, more than any", streamFormat, length)
	}
	if err := s.skipTo(s.header.descriptor, "the descriptor"); err != nil {
		return err
	}
	text, err := s.take(int(length) * SectorSize)
	if err != nil {
		return fmt.Errorf("%s: read the descriptor: %w", streamFormat, err)
	}
	if s.descriptor, err = ParseDescriptor(text); err != nil {
		return malformed("%s: %v", streamFormat, err)
	}
	if s.descriptor.HasParent() {
		return malformed("%s: it holds only what differs from another disk (%s)", streamFormat, s.descriptor.ParentHint)
	}
	return nil
}

// readTablesAtHead counts the grains that the tables at the head list. The
// directory of the largest disk has 8 MiB; memory for it grows as it arrives.
func (s *Stream) readTablesAtHead() error {
	if err := s.skipTo(s.header.directory, "the grain directory"); err != nil {
		return err
	}
	var tables []uint32
	err := s.eachEntry(s.directoryEntries(), func(_ uint64, table uint32) { tables = append(tables, table) })
	if err != nil {
		return fmt.Errorf("%s: read the grain directory: %w", streamFormat, err)
	}
	for _, table := range tables {
		if table == 0 {
			continue
		}
		if uint64(table) >= s.header.overhead {
			return malformed("%s: the grain table at sector %d is not before the first grain, as its directory is", streamFormat, table)
		}
		if err := s.skipTo(uint64(table), "a grain table"); err != nil {
			return err
		}
		if err := s.readTable(); err != nil {
			return err
		}
	}
	return nil
}

// skipTo goes to a sector that is still to come, within the head.
func (s *Stream) skipTo(sector uint64, what string) error {
	// Two sets of tables, a descriptor and generous gaps are before the grains.
	limit := uint64(2*4*(s.directoryEntries()*(hostedEntries+1)))/SectorSize + 1<<16
	if sector > limit || int64(sector)*SectorSize < s.at {
		return malformed("%s: %s at sector %d is not where a stream can have it", streamFormat, what, sector)
	}
	if err := s.skip(int64(sector)*SectorSize - s.at); err != nil {
		return fmt.Errorf("%s: read up to %s at sector %d: %w", streamFormat, what, sector, err)
	}
	return nil
}

// directoryEntries is how many tables the disk has.
func (s *Stream) directoryEntries() int64 {
	return (s.size + s.grain*hostedEntries - 1) / (s.grain * hostedEntries)
}

// marker reads a marker and what it announces. Its value is the number of
// sectors that follow; some writers leave it 0 where the number is fixed.
func (s *Stream) marker(value uint64, kind uint32) error {
	at := s.at / SectorSize
	if err := s.skip(SectorSize); err != nil {
		return err
	}
	length := uint64(0) // in sectors
	switch kind {
	case markerEnd:
	case markerTable:
		length = hostedEntries * 4 / SectorSize
	case markerDirectory:
		length = uint64(sectors(s.directoryEntries() * 4))
	case markerFooter:
		length = 1
	default:
		return malformed("%s: the marker at sector %d is of type %d, which is not known", streamFormat, at, kind)
	}
	// A directory may be padded to a grain.
	if value != 0 && value != length && (kind != markerDirectory || value < length || value > length+s.header.grain) {
		return malformed("%s: the marker of type %d at sector %d announces %d sectors where there are %d", streamFormat, kind, at, value, length)
	}
	switch kind {
	case markerTable:
		s.tables.add(0, at+1)
		return s.readTable()
	case markerDirectory:
		return s.readDirectory(int64(max(value, length)))
	case markerFooter:
		return s.readFooter()
	}
	return s.finish()
}

// readTable counts the grains that a table lists.
func (s *Stream) readTable() error {
	at := s.at / SectorSize
	err := s.eachEntry(hostedEntries, func(i uint64, sector uint32) {
		if sector != 0 && !s.header.zero(uint64(sector)) {
			s.expected.add(i, int64(sector))
		}
	})
	if err != nil {
		return fmt.Errorf("%s: read the grain table at sector %d: %w", streamFormat, at, err)
	}
	return nil
}

// readDirectory counts the tables that a directory of the given length in
// sectors lists.
func (s *Stream) readDirectory(length int64) error {
	s.gd, s.listed = s.at/SectorSize, tally{}
	end := s.at + length*SectorSize
	err := s.eachEntry(s.directoryEntries(), func(_ uint64, sector uint32) {
		if sector != 0 {
			s.listed.add(0, int64(sector))
		}
	})
	if err == nil {
		err = s.skip(end - s.at)
	}
	if err != nil {
		return fmt.Errorf("%s: read the grain directory at sector %d: %w", streamFormat, s.gd, err)
	}
	return nil
}

// eachEntry reads n entries of a table or directory.
func (s *Stream) eachEntry(n int64, visit func(i uint64, value uint32)) error {
	for i := uint64(0); i < uint64(n); {
		p, err := s.take(SectorSize)
		if err != nil {
			return err
		}
		for ; len(p) > 0 && i < uint64(n); p = p[4:] {
			visit(i, binary.LittleEndian.Uint32(p))
			i++
		}
	}
	return nil
}

// readFooter reads the header's copy at the end, which knows where the
// directory is.
func (s *Stream) readFooter() error {
	at := s.at / SectorSize
	p, err := s.take(SectorSize)
	if err != nil {
		return fmt.Errorf("%s: read the footer at sector %d: %w", streamFormat, at, err)
	}
	footer, err := parseHosted(streamFormat+" footer", p)
	if err != nil {
		return err
	}
	h := &s.header
	if footer.capacity != h.capacity || footer.grain != h.grain || footer.compression != h.compression || footer.directory != uint64(s.gd) {
		return malformed("%s: its footer at sector %d does not fit its header and its directory at sector %d", streamFormat, at, s.gd)
	}
	s.sealed = true
	return nil
}

// finish is called at the end of the stream: io.EOF if it was complete.
func (s *Stream) finish() error {
	switch {
	case s.header.directory == gdAtEnd && !s.sealed:
		return malformed("%s: it ends without a footer", streamFormat)
	case s.tablesBehind() && (s.gd == 0 || s.listed != s.tables):
		return malformed("%s: its directory lists %d grain tables, and %d others came", streamFormat, s.listed.n, s.tables.n)
	case s.expected != s.grains:
		return malformed("%s: its tables list %d grains, and %d others came", streamFormat, s.expected.n, s.grains.n)
	}
	return io.EOF
}
