package vcenter

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Extent is a byte range of a disk.
type Extent struct {
	Offset, Length int64
}

// End is the offset of the first byte after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Base is what a disk holds before any guest writes: read-only, safe for
// concurrent reads, never changing. A read must fill p; bytes outside of the
// allocated extents are zero. What lies past Size reads as zero and is not
// asked for, so a disk may be larger than its base.
type Base interface {
	io.ReaderAt
	Size() int64
	// Allocated lists the extents that hold data, ascending, not touching.
	Allocated() ([]Extent, error)
}

// Content says where a disk's bytes come from and where guest writes go.
// The zero Content is an empty disk kept in memory.
type Content struct {
	open func(dir string) (opened, error)
}

// opened is a Content in use.
type opened struct {
	base  Base   // nil: nothing but zeros
	pages *pages // where guest writes are kept
	close func() error
	size  int64 // 0: unknown, the disk's own size decides
}

// Memory is an empty disk whose written parts are kept in memory. Its size is
// bounded only by what is written to it: 64 TiB is fine.
func Memory() Content { return Content{} }

// Sparse is an empty disk whose written parts are kept in a temporary file,
// which grows with what is written and not with the disk's size.
func Sparse() Content {
	return Content{open: func(dir string) (opened, error) {
		p, err := newFilePages(dir)
		if err != nil {
			return opened{}, err
		}
		return opened{pages: p, close: p.close}, nil
	}}
}

// File is a disk that starts as the raw disk image at path. The file is opened
// read-only and never modified: what the guest writes goes to a temporary
// file. It must not change while the simulator runs. A DiskSpec without a size
// takes the file's.
func File(path string) Content {
	return Content{open: func(dir string) (opened, error) {
		f, err := os.Open(path)
		if err != nil {
			return opened{}, fmt.Errorf("open disk image: %w", err)
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", path)
		}
		var p *pages
		if err == nil {
			p, err = newFilePages(dir)
		}
		if err != nil {
			return opened{}, errors.Join(err, f.Close())
		}
		return opened{
			base:  rawFile{f, info.Size()},
			pages: p,
			close: func() error { return errors.Join(f.Close(), p.close()) },
			size:  info.Size(),
		}, nil
	}}
}

// Over is a disk that starts with the bytes of base; what the guest writes is
// kept in memory. A DiskSpec without a size takes the base's.
func Over(base Base) Content {
	return Content{open: func(string) (opened, error) {
		return opened{base: base, pages: newMemoryPages(), size: base.Size()}, nil
	}}
}

func (c Content) start(dir string) (opened, error) {
	if c.open == nil {
		return opened{pages: newMemoryPages()}, nil
	}
	return c.open(dir)
}

type rawFile struct {
	*os.File
	size int64
}

func (f rawFile) Size() int64 { return f.size }

func (f rawFile) Allocated() ([]Extent, error) { return dataExtents(f.File, f.size) }
