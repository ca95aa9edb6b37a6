package vdisk

import (
	"context"
	"fmt"
	"io"
)

// File is the bytes of one file, wherever it lies. It must be safe for
// concurrent use.
type File interface {
	// ReadAt fills p from the file's byte off on, or fails:
	// io.ErrUnexpectedEOF where the file ends before p is full.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// Size is the file's length in bytes.
	Size() int64
}

// FileOf makes a File of a reader that holds size bytes.
func FileOf(r io.ReaderAt, size int64) File { return &readerFile{r, size} }

type readerFile struct {
	r    io.ReaderAt
	size int64
}

func (f *readerFile) Size() int64 { return f.size }

func (f *readerFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("read at the negative offset %d", off)
	}
	if off > f.size-int64(len(p)) {
		return io.ErrUnexpectedEOF
	}
	switch n, err := f.r.ReadAt(p, off); {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}

// FormatError says that bytes are not what their format wants, or want
// something that is not supported. Reading them again does not help.
type FormatError struct {
	// Reason is a clause for people that names the format and the sector.
	Reason string
}

func (e *FormatError) Error() string { return e.Reason }

func malformed(format string, args ...any) error {
	return &FormatError{fmt.Sprintf(format, args...)}
}

// readHeader reads the n bytes of a header that starts at sector.
func readHeader(ctx context.Context, f File, format string, sector uint64, n int) ([]byte, error) {
	if !holds(f, sector, int64(n)) {
		return nil, malformed("%s: its header at sector %d is not inside the file of %d bytes", format, sector, f.Size())
	}
	p := make([]byte, n)
	if err := f.ReadAt(ctx, p, int64(sector)*SectorSize); err != nil {
		return nil, fmt.Errorf("%s: read the header at sector %d: %w", format, sector, err)
	}
	return p, nil
}

// holds reports that length bytes from sector on are inside the file.
func holds(f File, sector uint64, length int64) bool {
	return length <= f.Size() && sector <= uint64(f.Size()-length)/SectorSize
}
