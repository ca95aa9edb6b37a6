package vdisk

import (
	"context"
	"encoding/binary"
)

// Flags of a hosted sparse header.
const (
	flagNewlines   = 1 << 0  // the newline characters in the header can be checked
	flagZeroGrains = 1 << 2  // a table entry of 1 is a zero grain
	flagCompressed = 1 << 16 // grains are compressed
	flagMarkers    = 1 << 17 // grains and tables are preceded by markers
)

// gdAtEnd in place of the directory's sector says that it is behind the
// grains and that a footer has its sector.
const gdAtEnd = 1<<64 - 1

// hosted is the header of a file of VMware's desktop products, which exports
// use too: the "Hosted Sparse Extent" of Virtual Disk Format 5.0. All
// fields are little-endian, unaligned; sizes and offsets are in sectors.
type hosted struct {
	flags              uint32
	capacity, grain    uint64
	descriptor, length uint64 // of the embedded descriptor; 0 where there is none
	directory          uint64
	overhead           uint64 // everything before the first grain
	unclean            bool
	compression        uint16
}

// hostedEntries is how many entries a grain table has, by the format's rule.
const hostedEntries = 512

func parseHosted(format string, p []byte) (h hosted, err error) {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(p[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }
	if string(p[:4]) != "KDMV" {
		return h, malformed("%s: it starts with %q and not with \"KDMV\"", format, p[:4])
	}
	h = hosted{
		flags: u32(8), capacity: u64(12), grain: u64(20), descriptor: u64(28), length: u64(36),
		directory: u64(56), overhead: u64(64), unclean: p[72] != 0,
		compression: binary.LittleEndian.Uint16(p[77:]),
	}
	switch version := u32(4); {
	case version < 1 || version > 3:
		return h, malformed("%s: version %d is not supported, 1 to 3 are", format, version)
	case h.flags&flagNewlines != 0 && string(p[73:77]) != "\n \r\n":
		return h, malformed("%s: its newline characters were changed: the file was copied as text and is damaged", format)
	case u32(44) != hostedEntries:
		return h, malformed("%s: grain tables of %d entries are not supported, those of %d are", format, u32(44), hostedEntries)
	case h.capacity == 0 || h.capacity > maxSectors:
		return h, malformed("%s: a disk of %d sectors is not supported", format, h.capacity)
	case h.grain == 0 || h.grain > maxGrain || h.grain&(h.grain-1) != 0:
		return h, malformed("%s: grains of %d sectors are not supported", format, h.grain)
	}
	return h, nil
}

// zero reports that a table entry is of a grain that reads as zeros.
func (h *hosted) zero(entry uint64) bool { return entry == 1 && h.flags&flagZeroGrains != 0 }

// OpenSparse reads a sparse file of VMware's desktop products (the types
// monolithicSparse and twoGbMaxExtentSparse), also called hosted sparse. A
// compressed one (streamOptimized) is refused: [NewStream] reads it. Of the
// two copies that such a file has of its tables, the primary one is read.
func OpenSparse(ctx context.Context, f File) (Layout, error) {
	const format = "sparse VMDK"
	p, err := readHeader(ctx, f, format, 0, SectorSize)
	if err != nil {
		return nil, err
	}
	h, err := parseHosted(format, p)
	switch {
	case err != nil:
		return nil, err
	case h.flags&(flagCompressed|flagMarkers) != 0 || h.compression != 0 || h.directory == gdAtEnd:
		return nil, malformed("%s: it is compressed (streamOptimized), and can only be read as a stream", format)
	case h.unclean:
		return nil, malformed("%s: it was not closed: it is in use, or its host crashed", format)
	}
	g := &grains{
		format: format, file: f, entries: hostedEntries, width: 4,
		directory: h.directory, first: 1,
		table: func(entry uint64) (uint64, bool, bool) { return entry, entry != 0, true },
		place: func(entry uint64) (Kind, uint64, bool) {
			switch {
			case entry == 0:
				return Parent, 0, true
			case h.zero(entry):
				return Zero, 0, true
			}
			return Data, entry, entry != 1
		},
	}
	return g.open(h.capacity, h.grain)
}
