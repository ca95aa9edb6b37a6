package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"skylift/staging"
)

const (
	folderMode = 0o750
	// Images are read-only: an image that is written to is no base any more.
	imageMode = 0o440
)

// rawFile is a disk's file being written: raw, sparse, and size bytes long.
type rawFile struct {
	*os.File
	size int64
}

// createRaw makes a file of size bytes, all zero.
func createRaw(path string, size int64) (*rawFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(asFull(err, path, size), f.Close())
	}
	return &rawFile{f, size}, nil
}

var errPadding = errors.New("the block holds more than zeros behind the disk's end")

// put writes a block; raw is nil for zeros. It may be called at once for
// different blocks.
func (f *rawFile) put(block int64, raw []byte) error {
	off := block * staging.BlockSize
	n := min(staging.BlockSize, f.size-off)
	if raw == nil {
		return f.zero(off, n)
	}
	if !staging.IsZero(raw[n:]) {
		return errPadding
	}
	_, err := f.WriteAt(raw[:n], off)
	return err
}

// zero makes a hole, or writes zeros where there can be none.
func (f *rawFile) zero(off, n int64) error {
	if punch(f.File, off, n) == nil {
		return nil
	}
	_, err := f.WriteAt(make([]byte, n), off)
	return err
}

// finish makes the file durable and read-only.
func (f *rawFile) finish() error {
	return errors.Join(f.Chmod(imageMode), f.Sync())
}

// copyFrom makes the file begin as src does, which is no longer than it, and
// tells done how many bytes are dealt with: by sharing them where the file
// system can, else data by data.
func (f *rawFile) copyFrom(ctx context.Context, src *os.File, size int64, done func(int64)) error {
	// A file that is longer than what it shares can share whole file system blocks only.
	if err := f.Truncate(0); err != nil {
		return err
	}
	cloned := clone(f.File, src) == nil
	if err := f.Truncate(f.size); err != nil {
		return err
	}
	if cloned {
		done(size)
		return nil
	}
	buffer := make([]byte, 1<<20)
	for at := int64(0); at < size; {
		start, end, err := nextData(src, at, size)
		if err != nil {
			return fmt.Errorf("find data in %s: %w", src.Name(), err)
		}
		done(start - at)
		for at = start; at < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p := buffer[:min(int64(len(buffer)), end-at)]
			if _, err := io.ReadFull(io.NewSectionReader(src, at, int64(len(p))), p); err != nil {
				return fmt.Errorf("read %s: %w", src.Name(), err)
			}
			if err := writeData(f, p, at); err != nil {
				return err
			}
			at += int64(len(p))
			done(int64(len(p)))
		}
	}
	return nil
}

// writeData writes what of p is not zero over zeros at off.
func writeData(w io.WriterAt, p []byte, off int64) error {
	const grain = 64 << 10
	for len(p) > 0 {
		n := min(grain, len(p))
		if !staging.IsZero(p[:n]) {
			if _, err := w.WriteAt(p[:n], off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
