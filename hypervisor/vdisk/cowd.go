package vdisk

import (
	"context"
	"encoding/binary"
)

// What a COWD header says at which byte; all fields are 32 bits, little-endian.
const (
	cowdHeader    = 2048 // its length in bytes
	cowdMagic     = "COWD"
	cowdVersion   = 4
	cowdCapacity  = 12 // sectors
	cowdGrain     = 16 // sectors
	cowdDirectory = 20 // sector
	cowdTables    = 24 // entries of the directory
	cowdEntries   = 4096
)

// OpenCOWD reads a vmfsSparse delta, named COWD by its first bytes: what ESXi
// writes beside a snapshot of a disk of up to 2 TiB on VMFS 5 and older. The
// format is the "ESXi Host Sparse Extent" of VMware's Virtual Disk Format 5.0.
// A table entry of 0 leaves the grain to the parent, 1 makes it zero, and any
// other is its sector.
func OpenCOWD(ctx context.Context, f File) (Layout, error) {
	const format = "COWD delta"
	header, err := readHeader(ctx, f, format, 0, cowdHeader)
	if err != nil {
		return nil, err
	}
	field := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(header[at:])) }
	if string(header[:4]) != cowdMagic {
		return nil, malformed("%s: it starts with %q and not with %q", format, header[:4], cowdMagic)
	}
	if v := field(cowdVersion); v != 1 {
		return nil, malformed("%s: version %d is not supported, 1 is", format, v)
	}
	g := &grains{
		format: format, file: f, entries: cowdEntries, width: 4,
		directory: field(cowdDirectory), first: cowdHeader / SectorSize,
		table: func(entry uint64) (uint64, bool, bool) { return entry, entry != 0, true },
		place: func(entry uint64) (Kind, uint64, bool) {
			switch entry {
			case 0:
				return Parent, 0, true
			case 1:
				return Zero, 0, true
			}
			return Data, entry, true
		},
	}
	layout, err := g.open(field(cowdCapacity), field(cowdGrain))
	if err != nil {
		return nil, err
	}
	if have := int64(field(cowdTables)); have < g.tables() {
		return nil, malformed("%s: its grain directory has %d entries where its size needs %d", format, have, g.tables())
	}
	return layout, nil
}
