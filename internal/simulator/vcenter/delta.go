package vcenter

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
)

// deltas is the format of the disk's delta files. The caller holds the
// volume's lock, or is alone with the disk.
func (d *Disk) deltas() string {
	if d.v.size >= maxCOWD {
		return DeltasSESparse
	}
	for _, ds := range d.vm.s.cfg.Datastores {
		if ds.Name == d.spec.Datastore {
			return ds.Deltas
		}
	}
	return DeltasSESparse
}

// delta is the file of a layer over another one. It is laid out when somebody
// opens it for the first time, and forgotten when the layer changes.
type delta struct {
	laid sync.Once
	err  error
	file image
}

// deltaFile is a delta that is being read: the layout, and a view that keeps
// the pages in it.
type deltaFile struct {
	*view
	*delta
	format string
}

// openDelta opens the file of a layer with a parent. The caller holds the
// volume's lock for writing.
func (d *Disk) openDelta(l *layer) *deltaFile {
	if l.delta == nil {
		l.delta = &delta{}
	}
	return &deltaFile{view: d.v.pin(l, d.v.size), delta: l.delta, format: d.deltas()}
}

// build lays the file out, unless that was done before, and returns its size.
func (f *deltaFile) build() (int64, error) {
	f.laid.Do(func() { f.err = f.layOut() })
	return f.file.size, f.err
}

// ReadAt implements io.ReaderAt, once the file is built.
func (f *deltaFile) ReadAt(p []byte, off int64) (int, error) {
	f.v.mu.RLock()
	defer f.v.mu.RUnlock()
	return f.file.readAt(f.v.store, p, off)
}

// deltaFormat lays out grains of its own size in the order in which they come.
type deltaFormat interface {
	grainSize() int
	// data finds a place for the bytes of a grain of the disk.
	data(g int64) (at int64, err error)
	// zero notes a grain of zeros; of a whole page of them where wide is set.
	zero(g int64, wide bool) error
	finish() image
}

func (f *deltaFile) layOut() error {
	var format deltaFormat = newSESparse(f.size)
	if f.format == DeltasVMFSSparse {
		format = newCOWD(f.size)
	}
	f.v.mu.RLock()
	type numbered struct {
		g int64
		page
	}
	list := make([]numbered, 0, len(f.top.pages))
	for g, pg := range f.top.pages {
		list = append(list, numbered{g, pg})
	}
	f.v.mu.RUnlock()
	slices.SortFunc(list, func(a, b numbered) int { return cmp.Compare(a.order, b.order) })
	var runs []dataRun
	buf, below := make([]byte, grain), make([]byte, grain)
	for _, pg := range list {
		var err error
		if runs, err = f.layOutPage(format, runs, pg.g, pg.page, buf, below); err != nil {
			return err
		}
	}
	f.file = format.finish()
	f.file.data = runs
	return nil
}

// layOutPage adds a page's grains. The layer holds what lies around a small
// write as well, copied from below: such grains are left to the parent. Zeros
// are noted as such, whatever the parent has there: readers are to meet all
// kinds of grains.
func (f *deltaFile) layOutPage(format deltaFormat, runs []dataRun, g int64, pg page, buf, below []byte) ([]dataRun, error) {
	f.v.mu.RLock()
	err := f.v.store.read(pg, buf, 0)
	if err == nil {
		err = f.v.readAt(f.top.parent, below, g*grain)
	}
	f.v.mu.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("lay out the page at %d of %s: %w", g*grain, f.top.file, err)
	}
	n := format.grainSize()
	wide := allZero(buf)
	for at := 0; at < grain && g*grain+int64(at) < f.size; at += n {
		number := (g*grain + int64(at)) / int64(n)
		part := buf[at : at+n]
		switch {
		case allZero(part):
			err = format.zero(number, wide)
		case bytes.Equal(part, below[at:at+n]):
			continue
		default:
			var place int64
			if place, err = format.data(number); err == nil {
				runs = appendRun(runs, dataRun{place, pg, at, n})
			}
		}
		if err != nil {
			return nil, fmt.Errorf("lay out the grain at %d of %s: %w", number*int64(n), f.top.file, err)
		}
	}
	return runs, nil
}

// dataRun is a part of a page that lies in a file.
type dataRun struct {
	at     int64 // in the file
	page   page
	from   int // in the page
	length int
}

func (r dataRun) end() int64 { return r.at + int64(r.length) }

func appendRun(runs []dataRun, r dataRun) []dataRun {
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		if last.end() == r.at && last.page.order == r.page.order && last.from+last.length == r.from {
			last.length += r.length
			return runs
		}
	}
	return append(runs, r)
}

// image is the bytes of a file: tables, which are kept sparsely, and pages.
// What is neither is zero.
type image struct {
	size   int64
	tables tables
	data   []dataRun // ascending
}

// readAt is io.ReaderAt. The caller holds the lock of the pages' disk.
func (m *image) readAt(store *pages, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	n := int(min(max(m.size-off, 0), int64(len(p))))
	m.tables.readAt(p[:n], off)
	first, _ := slices.BinarySearchFunc(m.data, off, func(r dataRun, at int64) int {
		if r.end() <= at {
			return -1
		}
		return 1
	})
	for _, r := range m.data[first:] {
		if r.at >= off+int64(n) {
			break
		}
		from, to := max(r.at, off), min(r.end(), off+int64(n))
		if err := store.read(r.page, p[from-off:to-off], r.from+int(from-r.at)); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// allZero compares p with itself, one byte further: much faster than a loop.
func allZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
