// Package replication holds jobs and their runs: when a run is due, who may
// work on it, and what becomes of it.
//
// A run passes through its phases in one direction:
//
//	waiting → transferring → settling → building → purging → completed
//
// and leaves for failed, missed or deleted from the phases before landing. A
// connector holds the lease in transferring and settling, a reconciler in
// building, purging and failing. Every change of phase is conditional on owner
// and epoch, and on the lease not having ended by the database's clock: work
// under an older epoch is refused everywhere.
//
// A run has one snapshot for life. Its seal names every disk's manifest and
// base; the base is the disk's last landed run, checked when the seal is
// recorded, when the build is given out and when the run lands. Landing makes
// the run the base of the next one, for all disks in one transaction.
package replication

import "time"

// JobState is a job's state in the SMS API's words.
type JobState string

// The states of a job.
const (
	JobPending         JobState = "PENDING"
	JobActive          JobState = "ACTIVE"
	JobFailed          JobState = "FAILED"
	JobDeleting        JobState = "DELETING"
	JobDeleted         JobState = "DELETED"
	JobCompleted       JobState = "COMPLETED"
	JobPausedOnFailure JobState = "PAUSED_ON_FAILURE"
	JobFailing         JobState = "FAILING"
)

// RunState is a run's state in the SMS API's words.
type RunState string

// The states of a run.
const (
	RunPending   RunState = "PENDING"
	RunMissed    RunState = "MISSED"
	RunActive    RunState = "ACTIVE"
	RunFailed    RunState = "FAILED"
	RunCompleted RunState = "COMPLETED"
	RunDeleting  RunState = "DELETING"
	RunDeleted   RunState = "DELETED"
)

// Trigger tells who asked for a run.
type Trigger string

// The triggers, in the SMS API's words.
const (
	OnDemand  Trigger = "ON_DEMAND"
	Automatic Trigger = "AUTOMATIC"
)

// Phase is how far a run is. The API shows it as state and stage.
type Phase string

// The phases of a run.
const (
	Waiting      Phase = "waiting"      // for its time, or for a connector
	Transferring Phase = "transferring" // leased to a connector: snapshot, plan, segments, manifests
	Settling     Phase = "settling"     // sealed; a connector ends the snapshot
	Building     Phase = "building"     // a builder makes the image
	Purging      Phase = "purging"      // landed; staging is cleared
	Completed    Phase = "completed"
	Failing      Phase = "failing" // a reconciler clears staging
	Failed       Phase = "failed"
	Missed       Phase = "missed"
	Deleting     Phase = "deleting" // the holder of the lease, if any, is to stop
	Deleted      Phase = "deleted"
)

// Job replicates one server again and again, or once.
type Job struct {
	ID          string // "sms-job-" and hex digits
	Server      string // catalog ID
	Seed        time.Time
	Frequency   time.Duration // zero with RunOnce
	RunOnce     bool
	NextRun     time.Time // zero: none
	LicenseType string    // AWS, BYOL, or empty for automatic
	RoleName    string
	Description string
	KeepImages  int // 0: all
	Encrypted   bool
	KMSKeyID    string
	Quiesce     string // never, prefer, require
	KeepStaging bool   // runs stay in staging after they landed, to restore from
	SkipDisks   []string
	State       JobState
	Message     string
	LatestImage string
	Created     time.Time
}

// Run is one pass of a job.
type Run struct {
	ID          string // "sms-run-" and hex digits
	Job         string
	Trigger     Trigger
	Phase       Phase
	State       RunState
	Stage       string // Preparing, Uploading, Converting, Completed
	Progress    int    // percent of the stage; never goes back
	Message     string // for people: what failed, why, what next; or what it waits for
	Scheduled   time.Time
	Completed   time.Time
	Description string
	Encrypted   bool
	KMSKeyID    string
	Image       string // ami-…, or the local image's ID
	Consistency string // crash, quiesced, powered-off
	Note        string // why Consistency is less than was asked for
	WaitingFor  string // one sentence; empty when nothing is waited for
	Disks       []RunDisk
}

// RunDisk is what a run did for one disk. Counters are bytes.
type RunDisk struct {
	ID           string // identity
	Name         string
	Kind         string // full, incremental, comparing
	Reason       string // why it is not incremental
	Transport    string
	TransportWhy string
	Size         int64 // provisioned
	Planned      int64 // to be read in all
	Read         int64 // from the source, the sample included
	Changed      int64 // of blocks that differ from the base
	Sent         int64 // of blocks put into segments, before compression
	Stored       int64 // written to staging
	Resumed      int64 // of blocks found in staging
	Digest       []byte
	Image        string // path or snapshot ID of the disk's image, once landed
}
