package vcenter

import (
	"fmt"
	"io"
	"os"
)

// grain is the unit of copy-on-write and of change tracking: vSphere tracks
// changes in 64 KiB.
const grain = 64 << 10

// page is one grain that somebody wrote.
type page struct {
	mem    []byte // nil: in the file, at off
	off    int64
	order  int64 // the how-manieth page of its disk it is
	frozen bool  // somebody still reads this very page: a write makes a new one
}

// pages keeps the grains that were written to a disk, in memory or packed into
// a file. It has no lock: the disk's guards it.
type pages struct {
	file *os.File // nil: memory
	end  int64
	free []int64 // places in the file that can be used again
}

func newMemoryPages() *pages { return &pages{} }

func newFilePages(dir string) (*pages, error) {
	f, err := os.CreateTemp(dir, "disk-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for guest writes: %w", err)
	}
	return &pages{file: f}, nil
}

func (s *pages) close() error {
	if s.file == nil {
		return nil
	}
	if err := s.file.Close(); err != nil {
		return err
	}
	return os.Remove(s.file.Name())
}

// add stores a whole grain.
func (s *pages) add(p []byte) (page, error) {
	if s.file == nil {
		return page{mem: append(make([]byte, 0, grain), p...)}, nil
	}
	off := s.end
	if n := len(s.free); n > 0 {
		off, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.end += grain
	}
	_, err := s.file.WriteAt(p, off)
	return page{off: off}, err
}

// read fills p from the page's byte at on.
func (s *pages) read(pg page, p []byte, at int) error {
	if pg.mem != nil {
		copy(p, pg.mem[at:])
		return nil
	}
	_, err := s.file.ReadAt(p, pg.off+int64(at))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// write changes a part of a page in place.
func (s *pages) write(pg page, p []byte, at int) error {
	if pg.mem != nil {
		copy(pg.mem[at:], p)
		return nil
	}
	_, err := s.file.WriteAt(p, pg.off+int64(at))
	return err
}

// drop gives a page's place back.
func (s *pages) drop(pg page) {
	if pg.mem == nil {
		s.free = append(s.free, pg.off)
	}
}
