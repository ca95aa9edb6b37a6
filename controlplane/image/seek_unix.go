//go:build linux || freebsd || darwin

package image

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// nextData finds the first data at or behind off in a file of size bytes, and
// its end; both are size where only a hole follows. A file system that does
// not tell holes from data has data only. It moves the file's offset.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	if off >= size {
		return size, size, nil
	}
	start, err = f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOTTY):
		return off, size, nil
	case err != nil:
		return 0, 0, err
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return min(start, size), min(end, size), nil
}
