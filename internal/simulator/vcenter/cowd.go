package vcenter

import (
	"fmt"
	"math"
)

// COWD, the vmfsSparse delta files of VMFS 5 and NFS. All places are 32-bit
// numbers of sectors; tables of 4096 entries and grains of one sector follow
// each other as they come into use:
//
//	header: 4 sectors. The second one is zero, and part of a field for a
//	parent's name that ESXi leaves to the descriptor; readers that take a
//	zero grain's entry, 1, for a place find zeros there
//	grain directory: an entry for each 2 MiB of the disk
//	grain tables and grains
const (
	cowdGrain     = sector
	cowdEntries   = 4096
	cowdDirectory = 4 * sector

	cowdZero = 1

	maxCOWD = 2 << 40 // bytes of a disk: more sectors have no numbers
)

type cowd struct {
	tables
	capacity  int64 // sectors
	directory map[int64]int64
	free      int64 // the first sector not in use
}

func newCOWD(size int64) *cowd {
	f := &cowd{tables: tables{}, capacity: size / sector, directory: map[int64]int64{}}
	f.free = (cowdDirectory + 4*f.entries() + sector - 1) / sector
	return f
}

func (f *cowd) entries() int64 { return (f.capacity + cowdEntries - 1) / cowdEntries }

func (f *cowd) grainSize() int { return cowdGrain }

func (f *cowd) data(g int64) (int64, error) {
	entry, err := f.entry(g)
	if err != nil {
		return 0, err
	}
	place, err := f.allot(1)
	if err != nil {
		return 0, err
	}
	f.put32(entry, uint32(place))
	return place * sector, nil
}

func (f *cowd) zero(g int64, _ bool) error {
	entry, err := f.entry(g)
	if err != nil {
		return err
	}
	f.put32(entry, cowdZero)
	return nil
}

// entry is where a grain's entry is, in a table that is made where it is missing.
func (f *cowd) entry(g int64) (int64, error) {
	i := g / cowdEntries
	table, ok := f.directory[i]
	if !ok {
		var err error
		if table, err = f.allot(4 * cowdEntries / sector); err != nil {
			return 0, err
		}
		f.directory[i] = table
		f.put32(cowdDirectory+4*i, uint32(table))
	}
	return table*sector + 4*(g%cowdEntries), nil
}

func (f *cowd) allot(sectors int64) (int64, error) {
	at := f.free
	if f.free += sectors; f.free > math.MaxUint32 {
		return 0, fmt.Errorf("the file is full: its sectors have numbers of 32 bits")
	}
	return at, nil
}

func (f *cowd) finish() image {
	const magic, version, flags = 0x44574f43, 1, 3
	f.put32(0, magic, version, flags, uint32(f.capacity), cowdGrain/sector,
		cowdDirectory/sector, uint32(f.entries()), uint32(f.free))
	return image{size: f.free * sector, tables: f.tables}
}
