package vcenter

// SEsparse, the delta files of VMFS 6. No document of VMware's describes it:
// the layout is what QEMU's reader expects, and what files that ESXi wrote show.
// All places in the header are in sectors, all regions begin at whole MiB:
//
//	const header, volatile header, journal header, journal
//	grain directory: an entry for each 16 MiB of the disk
//	grain tables: of 4096 entries, in the order in which they came into use
//	free bitmap: a bit for each place of a grain that is in use
//	back map: which grain of the disk is in which place
//	grains of 4 KiB, in the order in which they were written
const (
	seSparseGrain   = 8 * sector
	seSparseEntries = 4096
	seSparseTable   = 8 * seSparseEntries
	seSparseAlign   = 1 << 20

	seSparseJournal   = 1 << 20
	seSparseDirectory = 2 << 20

	seSparseUsed     = 1 << 60 // a table, in the directory; a grain, in the back map
	seSparseUnmapped = 1 << 60 // kinds of grains, in the tables
	seSparseZero     = 2 << 60
	seSparseData     = 3 << 60
)

const sector = 512

type seSparse struct {
	tables
	tablesAt, bitmapAt, backMapAt, grainsAt int64
	directory                               map[int64]int64 // number of the table by that of the directory's entry
	grains                                  int64           // in use
}

func newSESparse(size int64) *seSparse {
	align := func(n int64) int64 { return (n + seSparseAlign - 1) / seSparseAlign * seSparseAlign }
	grains := (size + seSparseGrain - 1) / seSparseGrain
	count := (grains + seSparseEntries - 1) / seSparseEntries
	f := &seSparse{tables: tables{}, directory: map[int64]int64{}}
	f.tablesAt = seSparseDirectory + align(8*count)
	f.bitmapAt = f.tablesAt + align(seSparseTable*count)
	f.backMapAt = f.bitmapAt + align((grains+7)/8)
	f.grainsAt = f.backMapAt + align(8*grains)

	at := func(n int64) uint64 { return uint64(n / sector) }
	capacity := at(size)
	f.put64(0, 0xcafebabe, 0x200000001, capacity, at(seSparseGrain), at(seSparseTable))
	f.put64(80, // after flags and reserved words
		1, 1, // volatile header
		2, 2, // journal header
		at(seSparseJournal), at(seSparseDirectory-seSparseJournal),
		at(seSparseDirectory), at(f.tablesAt-seSparseDirectory),
		at(f.tablesAt), at(f.bitmapAt-f.tablesAt),
		at(f.bitmapAt), at(f.backMapAt-f.bitmapAt),
		at(f.backMapAt), at(f.grainsAt-f.backMapAt),
		at(f.grainsAt), capacity)
	return f
}

func (f *seSparse) grainSize() int { return seSparseGrain }

func (f *seSparse) data(g int64) (int64, error) {
	place := f.grains
	f.grains++
	f.set(g, seSparseData|seSparseNumber(place))
	f.put64(f.backMapAt+8*place, seSparseUsed|seSparseNumber(g))
	f.at(f.bitmapAt+place/8, 1)[0] |= 1 << (place % 8)
	return f.grainsAt + place*seSparseGrain, nil
}

func (f *seSparse) zero(g int64, wide bool) error {
	if wide {
		f.set(g, seSparseUnmapped) // as the guest's trimming leaves it
	} else {
		f.set(g, seSparseZero)
	}
	return nil
}

func (f *seSparse) set(g int64, entry uint64) {
	i := g / seSparseEntries
	table, ok := f.directory[i]
	if !ok {
		table = int64(len(f.directory))
		f.directory[i] = table
		f.put64(seSparseDirectory+8*i, seSparseUsed|uint64(table))
	}
	f.put64(f.tablesAt+table*seSparseTable+8*(g%seSparseEntries), entry)
}

// seSparseNumber is a grain's number in an entry: the low 12 bits are above
// the other 48.
func seSparseNumber(n int64) uint64 { return uint64(n&0xfff)<<48 | uint64(n>>12) }

func (f *seSparse) finish() image {
	const sequence = 2 // of the next transaction; none is to be replayed
	f.put64(1*sector, 0xcafecafe, uint64(len(f.directory)), sequence, 0)
	f.put64(2*sector, 0xdeafc0de, sequence, 1)
	return image{size: f.grainsAt + f.grains*seSparseGrain, tables: f.tables}
}
