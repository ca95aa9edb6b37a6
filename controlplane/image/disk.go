package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"skylift/controlplane/replication"
	"skylift/staging"
)

// disk is one disk to build, checked as far as it can be without reading blocks.
type disk struct {
	sealed replication.BuildDisk
	*staged
	file     string
	basePath string // empty: no base
	verify   bool
}

// open reads and checks what all disks are built from, before anything is written.
func (l *Local) open(ctx context.Context, r replication.BuildRequest) ([]*disk, error) {
	var disks []*disk
	taken := map[string]bool{recordName: true}
	for _, sealed := range r.Disks {
		d := &disk{sealed: sealed}
		err := l.openDisk(ctx, r, d)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", sealed.Disk, err)
		}
		d.file = diskFile(sealed.Position, d.run.Disk.Name, sealed.Key, taken)
		disks = append(disks, d)
	}
	return disks, nil
}

func (l *Local) openDisk(ctx context.Context, r replication.BuildRequest, d *disk) error {
	place := staging.Place{Job: r.Job, Run: r.Run, Disk: d.sealed.Key}
	if err := place.Validate(); err != nil {
		return err
	}
	if len(d.sealed.ManifestSHA256) != len(staging.Hash{}) {
		return replication.BuildRefused.New(nil, "a manifest's hash of %d bytes was sealed", len(d.sealed.ManifestSHA256))
	}
	run, err := staging.ReadSealed(ctx, l.store, place, staging.Hash(d.sealed.ManifestSHA256))
	if err != nil && isDamage(err) {
		return replication.BuildRefused.New(err, "read the sealed manifest")
	}
	if err != nil {
		return err
	}
	if err := agree(run, d.sealed.SealedDisk); err != nil {
		return replication.BuildRefused.New(err, "compare the manifest with the seal")
	}
	d.verify = run.Disk.Size <= l.options.VerifyLimit
	var base *staging.Manifest
	if run.Base != nil {
		if base, err = l.openBase(ctx, d, run); err != nil {
			return err
		}
	}
	d.staged, err = openStaged(ctx, l.store, run, base)
	return refused(err, run.Run)
}

// agree errs unless the manifest says what the seal says.
func agree(m *staging.Manifest, d replication.SealedDisk) error {
	base := staging.Base{}
	if m.Base != nil {
		base = *m.Base
	}
	switch {
	case m.Disk.ID != d.Disk || m.Disk.Size != d.Size:
		return fmt.Errorf("it is of disk %s with %d bytes, not of %s with %d", m.Disk.ID, m.Disk.Size, d.Disk, d.Size)
	case string(m.Digest[:]) != string(d.Digest):
		return fmt.Errorf("its digest is %s instead of %x", m.Digest, d.Digest)
	case base.Run != d.BaseRun:
		return fmt.Errorf("it builds on run %q instead of %q", base.Run, d.BaseRun)
	case m.Base != nil && string(base.Digest[:]) != string(d.BaseDigest):
		return fmt.Errorf("its base's digest is %s instead of %x", base.Digest, d.BaseDigest)
	}
	return nil
}

// openBase finds the base's file and reads its manifest.
func (l *Local) openBase(ctx context.Context, d *disk, run *staging.Manifest) (*staging.Manifest, error) {
	what := fmt.Sprintf("build on run %s", run.Base.Run)
	place, err := l.shelf.find(ID(run.Base.Run))
	if err != nil {
		return nil, err
	}
	if place == "" || d.sealed.BaseImage == "" {
		return nil, replication.BaseGone.New(nil, "%s: there is no image %s in %s", what, ID(run.Base.Run), l.shelf.dir)
	}
	record, err := readRecord(place)
	if errors.Is(err, errRecord) || isGone(err) {
		return nil, replication.BaseGone.New(err, "%s", what)
	}
	if err != nil {
		return nil, err
	}
	have, ok := record.disk(run.Disk.ID)
	if !ok {
		return nil, replication.BaseGone.New(nil, "%s: image %s has no such disk", what, record.Image)
	}
	if have.Digest != run.Base.Digest || have.Size != run.Base.Size {
		return nil, replication.BaseChanged.New(fmt.Errorf("the image's digest is %s, and the sealed base's %s", have.Digest, run.Base.Digest), "%s", what)
	}
	touched, err := have.check(place)
	if err != nil {
		return nil, replication.BaseGone.New(err, "%s", what)
	}
	d.verify = d.verify || touched
	d.basePath = filepath.Join(place, have.File)
	base, err := loadBase(ctx, l.store, run)
	if fault := (*Fault)(nil); errors.As(err, &fault) {
		return nil, replication.BaseGone.New(fault, "%s: its block map cannot be used", what)
	}
	return base, err
}

// work estimates what there is to do for disks, in bytes.
func (l *Local) work(disks []*disk) (total int64) {
	for _, d := range disks {
		if d.base != nil {
			total += d.base.Disk.Size
		}
		for _, r := range d.run.Segments {
			total += r.Count * d.segmentSize()
		}
		if d.verify {
			total += d.run.Disk.Size
		}
	}
	return total
}

func (d *disk) segmentSize() int64 { return int64(d.run.SegmentBlocks) * staging.BlockSize }

// disk makes a disk's file and returns when it was complete.
func (l *Local) disk(ctx context.Context, d *disk, path string, meter *meter) (written time.Time, err error) {
	f, err := createRaw(path, d.run.Disk.Size)
	if err != nil {
		return written, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if d.basePath != "" {
		if err := copyBase(ctx, f, d, meter); err != nil {
			return written, asFull(err, path, d.base.Disk.Size+d.run.Counters.Changed)
		}
	}
	a := applier{staged: d.staged, parallel: l.options.Parallel, put: f.put,
		refuse:  func(fault *Fault) error { return fault },
		segment: func(int64, int64) { meter.add(d.segmentSize()) }}
	if err := a.apply(ctx); err != nil {
		return written, asFull(refused(err, d.run.Run), path, d.run.Counters.Changed)
	}
	if err := f.finish(); err != nil {
		return written, asFull(err, path, d.run.Counters.Changed)
	}
	if d.verify {
		if err := l.readBack(ctx, f, d, meter); err != nil {
			return written, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return written, err
	}
	return info.ModTime(), nil
}

func copyBase(ctx context.Context, f *rawFile, d *disk, meter *meter) error {
	base, err := os.Open(d.basePath)
	if err != nil {
		return replication.BaseGone.New(err, "build on run %s", d.base.Run)
	}
	defer base.Close()
	if err := f.copyFrom(ctx, base, d.base.Disk.Size, meter.add); err != nil {
		return fmt.Errorf("copy the base's file: %w", err)
	}
	return nil
}

// readBack compares the file with the run's block map. When it is the base's
// file that is not what it was, the run cannot be built.
func (l *Local) readBack(ctx context.Context, f *rawFile, d *disk, meter *meter) error {
	result, err := VerifyImage(ctx, f.File, f.size, d.run, l.store, meter.add)
	if err != nil || result.OK() {
		return refused(err, d.run.Run)
	}
	if d.basePath != "" {
		base, err := os.Open(d.basePath)
		if err != nil {
			return replication.BaseGone.New(err, "build on run %s", d.base.Run)
		}
		defer base.Close()
		of, err := VerifyImage(ctx, base, d.base.Disk.Size, d.base, l.store, nil)
		if err != nil {
			return refused(err, d.run.Run)
		}
		if !of.OK() {
			return replication.BaseGone.New(of.Err(), "build on %s, which was damaged or written to", d.basePath)
		}
	}
	return Damaged.New(result.Err(), "read back %s", f.Name())
}

// refused makes a problem of what is wrong with the run in staging. A map
// shard that an earlier run keeps is the base's: without it there is no base.
func refused(err error, run string) error {
	var fault *Fault
	var shard *mapFault
	switch {
	case errors.As(err, &fault):
		return replication.BuildRefused.New(fault, "build from staging")
	case errors.As(err, &shard) && shard.holder != run:
		return replication.BaseGone.New(shard, "build on its block map")
	case errors.As(err, &shard):
		return replication.BuildRefused.New(shard, "build from staging")
	}
	return err
}

func (d *disk) record(written time.Time) RecordDisk {
	m := d.run
	return RecordDisk{
		Disk: m.Disk.ID, Key: d.sealed.Key, Name: m.Disk.Name, Position: m.Disk.Position, File: d.file,
		Size: m.Disk.Size, Digest: m.Digest, Manifest: staging.Hash(d.sealed.ManifestSHA256),
		Consistency: m.Snapshot.Consistency, Snapshot: m.Snapshot.Created, Written: written,
	}
}
