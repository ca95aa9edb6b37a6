//go:build unix

package image

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// canLock says that locks tell the living from the dead.
const canLock = true

// tryLock locks an open file or folder until it is closed or the process
// ends, and reports whether nobody else has it.
func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
