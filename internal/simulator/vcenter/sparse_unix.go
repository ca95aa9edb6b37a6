//go:build linux || freebsd

package vcenter

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Where the next data or hole of a sparse file begins: lseek(2). Linux and
// FreeBSD agree on the numbers.
const (
	seekData = 3
	seekHole = 4
)

// dataExtents asks the file system which parts of a sparse file hold data.
func dataExtents(f *os.File, size int64) ([]Extent, error) {
	var list []Extent
	for at := int64(0); at < size; {
		start, err := f.Seek(at, seekData)
		switch {
		case errors.Is(err, syscall.ENXIO): // nothing but a hole up to the end
			return list, nil
		case errors.Is(err, syscall.EINVAL): // the file system cannot tell
			return []Extent{{0, size}}, nil
		case err != nil:
			return nil, fmt.Errorf("seek data in %s: %w", f.Name(), err)
		}
		end, err := f.Seek(start, seekHole)
		if err != nil {
			return nil, fmt.Errorf("seek hole in %s: %w", f.Name(), err)
		}
		if end <= at {
			return nil, fmt.Errorf("seek hole in %s: no progress at %d", f.Name(), at)
		}
		list = append(list, Extent{start, min(end, size) - start})
		at = end
	}
	return list, nil
}
