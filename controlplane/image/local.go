package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/controlplane/replication"
	"skylift/staging"
)

// Options set up a Local. The zero value of a field takes its default.
type Options struct {
	// Parallel is how many segments of a disk are read at once: 4.
	Parallel int
	// VerifyLimit is up to which size in bytes a disk is read back whole and
	// compared with its block map before its image counts: 1 TiB; below zero
	// none is. What a run puts is checked before it is written whatever the
	// size; reading back also covers what came from the base's file. A base
	// whose file was touched since it was made is read back whatever the limit.
	VerifyLimit int64
	// Now is the clock: time.Now.
	Now func() time.Time
	Log logrus.FieldLogger
}

const defaultVerifyLimit = 1 << 40

// Local makes images as raw sparse files in a folder:
//
//	<dir>/<server's name>/<image ID>/<position>-<disk's name>.raw
//	<dir>/<server's name>/<image ID>/image.json
//
// An image appears whole, and is on stable storage when Build returns.
// Several processes may use one folder.
type Local struct {
	shelf   shelf
	store   staging.Store
	options Options
	log     logrus.FieldLogger
}

var (
	_ replication.Builder = (*Local)(nil)
	_ replication.Retirer = (*Local)(nil)
)

// NewLocal makes a builder of images in dir, which it creates if need be.
func NewLocal(dir string, store staging.Store, o Options) (*Local, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(filepath.Join(abs, workName), folderMode)
	}
	if err != nil {
		return nil, fmt.Errorf("set up the folder for images: %w", err)
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.VerifyLimit == 0 {
		o.VerifyLimit = defaultVerifyLimit
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = logrus.StandardLogger()
	}
	return &Local{shelf{abs}, store, o, o.Log}, nil
}

// Build makes the run's image. Beside what the interface says: BuildRefused
// when staging does not hold what was sealed; BaseGone when the base's file or
// its block map is missing or damaged; DiskFull, which may pass; Damaged.
func (l *Local) Build(ctx context.Context, r replication.BuildRequest, progress func(percent int)) (replication.Built, error) {
	built, err := l.build(ctx, r, progress)
	if err != nil {
		return replication.Built{}, fmt.Errorf("build the image of run %s: %w", r.Run, err)
	}
	return built, nil
}

func (l *Local) build(ctx context.Context, r replication.BuildRequest, progress func(percent int)) (built replication.Built, err error) {
	if err := checkNames(r.Job, r.Run); err != nil {
		return built, err
	}
	place, record, err := l.existing(r)
	if err != nil || record != nil {
		return builtOf(place, record), err
	}
	disks, err := l.open(ctx, r)
	if err != nil {
		return built, err
	}
	attempt, err := l.shelf.begin(r.Run, r.Attempt)
	if err != nil {
		return built, err
	}
	defer func() { err = errors.Join(err, attempt.close()) }()
	record = &Record{
		Format: recordFormat, Version: recordVersion, Image: ID(r.Run), Job: r.Job, Run: r.Run,
		Server: r.Server, ServerName: r.ServerName, Created: l.options.Now().UTC(),
	}
	meter := newMeter(l.work(disks), progress)
	for _, d := range disks {
		written, err := l.disk(ctx, d, filepath.Join(attempt.path, d.file), meter)
		if err != nil {
			return built, fmt.Errorf("disk %s: %w", d.sealed.Disk, err)
		}
		record.Disks = append(record.Disks, d.record(written))
	}
	if err := record.write(attempt.path); err != nil {
		return built, err
	}
	if err := l.publish(attempt, r, record, &built); err != nil {
		return built, err
	}
	meter.finish()
	return built, nil
}

// publish puts the image on the shelf. Where another attempt was faster, its
// image is taken; which of the two lands is the lease's matter. One that cannot
// be used gives way only now that there is a better one.
func (l *Local) publish(a *attemptFolder, r replication.BuildRequest, record *Record, built *replication.Built) error {
	place, other, err := l.existing(r)
	if err != nil {
		return err
	}
	if other != nil {
		*built = builtOf(place, other)
		return nil
	}
	if place != "" {
		if err := l.shelf.remove(place); err != nil {
			return err
		}
	}
	place, err = l.shelf.publish(a, serverFolder(r), record.Image)
	if err != nil {
		return err
	}
	*built = builtOf(place, record)
	return nil
}

// serverFolder is the path element for a server.
func serverFolder(r replication.BuildRequest) string {
	for _, name := range []string{r.ServerName, r.Server} {
		if f := folder(name); f != "" {
			return f
		}
	}
	return "server"
}

// existing finds the image that an earlier attempt completed. Without a record
// it is not what was sealed, or not whole.
func (l *Local) existing(r replication.BuildRequest) (place string, record *Record, err error) {
	place, err = l.shelf.find(ID(r.Run))
	if err != nil || place == "" {
		return "", nil, err
	}
	record, err = readRecord(place)
	if err == nil {
		err = fits(place, record, r)
	}
	if err == nil {
		return place, record, nil
	}
	l.log.WithFields(logrus.Fields{"run": r.Run, "image": ID(r.Run)}).WithError(err).Warn("the image there is of this run cannot be used; it is made again")
	return place, nil, nil
}

// fits errs unless the image is what the request asks for.
func fits(place string, record *Record, r replication.BuildRequest) error {
	if record.Job != r.Job || record.Run != r.Run || len(record.Disks) != len(r.Disks) {
		return fmt.Errorf("it is of run %s with %d disks", record.Run, len(record.Disks))
	}
	for _, d := range r.Disks {
		have, ok := record.disk(d.Disk)
		if !ok || string(have.Manifest[:]) != string(d.ManifestSHA256) || string(have.Digest[:]) != string(d.Digest) {
			return fmt.Errorf("its disk %s is not what was sealed", d.Disk)
		}
		touched, err := have.check(place)
		if err != nil {
			return err
		}
		if touched {
			return fmt.Errorf("its file %s was touched", have.File)
		}
	}
	return nil
}

// builtOf says what is in an image; nothing without a record.
func builtOf(place string, record *Record) replication.Built {
	if record == nil {
		return replication.Built{}
	}
	built := replication.Built{Image: record.Image}
	for _, d := range record.Disks {
		built.Disks = append(built.Disks, replication.BuiltDisk{
			Disk: d.Disk, Image: filepath.Join(place, d.File), Digest: d.Digest[:],
		})
	}
	return built
}

// Retire removes an image; one that is gone is no error. NotRetired when the
// row's image is not one that Local made of that run.
func (l *Local) Retire(_ context.Context, image replication.ImageRow) error {
	if err := checkNames(image.Job, image.Run); err != nil || image.Image != ID(image.Run) {
		return NotRetired.New(err, "remove image %q of run %q", image.Image, image.Run)
	}
	place, err := l.shelf.find(image.Image)
	if err == nil && place != "" {
		err = l.shelf.remove(place)
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", image.Image, err)
	}
	return nil
}
