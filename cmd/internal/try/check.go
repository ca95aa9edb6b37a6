package try

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/internal/simulator/vcenter"
	"skylift/staging"
)

// sentLimit is how much more than the guests changed, in blocks, an
// incremental run may send.
const sentLimit = 1.1

// RunResult is what one run of one server did and whether it arrived.
type RunResult struct {
	Run              string  `json:"run"`
	State            string  `json:"state"`
	Message          string  `json:"message,omitempty"`
	Kind             string  `json:"kind"`
	BytesProvisioned int64   `json:"bytesProvisioned"`
	BytesPlanned     int64   `json:"bytesPlanned"`
	BytesRead        int64   `json:"bytesRead"`
	BytesSent        int64   `json:"bytesSent"`
	BytesStored      int64   `json:"bytesStored"`
	BytesWritten     int64   `json:"bytesChangedByGuest"`
	Seconds          float64 `json:"seconds"`
	Transport        string  `json:"transport"`
	Consistency      string  `json:"consistency"`
	Image            string  `json:"image"`
	// Verified tells how the image was checked: "source" is byte for byte
	// against the source at the snapshot, "block map" against the hashes that
	// the connector took; empty if it was not, or did not pass.
	Verified string `json:"verified"`
	Problem  string `json:"problem,omitempty"`
}

// check compares a run's images with what the source held at its snapshot.
func (t *tour) check(s *serverTry, run sms.ReplicationRun, took time.Duration) (RunResult, error) {
	r := RunResult{Run: run.ReplicationRunID, State: run.State, Message: run.StatusMessage, Seconds: took.Seconds(),
		Consistency: run.Consistency, Image: run.AmiID}
	for _, d := range run.Disks {
		r.Kind, r.Transport = d.Kind, d.Transport
		r.BytesProvisioned += d.SizeBytes
		r.BytesPlanned += d.PlannedBytes
		r.BytesRead += d.ReadBytes
		r.BytesSent += d.SentBytes
		r.BytesStored += d.StoredBytes
	}
	if run.State != "COMPLETED" {
		r.Problem = "the run is " + run.State + ": " + run.StatusMessage
		return r, nil
	}
	if !t.source.simulated() {
		// Nothing else is known of a real source's past.
		return t.checkMap(r, run)
	}
	held, before := t.source.witnesses(run.ReplicationRunID, s)
	if held == nil {
		r.Problem = "the run's snapshot was never seen"
		return r, nil
	}
	var err error
	if r.Problem, r.BytesWritten, err = compareDisks(run, held, before); err != nil {
		return r, fmt.Errorf("check the image of %s: %w", s.name, err)
	}
	if r.Problem != "" {
		return r, nil
	}
	if before != nil && float64(r.BytesSent) > sentLimit*float64(r.BytesWritten) {
		r.Problem = fmt.Sprintf("%d bytes were sent for %d that the guest changed", r.BytesSent, r.BytesWritten)
		return r, nil
	}
	r.Verified = "source"
	return r, nil
}

// checkMap holds a run's image against the block map that the connector took,
// with "skylift verify".
func (t *tour) checkMap(r RunResult, run sms.ReplicationRun) (RunResult, error) {
	if len(run.Disks) == 0 {
		r.Problem = "the run has no disk"
		return r, nil
	}
	problem, err := t.stack.verify(t.ctx, filepath.Dir(run.Disks[0].Image))
	if r.Problem = problem; problem == "" && err == nil {
		r.Verified = "block map"
	}
	return r, err
}

// compareDisks compares every disk that the snapshot held with its image, and
// counts the bytes of blocks that differ from the snapshot before, if there is one.
func compareDisks(run sms.ReplicationRun, held, before *vcenter.SnapshotEvent) (problem string, changed int64, err error) {
	if len(run.Disks) != len(held.Disks) {
		return fmt.Sprintf("%d disks arrived of %d", len(run.Disks), len(held.Disks)), 0, nil
	}
	for _, frozen := range held.Disks {
		problem, n, err := compare(frozen.ReaderAt, frozen.Size, imageOf(run, frozen.UUID), earlier(before, frozen.UUID))
		changed += n
		if problem != "" || err != nil {
			return problem, changed, err
		}
	}
	return "", changed, nil
}

func imageOf(run sms.ReplicationRun, disk string) string {
	for _, d := range run.Disks {
		if d.DiskID == disk {
			return d.Image
		}
	}
	return ""
}

// compare reads the frozen disk and the image side by side, and counts the
// bytes of blocks that differ from the earlier snapshot, if there is one.
func compare(frozen io.ReaderAt, size int64, path string, earlier io.ReaderAt) (problem string, changed int64, err error) {
	image, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf("there is no image: %v", err), 0, nil
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	info, err := image.Stat()
	if err != nil {
		return "", 0, err
	}
	if info.Size() != size {
		return fmt.Sprintf("the image has %d bytes, and the disk %d", info.Size(), size), 0, nil
	}
	want, got, old := make([]byte, staging.BlockSize), make([]byte, staging.BlockSize), make([]byte, staging.BlockSize)
	for off := int64(0); off < size; off += staging.BlockSize {
		n := min(staging.BlockSize, size-off)
		if err := errors.Join(readAt(frozen, want[:n], off), readAt(image, got[:n], off)); err != nil {
			return "", 0, err
		}
		if !bytes.Equal(want[:n], got[:n]) {
			return fmt.Sprintf("the image differs from the source in the block at byte %d", off), changed, nil
		}
		if earlier == nil {
			continue
		}
		if err := readAt(earlier, old[:n], off); err != nil {
			return "", 0, err
		}
		if !bytes.Equal(want[:n], old[:n]) {
			changed += staging.BlockSize
		}
	}
	return "", changed, nil
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return err
}
