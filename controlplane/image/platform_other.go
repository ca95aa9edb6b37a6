//go:build !linux

package image

import (
	"errors"
	"os"
)

func clone(_, _ *os.File) error { return errors.ErrUnsupported }

func punch(_ *os.File, _, _ int64) error { return errors.ErrUnsupported }
