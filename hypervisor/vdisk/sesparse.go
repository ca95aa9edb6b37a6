package vdisk

import (
	"bytes"
	"context"
	"encoding/binary"
)

// The SEsparse header is words of 64 bits, little-endian, in the first sector.
// VMware has not published the format; this is what public readers agree on.
// Offsets and sizes are in sectors. Behind the words the sector is zero.
const (
	seMagic       = iota // 0xcafebabe
	seVersion            // 2.1: 0x200000001
	seCapacity           //
	seGrain              // 8
	seTable              // 64
	seFlags              // 0; so are four reserved words behind it
	seReserved           //
	seReservedEnd = seReserved + 3
	seVolatile    = seReservedEnd + 1 // offset of the volatile header; its size follows
	seDirectory   = seVolatile + 6    // behind the journal's header and the journal
	seTables      = seDirectory + 2
	seGrains      = seTables + 6 // behind the free bitmap and the back map
	seWords       = seGrains + 2
)

const (
	seGrainSectors = 8
	seTableSectors = 64
	seEntries      = seTableSectors * SectorSize / 8
)

// OpenSESparse reads an SEsparse delta: what ESXi writes beside a snapshot on
// VMFS 6, and of a disk of over 2 TiB anywhere. Only the one version that is
// in use is read. A delta whose journal must be replayed first is refused: it
// is still open somewhere, or its host crashed.
func OpenSESparse(ctx context.Context, f File) (Layout, error) {
	const format = "SEsparse delta"
	header, err := readHeader(ctx, f, format, 0, SectorSize)
	if err != nil {
		return nil, err
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(header[i*8:]) }
	for _, want := range []struct {
		what  string
		word  int
		value uint64
	}{
		{"magic number", seMagic, 0xcafebabe},
		{"version", seVersion, 0x200000001},
		{"grain size in sectors", seGrain, seGrainSectors},
		{"grain table size in sectors", seTable, seTableSectors},
		{"flags", seFlags, 0},
	} {
		if got := word(want.word); got != want.value {
			return nil, malformed("%s: its %s is %#x, and only %#x is supported", format, want.what, got, want.value)
		}
	}
	if !zeros(header[seReserved*8:(seReservedEnd+1)*8]) || !zeros(header[seWords*8:]) {
		return nil, malformed("%s: its header uses fields that are not known", format)
	}
	if err := checkVolatile(ctx, f, format, word(seVolatile)); err != nil {
		return nil, err
	}
	tables, grainsAt := word(seTables), word(seGrains)
	if tables > maxSectors || grainsAt > maxSectors {
		return nil, malformed("%s: its tables at sector %d or its grains at sector %d are not inside the file", format, tables, grainsAt)
	}
	g := &grains{
		format: format, file: f, entries: seEntries, width: 8,
		directory: word(seDirectory), first: 1,
		table: func(entry uint64) (uint64, bool, bool) {
			// An allocated table's entry is its number under the nibble 1. More
			// than 32 bits of it would be tables for more than the largest disk.
			return tables + entry&0xffffffff*seTableSectors, entry != 0, entry == 0 || entry>>32 == 0x10000000
		},
		place: func(entry uint64) (Kind, uint64, bool) {
			switch entry >> 60 {
			case 0: // never written
				return Parent, 0, entry == 0
			case 1, 2: // unmapped by the guest; zero
				return Zero, 0, true
			case 3: // allocated: the grain's number has its low 12 bits on top
				number := entry>>48&0xfff | entry&(1<<48-1)<<12
				return Data, grainsAt + number*seGrainSectors, true
			}
			return 0, 0, false
		},
	}
	layout, err := g.open(word(seCapacity), seGrainSectors)
	if err != nil {
		return nil, err
	}
	if have := word(seDirectory + 1); have > maxSectors || int64(have)*SectorSize < g.tables()*g.width {
		return nil, malformed("%s: its grain directory of %d sectors is too short for its size of %d bytes", format, have, g.size)
	}
	return layout, nil
}

// checkVolatile reads the header that changes while the delta is in use: a
// magic number, the next free table, the next transaction, and whether the
// journal must be replayed.
func checkVolatile(ctx context.Context, f File, format string, sector uint64) error {
	header, err := readHeader(ctx, f, format, sector, SectorSize)
	if err != nil {
		return err
	}
	if magic := binary.LittleEndian.Uint64(header); magic != 0xcafecafe {
		return malformed("%s: its volatile header at sector %d starts with %#x and not with 0xcafecafe", format, sector, magic)
	}
	if binary.LittleEndian.Uint64(header[24:]) != 0 {
		return malformed("%s: its journal has not been replayed: the file is in use, or its host crashed", format)
	}
	if !zeros(header[32:]) {
		return malformed("%s: its volatile header uses fields that are not known", format)
	}
	return nil
}

func zeros(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }
