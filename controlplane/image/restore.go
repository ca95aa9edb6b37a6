package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"skylift/staging"
)

// Restoring says how to restore.
type Restoring struct {
	// Manifest is the SHA-256 recorded of the run's manifest; nil takes the one found.
	Manifest *staging.Hash
	// Images is a folder of local images that the chain may begin with; empty: none.
	Images string
	// Parallel is how many segments are read at once: 4.
	Parallel int
	// Progress takes percents that only grow; may be nil.
	Progress func(percent int)
}

// Restored says what a file was restored from.
type Restored struct {
	Size   int64
	Digest staging.Hash
	// Image is the file that the chain began with; empty if it was staged in full.
	Image string
	// Runs were read from staging, oldest first.
	Runs []string
}

// Restore makes a raw sparse file of one disk as the run at place had it: from
// the run and the runs it builds on, back to one without a base or to one
// whose image is kept. Each block comes from the run that wrote it last. The
// file appears under its name, which must be free, when it was read back and
// is what the run's block map says.
//
// Errors: fs.ErrExist; ChainBroken when the chain ends early; Unrestorable
// when what is kept is damaged; DiskFull; and what the store reports.
func Restore(ctx context.Context, store staging.Store, place staging.Place, out string, o Restoring) (Restored, error) {
	done, err := restore(ctx, store, place, out, o)
	if err != nil {
		return Restored{}, fmt.Errorf("restore %s of run %s: %w", place.Disk, place.Run, err)
	}
	return done, nil
}

func restore(ctx context.Context, store staging.Store, place staging.Place, out string, o Restoring) (done Restored, err error) {
	if err := place.Validate(); err != nil {
		return done, err
	}
	if _, err := os.Lstat(out); err == nil {
		return done, &os.PathError{Op: "create", Path: out, Err: os.ErrExist}
	}
	c := &chain{store: store}
	if o.Images != "" {
		c.shelf = &shelf{o.Images}
	}
	if err := c.follow(ctx, place, o.Manifest); err != nil {
		return done, err
	}
	f, err := os.CreateTemp(filepath.Dir(out), filepath.Base(out)+".partial-*")
	if err != nil {
		return done, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if gone := os.Remove(f.Name()); err != nil && !isGone(gone) {
			err = errors.Join(err, gone)
		}
	}()
	if err := c.fill(ctx, &rawFile{f, c.last.Disk.Size}, o); err != nil {
		return done, asFull(err, f.Name(), c.last.Disk.Size)
	}
	done = Restored{Size: c.last.Disk.Size, Digest: c.last.Digest, Image: c.image}
	for _, s := range c.links {
		done.Runs = append(done.Runs, s.run.Run)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return done, err
	}
	return done, syncFolder(filepath.Dir(out))
}

// chain is what a disk of a run is made of.
type chain struct {
	store staging.Store
	shelf *shelf // nil: no images

	last  *staging.Manifest // of the run to restore
	links []*staged         // oldest first
	first *staging.Manifest // of the image it begins with; nil: zeros
	image string            // that image's file
}

// follow finds what the run at place is made of.
func (c *chain) follow(ctx context.Context, place staging.Place, sealed *staging.Hash) error {
	m, sum, err := staging.ReadManifest(ctx, c.store, place)
	if err == nil && sealed != nil && sum != *sealed {
		err = &staging.FormatError{Object: "manifest", Err: fmt.Errorf("%w: it is not the one that was sealed", staging.ErrMismatch)}
	}
	if err != nil {
		return c.broken(err, place.Run)
	}
	c.last = m
	for seen := map[string]bool{}; ; {
		if seen[m.Run] {
			return ChainBroken.New(nil, "follow the chain: run %s builds on itself", m.Run)
		}
		seen[m.Run] = true
		if c.image, err = c.imageOf(m); err != nil {
			return err
		}
		if c.image != "" {
			c.first = m
			return nil
		}
		base, err := loadBase(ctx, c.store, m)
		if err != nil {
			return c.broken(err, m.Run)
		}
		s, err := openStaged(ctx, c.store, m, base)
		if err != nil {
			return c.broken(err, m.Run)
		}
		c.links = append([]*staged{s}, c.links...)
		if base == nil {
			return nil
		}
		m = base
	}
}

// broken types what is missing or damaged of the chain.
func (c *chain) broken(err error, run string) error {
	var fault *Fault
	switch {
	case errors.Is(err, staging.ErrNotFound):
		return ChainBroken.New(err, "read run %s", run)
	case errors.As(err, &fault) || isDamage(err):
		return Unrestorable.New(err, "read run %s", run)
	}
	return err
}

// imageOf returns the file of the image that holds what m describes; empty if
// none is kept.
func (c *chain) imageOf(m *staging.Manifest) (string, error) {
	if c.shelf == nil {
		return "", nil
	}
	place, err := c.shelf.find(ID(m.Run))
	if err != nil || place == "" {
		return "", err
	}
	record, err := readRecord(place)
	if isGone(err) || errors.Is(err, errRecord) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	d, ok := record.disk(m.Disk.ID)
	if !ok || d.Digest != m.Digest || d.Size != m.Disk.Size {
		return "", nil
	}
	if _, err := d.check(place); err != nil {
		return "", nil // without its file the image is of no use
	}
	return filepath.Join(place, d.File), nil
}

// fill makes f what the last run's map says, and durable.
func (c *chain) fill(ctx context.Context, f *rawFile, o Restoring) error {
	parallel := o.Parallel
	if parallel <= 0 {
		parallel = defaultParallel
	}
	meter := newMeter(c.work(), o.Progress)
	if err := f.Truncate(f.size); err != nil {
		return err
	}
	if c.image != "" {
		if err := c.begin(ctx, f, meter); err != nil {
			return err
		}
	}
	for _, s := range c.links {
		size := int64(s.run.SegmentBlocks) * staging.BlockSize
		a := applier{staged: s, parallel: parallel, put: f.put, wanted: &cursor{store: c.store, m: c.last},
			refuse:  func(fault *Fault) error { return fault },
			segment: func(int64, int64) { meter.add(size) }}
		if err := a.apply(ctx); err != nil {
			return damagedRun(err, s.run.Run)
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	result, err := VerifyImage(ctx, f.File, f.size, c.last, c.store, meter.add)
	if err != nil {
		return damagedRun(err, c.last.Run)
	}
	if !result.OK() && c.image != "" {
		return Unrestorable.New(result.Err(), "begin with %s", c.image)
	}
	if !result.OK() {
		return Damaged.New(result.Err(), "read back %s", f.Name())
	}
	meter.finish()
	return nil
}

func (c *chain) begin(ctx context.Context, f *rawFile, meter *meter) error {
	image, err := os.Open(c.image)
	if err != nil {
		return err
	}
	defer image.Close()
	return f.copyFrom(ctx, image, c.first.Disk.Size, meter.add)
}

func (c *chain) work() int64 {
	total := c.last.Disk.Size
	if c.first != nil {
		total += c.first.Disk.Size
	}
	for _, s := range c.links {
		for _, r := range s.run.Segments {
			total += r.Count * int64(s.run.SegmentBlocks) * staging.BlockSize
		}
	}
	return total
}

// damagedRun types what is missing or damaged of a run's blocks and map.
func damagedRun(err error, run string) error {
	var fault *Fault
	var shard *mapFault
	if errors.As(err, &fault) || errors.As(err, &shard) {
		return Unrestorable.New(err, "take blocks of run %s", run)
	}
	return err
}
