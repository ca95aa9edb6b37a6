//go:build !unix

package image

import "os"

const canLock = false

func tryLock(*os.File) (bool, error) { return true, nil }

func syncFolder(string) error { return nil }
