package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// shelf is the folder that images stand in:
//
//	<dir>/<server>/<image>/   complete images
//	<dir>/.work/              what is being made, and what is being removed
//
// An image is made in .work and moved to its place as a whole; it is removed
// by moving it back. What lies in .work and is locked by nobody is dead; where
// there are no locks it stays for somebody to remove.
type shelf struct{ dir string }

const workName = ".work"

func (s shelf) work() string { return filepath.Join(s.dir, workName) }

// begin makes a folder to make an image in, which is gone with close unless
// it was published. What dead attempts left is removed.
func (s shelf) begin(run string, attempt int64) (*attemptFolder, error) {
	if err := os.MkdirAll(s.work(), folderMode); err != nil {
		return nil, err
	}
	if err := s.sweep(); err != nil {
		return nil, err
	}
	for range 10 {
		path, err := os.MkdirTemp(s.work(), ID(run)+"-"+strconv.FormatInt(attempt, 10)+"-")
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if isGone(err) {
			continue // a sweep took it for dead before it was locked
		}
		if err != nil {
			return nil, errors.Join(err, os.Remove(path))
		}
		a := &attemptFolder{path: path, lock: f}
		held, err := tryLock(f)
		if errors.Is(err, errors.ErrUnsupported) {
			return a, nil
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), a.close())
		}
		if _, there := os.Lstat(path); held && there == nil {
			return a, nil
		}
		if err := a.close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("make a folder in %s: others keep removing it", s.work())
}

// sweep removes what nobody works on.
func (s shelf) sweep() error {
	entries, err := os.ReadDir(s.work())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeDead(filepath.Join(s.work(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

func removeDead(path string) error {
	f, err := os.Open(path)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	dead, err := tryLock(f)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // nobody can tell; it stays
	}
	if err != nil || !dead {
		return err
	}
	return os.RemoveAll(path)
}

// attemptFolder is where one attempt makes its image.
type attemptFolder struct {
	path string
	lock *os.File
}

// close removes what was not published.
func (a *attemptFolder) close() error {
	return errors.Join(os.RemoveAll(a.path), a.lock.Close())
}

// publish moves a complete image to its place, which must be free.
func (s shelf) publish(a *attemptFolder, server, id string) (place string, err error) {
	place = filepath.Join(s.dir, server, id)
	if err := os.MkdirAll(filepath.Dir(place), folderMode); err != nil {
		return "", err
	}
	if err := syncFolder(s.dir); err != nil {
		return "", err
	}
	// The mode of temporary folders lets no hypervisor in.
	if err := os.Chmod(a.path, folderMode); err != nil {
		return "", err
	}
	if err := os.Rename(a.path, place); err != nil {
		return "", err
	}
	return place, errors.Join(syncFolder(filepath.Dir(place)), syncFolder(s.work()))
}

// find returns an image's folder, wherever it stands; empty if there is none.
func (s shelf) find(id string) (string, error) {
	servers, err := os.ReadDir(s.dir)
	if isGone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, server := range servers {
		if !server.IsDir() || strings.HasPrefix(server.Name(), ".") {
			continue
		}
		place := filepath.Join(s.dir, server.Name(), id)
		if _, err := os.Lstat(place); err == nil {
			return place, nil
		} else if !isGone(err) {
			return "", err
		}
	}
	return "", nil
}

// remove takes an image from the shelf at once and then deletes it. The
// server's folder goes with its last image.
func (s shelf) remove(place string) error {
	if err := os.MkdirAll(s.work(), folderMode); err != nil {
		return err
	}
	grave, err := os.MkdirTemp(s.work(), "removed-")
	if err != nil {
		return err
	}
	if err := os.Rename(place, filepath.Join(grave, "image")); err != nil && !isGone(err) {
		return errors.Join(err, os.Remove(grave))
	}
	if err := syncFolder(filepath.Dir(place)); err != nil && !isGone(err) {
		return err
	}
	_ = os.Remove(filepath.Dir(place)) // fails as long as there are other images
	return os.RemoveAll(grave)
}
