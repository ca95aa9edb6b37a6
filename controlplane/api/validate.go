package api

import (
	"cmp"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/replication"
)

// Bounds of a job's settings that package replication does not have.
const (
	minHours       = 1
	maxHours       = int32(replication.MaxFrequency / time.Hour)
	minMinutes     = int32(replication.MinFrequency / time.Minute)
	maxMinutes     = int32(replication.MaxFrequency / time.Minute)
	maxDescription = 1024 // characters
	maxSkipDisks   = 256
	maxDiskID      = 512 // characters
)

var (
	roleForm = regexp.MustCompile(`\A[A-Za-z0-9_+=,.@-]{1,64}\z`)
	kmsForm  = regexp.MustCompile(`\A(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key/|alias/)[A-Za-z0-9/_-]+|alias/[A-Za-z0-9/_-]+|[A-Za-z0-9-]+)\z`)
)

// newJob holds a request for a job against the rules that the model cannot tell.
func (h *Handler) newJob(in sms.CreateReplicationJobRequest) (replication.NewJob, error) {
	err := cmp.Or(
		checkID("serverId", in.ServerID),
		checkRhythm(in.Frequency, in.FrequencyMinutes, in.RunOnce),
		h.checkSeed(in.SeedReplicationTime.Time),
		checkDescription(in.Description),
		checkRole(in.RoleName),
		checkImages(in.NumberOfRecentAmisToKeep),
		checkKey(in.KMSKeyID),
		checkSkipDisks(in.SkipDisks))
	if err == nil && in.KMSKeyID != "" && !deref(in.Encrypted) {
		err = invalid("kmsKeyId needs encrypted to be true")
	}
	if err != nil {
		return replication.NewJob{}, err
	}
	return replication.NewJob{
		Server:      in.ServerID,
		Seed:        in.SeedReplicationTime.Time,
		Frequency:   deref(frequency(in.Frequency, in.FrequencyMinutes)),
		RunOnce:     deref(in.RunOnce),
		LicenseType: in.LicenseType,
		RoleName:    in.RoleName,
		Description: in.Description,
		KeepImages:  int(deref(in.NumberOfRecentAmisToKeep)),
		Encrypted:   deref(in.Encrypted),
		KMSKeyID:    in.KMSKeyID,
		Quiesce:     cmp.Or(in.Quiesce, "prefer"),
		KeepStaging: deref(in.KeepStaging),
		SkipDisks:   in.SkipDisks,
	}, nil
}

// jobChange does the same for a change of one.
func jobChange(in sms.UpdateReplicationJobRequest) (replication.JobChange, error) {
	err := cmp.Or(
		checkID("replicationJobId", in.ReplicationJobID),
		checkFrequency(in.Frequency, in.FrequencyMinutes),
		checkDescription(deref(in.Description)),
		checkRole(deref(in.RoleName)),
		checkImages(in.NumberOfRecentAmisToKeep),
		checkKey(deref(in.KMSKeyID)),
		checkSkipDisks(deref(in.SkipDisks)))
	if err == nil && deref(in.KMSKeyID) != "" && in.Encrypted != nil && !*in.Encrypted {
		err = invalid("kmsKeyId needs encrypted to be true")
	}
	if err != nil {
		return replication.JobChange{}, err
	}
	c := replication.JobChange{
		Frequency:   frequency(in.Frequency, in.FrequencyMinutes),
		LicenseType: in.LicenseType,
		RoleName:    in.RoleName,
		Description: in.Description,
		Encrypted:   in.Encrypted,
		KMSKeyID:    in.KMSKeyID,
		Quiesce:     in.Quiesce,
		KeepStaging: in.KeepStaging,
		SkipDisks:   in.SkipDisks,
	}
	if in.NextReplicationRunStartTime != nil {
		c.NextRun = new(in.NextReplicationRunStartTime.Time)
	}
	if in.NumberOfRecentAmisToKeep != nil {
		c.KeepImages = new(int(*in.NumberOfRecentAmisToKeep))
	}
	return c, nil
}

// checkRhythm wants a frequency or one run, not both.
func checkRhythm(hours, minutes *int32, runOnce *bool) error {
	recurs := hours != nil || minutes != nil
	switch {
	case !recurs && !deref(runOnce):
		return missing("the request lacks frequency, in hours; for a single run give runOnce instead")
	case recurs && deref(runOnce):
		return invalid("frequency and runOnce exclude each other")
	}
	return checkFrequency(hours, minutes)
}

func checkFrequency(hours, minutes *int32) error {
	switch {
	case hours != nil && minutes != nil:
		return invalid("frequency and frequencyMinutes exclude each other")
	case hours != nil && (*hours < minHours || *hours > maxHours):
		return invalid("frequency must be %d to %d hours; frequencyMinutes takes less than an hour", minHours, maxHours)
	case minutes != nil && (*minutes < minMinutes || *minutes > maxMinutes):
		return invalid("frequencyMinutes must be %d to %d", minMinutes, maxMinutes)
	}
	return nil
}

// frequency is what was given; nil for nothing.
func frequency(hours, minutes *int32) *time.Duration {
	switch {
	case hours != nil:
		return new(time.Duration(*hours) * time.Hour)
	case minutes != nil:
		return new(time.Duration(*minutes) * time.Minute)
	}
	return nil
}

// checkSeed takes a time in the past for "at once".
func (h *Handler) checkSeed(seed time.Time) error {
	if seed.After(h.config.Now().Add(replication.MaxAhead)) {
		return invalid("seedReplicationTime must be at most %.0f days ahead", replication.MaxAhead.Hours()/24)
	}
	return nil
}

func checkDescription(s string) error {
	if utf8.RuneCountInString(s) > maxDescription || strings.ContainsFunc(s, unicode.IsControl) {
		return invalid("description must be at most %d characters, none of them a control character", maxDescription)
	}
	return nil
}

func checkRole(name string) error {
	if name != "" && !roleForm.MatchString(name) {
		return invalid("roleName must be the name of an IAM role, not its ARN: at most 64 letters, digits and _+=,.@-")
	}
	return nil
}

func checkImages(n *int32) error {
	if n != nil && (*n < 0 || *n > replication.MaxKeep) {
		return invalid("numberOfRecentAmisToKeep must be 0, which keeps all, to %d", replication.MaxKeep)
	}
	return nil
}

func checkKey(id string) error {
	if id != "" && (len(id) > 2048 || !kmsForm.MatchString(id)) {
		return invalid("kmsKeyId must be a KMS key's ID or alias, or the ARN of either")
	}
	return nil
}

func checkSkipDisks(disks []string) error {
	if len(disks) > maxSkipDisks {
		return invalid("skipDisks must name at most %d disks", maxSkipDisks)
	}
	seen := make(map[string]bool, len(disks))
	for i, id := range disks {
		switch {
		case id == "" || utf8.RuneCountInString(id) > maxDiskID:
			return invalid("skipDisks[%d] must be the ID of a disk, as GetServers shows it", i)
		case seen[id]:
			return invalid("skipDisks[%d] names a disk for the second time", i)
		}
		seen[id] = true
	}
	return nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
