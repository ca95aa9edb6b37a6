//go:build !unix

package image

import (
	"errors"
	"os"
)

func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }

func syncFolder(string) error { return nil }
