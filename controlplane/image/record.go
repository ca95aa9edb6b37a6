package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"skylift/staging"
)

// Record is what an image says of itself, in image.json beside its disks. It
// is written last: a folder without one is no image.
type Record struct {
	Format     string       `json:"format"` // "skylift-image"
	Version    int          `json:"version"`
	Image      string       `json:"image"`
	Job        string       `json:"job"`
	Run        string       `json:"run"`
	Server     string       `json:"server"` // catalog ID
	ServerName string       `json:"serverName"`
	Created    time.Time    `json:"created"`
	Disks      []RecordDisk `json:"disks"`
}

// RecordDisk is one disk of an image.
type RecordDisk struct {
	Disk        string       `json:"disk"` // identity
	Key         string       `json:"key"`  // its name in staging keys
	Name        string       `json:"name,omitempty"`
	Position    int          `json:"position"`
	File        string       `json:"file"` // beside the record
	Size        int64        `json:"size"` // bytes
	Digest      staging.Hash `json:"digest"`
	Manifest    staging.Hash `json:"manifest"` // SHA-256 of the stored manifest
	Consistency string       `json:"consistency,omitempty"`
	Snapshot    time.Time    `json:"snapshot"` // when the source's snapshot was taken
	// Written is the file's modification time when it was complete: another
	// one says that somebody wrote to it, or copied it.
	Written time.Time `json:"written"`
}

const (
	recordFormat  = "skylift-image"
	recordVersion = 1
	maxRecord     = 4 << 20
)

// disk finds a disk by its identity.
func (r *Record) disk(id string) (RecordDisk, bool) {
	for _, d := range r.Disks {
		if d.Disk == id {
			return d, true
		}
	}
	return RecordDisk{}, false
}

// write puts the record into the image's folder and makes it durable.
func (r *Record) write(folder string) (err error) {
	p, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(folder, recordName)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(p, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return asFull(err, path, int64(len(p)))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(folder)
}

// readRecord reads the record in an image's folder; one that is not there is fs.ErrNotExist.
func readRecord(folder string) (*Record, error) {
	f, err := os.Open(filepath.Join(folder, recordName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(p)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return r, nil
}

var errRecord = errors.New("it is no image record that this version knows")

func parseRecord(p []byte) (*Record, error) {
	if len(p) > maxRecord {
		return nil, fmt.Errorf("%w: more than %d bytes", errRecord, maxRecord)
	}
	r := new(Record)
	if err := json.NewDecoder(bytes.NewReader(p)).Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if r.Format != recordFormat || r.Version != recordVersion {
		return nil, fmt.Errorf("%w: format %.40q, version %d", errRecord, r.Format, r.Version)
	}
	if err := checkNames(r.Job, r.Run); err != nil || r.Image != ID(r.Run) {
		return nil, fmt.Errorf("%w: image %.80q of run %.80q", errRecord, r.Image, r.Run)
	}
	for _, d := range r.Disks {
		plain := d.File != "" && d.File != "." && d.File != ".." && !strings.ContainsAny(d.File, `/\`) && filepath.IsLocal(d.File)
		if !plain || d.Size <= 0 || d.Size > staging.MaxDiskSize {
			return nil, fmt.Errorf("%w: file %.80q of %d bytes", errRecord, d.File, d.Size)
		}
	}
	return r, nil
}

// check errs unless the disk's file is there with its size. touched says that
// it was written to, or copied, since it was made.
func (d RecordDisk) check(folder string) (touched bool, err error) {
	info, err := os.Stat(filepath.Join(folder, d.File))
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() != d.Size {
		return false, fmt.Errorf("%s has %d bytes instead of %d", filepath.Join(folder, d.File), info.Size(), d.Size)
	}
	return !info.ModTime().Equal(d.Written), nil
}
