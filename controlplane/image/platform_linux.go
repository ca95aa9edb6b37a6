package image

import (
	"os"

	"golang.org/x/sys/unix"
)

// clone makes dst share all of src's bytes, where the file system can.
func clone(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// punch makes a hole of n bytes at off, where the file system can.
func punch(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}
