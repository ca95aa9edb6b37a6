package image

import (
	"errors"
	"io/fs"
	"syscall"

	"skylift/internal/problem"
	"skylift/staging"
)

// What can be wrong with an image, beside what package replication says of a build.
var (
	DiskFull = &problem.Kind{
		Code:  "image-disk-full",
		Title: "the file system for images is full",
		Hint:  "Free space there, or keep fewer images; the run goes on from what is staged.",
		Retry: true,
	}
	FileTooLarge = &problem.Kind{
		Code:  "image-file-too-large",
		Title: "the file system for images holds no file of this size",
		Hint:  "Keep images on a file system that does, such as XFS or ZFS; ext4 ends at 16 TiB. Then start another run.",
	}
	Damaged = &problem.Kind{
		Code:  "image-file-damaged",
		Title: "the image file does not hold what was written to it",
		Hint:  "Check the disk and the file system that images are kept on.",
		Retry: true,
	}
	NotRetired = &problem.Kind{
		Code:  "image-not-local",
		Title: "this is not the ID of a local image of the run",
		Hint:  "Check that the job's target still is the one its images were made for.",
	}
	ChainBroken = &problem.Kind{
		Code:  "image-restore-chain",
		Title: "the run cannot be restored: what it builds on is neither staged nor kept as an image",
		Hint:  "Restore another run, or a run's image. Keep staging or images of a job to be able to restore its runs.",
	}
	Unrestorable = &problem.Kind{
		Code:  "image-restore-damaged",
		Title: "the run cannot be restored: what is kept of it is damaged",
		Hint:  "Check the run with 'skylift verify'; restore another run.",
	}
)

// isDamage tells an object that is missing or not what it should be, which
// stays so, from a store that could not be read.
func isDamage(err error) bool {
	var format *staging.FormatError
	return errors.Is(err, staging.ErrNotFound) || errors.As(err, &format)
}

// asFull types the error of a file system that has no room for need more bytes
// in path, or for a file that large.
func asFull(err error, path string, need int64) error {
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return DiskFull.New(err, "write %s, which takes up to %d bytes more", path, need)
	case errors.Is(err, syscall.EFBIG):
		return FileTooLarge.New(err, "write %s", path)
	}
	return err
}

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
