package vdisk

import (
	"context"
	"encoding/binary"
	"fmt"
)

// Bounds of what a header may ask for. No product goes near them.
const (
	maxGrain = 1 << 21 // sectors in a grain: 1 GiB
	// pageSize is how much of a directory is read at a time, in bytes.
	pageSize = 4096
)

// grains is the layout that all sparse formats share: the disk is cut into
// grains of one size; a table has an entry for each of a run of grains that
// says where it is; the directory has an entry for each table. The formats
// differ in what an entry's value means.
type grains struct {
	format  string // names the format in errors
	file    File
	size    int64 // of the disk, in bytes
	grain   int64 // bytes in a grain
	entries int64 // entries in a table
	width   int64 // bytes of an entry: 4 or 8, little-endian

	directory uint64 // its first sector in the file
	first     uint64 // the first sector behind the header: nothing is before it

	// table finds a directory entry's table; without one, the parent has all
	// its grains. A false ok is an entry that the format does not know.
	table func(entry uint64) (sector uint64, there, ok bool)
	// place finds a table entry's grain. The sector counts for Data only.
	place func(entry uint64) (kind Kind, sector uint64, ok bool)

	cache cache
}

// open checks what was taken from a header and returns the layout.
func (g *grains) open(capacity uint64, grainSectors uint64) (Layout, error) {
	if capacity > maxSectors {
		return nil, malformed("%s: a disk of %d sectors is larger than any", g.format, capacity)
	}
	if grainSectors == 0 || grainSectors > maxGrain {
		return nil, malformed("%s: grains of %d sectors are not supported", g.format, grainSectors)
	}
	g.size, g.grain = int64(capacity)*SectorSize, int64(grainSectors)*SectorSize
	if need := g.tables() * g.width; g.directory < g.first && need > 0 || !holds(g.file, g.directory, need) {
		return nil, malformed("%s: its grain directory, %d bytes at sector %d, is not inside the file of %d bytes", g.format, need, g.directory, g.file.Size())
	}
	return g, nil
}

// span is how many bytes of the disk one table maps.
func (g *grains) span() int64 { return g.grain * g.entries }

// tables is how many tables map the disk.
func (g *grains) tables() int64 { return (g.size + g.span() - 1) / g.span() }

func (g *grains) Size() int64 { return g.size }

func (g *grains) Pieces(ctx context.Context, off, length int64, emit func(Piece) error) error {
	if err := within(off, length, g.size); err != nil {
		return err
	}
	j := joiner{emit: func(r Run) error { return emit(r.Piece) }}
	for end := off + length; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		number := off / g.span()
		until := min(end, (number+1)*g.span())
		table, err := g.load(ctx, number)
		if err != nil {
			return err
		}
		if table == nil {
			err = j.add(Run{Piece: Piece{Offset: off, Length: until - off, Kind: Parent}})
		} else {
			err = g.walk(table, off, until, j.add)
		}
		if err != nil {
			return err
		}
		off = until
	}
	return j.flush()
}

// load reads a table; nil where there is none.
func (g *grains) load(ctx context.Context, number int64) ([]byte, error) {
	perPage := pageSize / g.width
	page := number / perPage
	length := min(perPage, g.tables()-page*perPage) * g.width
	entries, err := g.cache.get(ctx, g.file, int64(g.directory)*SectorSize+page*pageSize, length)
	if err != nil {
		return nil, fmt.Errorf("%s: read the grain directory at sector %d: %w", g.format, g.directory, err)
	}
	entry := g.entry(entries, number%perPage)
	sector, there, ok := g.table(entry)
	switch {
	case !ok:
		return nil, malformed("%s: entry %d of the grain directory at sector %d is %#x, which is not known", g.format, number, g.directory, entry)
	case !there:
		return nil, nil
	case sector < g.first || !holds(g.file, sector, g.entries*g.width):
		return nil, malformed("%s: grain table %d at sector %d is not inside the file of %d bytes", g.format, number, sector, g.file.Size())
	}
	table, err := g.cache.get(ctx, g.file, int64(sector)*SectorSize, g.entries*g.width)
	if err != nil {
		return nil, fmt.Errorf("%s: read grain table %d at sector %d: %w", g.format, number, sector, err)
	}
	return table, nil
}

// walk gives add the pieces of [off, until), all of which table maps.
func (g *grains) walk(table []byte, off, until int64, add func(Run) error) error {
	for off < until {
		number := off / g.grain
		start := number * g.grain
		entry := g.entry(table, number%g.entries)
		kind, sector, ok := g.place(entry)
		if !ok {
			return malformed("%s: the table entry of grain %d is %#x, which is not known", g.format, number, entry)
		}
		p := Piece{Offset: off, Length: min(until, start+g.grain) - off, Kind: kind}
		if kind == Data {
			// The disk's last grain need not be there beyond the disk's end.
			if sector < g.first || !holds(g.file, sector, min(g.grain, g.size-start)) {
				return malformed("%s: grain %d at sector %d is not inside the file of %d bytes", g.format, number, sector, g.file.Size())
			}
			p.At = int64(sector)*SectorSize + off - start
		}
		if err := add(Run{Piece: p}); err != nil {
			return err
		}
		off += p.Length
	}
	return nil
}

func (g *grains) entry(table []byte, i int64) uint64 {
	if g.width == 8 {
		return binary.LittleEndian.Uint64(table[i*8:])
	}
	return uint64(binary.LittleEndian.Uint32(table[i*4:]))
}
