package staging

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Place is where one disk of one run lies.
type Place struct{ Job, Run, Disk string }

// DiskKey derives a disk's name in keys from its identity, which may hold any
// character.
func DiskKey(identity string) string {
	sum := sha256.Sum256([]byte(identity))
	return "disk-" + hex.EncodeToString(sum[:12])
}

// Validate errs unless all three names are safe in keys: lower-case letters,
// digits and hyphens, at most 64 characters.
func (p Place) Validate() error {
	for _, name := range []string{p.Job, p.Run, p.Disk} {
		if err := validateName(name); err != nil {
			return err
		}
	}
	return nil
}

func validateName(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("staging: %q is no name for a key: 1 to 64 lower-case letters, digits and hyphens", name)
	}
	return nil
}

// Data returns the prefix of what is purged when the run has landed.
func (p Place) Data() string { return DataPrefix(p.Job, p.Run) + p.Disk + "/" }

// State returns the prefix of what lives as long as the run is a base or its
// image is kept.
func (p Place) State() string { return StatePrefix(p.Job, p.Run) + p.Disk + "/" }

// DataPrefix and StatePrefix return the two prefixes of a run.
func DataPrefix(job, run string) string { return "data/" + job + "/" + run + "/" }

// StatePrefix returns the prefix of a run's state; see DataPrefix.
func StatePrefix(job, run string) string { return "state/" + job + "/" + run + "/" }

// Plan returns the plan's key.
func (p Place) Plan() string { return p.Data() + "plan" }

// SegmentPrefix is what the keys of all segments begin with.
func (p Place) SegmentPrefix() string { return p.Data() + "segment-" }

// Segment returns the key of segment n; keys sort as their numbers do.
func (p Place) Segment(n int64) string { return fmt.Sprintf("%s%08d", p.SegmentPrefix(), n) }

// ParseSegment returns the number in a segment's key.
func (p Place) ParseSegment(key string) (int64, bool) {
	digits, ok := strings.CutPrefix(key, p.SegmentPrefix())
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, ok && err == nil && n >= 0 && p.Segment(n) == key
}

// Map returns the key of a shard of the block map.
func (p Place) Map(shard int64, sum Hash) string {
	return fmt.Sprintf("%smap-%06d-%s", p.State(), shard, sum)
}

// Manifest returns the manifest's key.
func (p Place) Manifest() string { return p.State() + "manifest" }
