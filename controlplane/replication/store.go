package replication

import (
	"context"
	"errors"
	"time"

	"skylift/controlplane/catalog"
)

// Store keeps jobs and runs.
type Store interface {
	// Replicate runs f in one transaction. What f changed is kept when it
	// returns nil and dropped otherwise. When a row that f saves was changed
	// by somebody else since f read it, or its slot was taken, f is run again;
	// it must have no effects but on tx.
	Replicate(ctx context.Context, f func(tx Tx) error) error
}

// ErrConflict is what a Tx answers when a unique rule of the rows forbids the write:
// a second job for a server, a second active run of a job.
var ErrConflict = errors.New("replication: the row conflicts with another one")

// Tx reads and writes rows. A row is saved as it was read and then changed;
// saving it fails the transaction when it was changed meanwhile. Reads of
// single rows tell by their second result whether there is one.
type Tx interface {
	// Now is the database's time: leases are judged by it.
	Now() time.Time

	InsertJob(ctx context.Context, j *JobRow) error // ErrConflict: the server has a job that has not ended
	SaveJob(ctx context.Context, j *JobRow) error
	Job(ctx context.Context, id string) (*JobRow, bool, error)
	ListJobs(ctx context.Context, after string, limit int) ([]*JobRow, error)
	// DueJobs returns jobs that have not ended whose next run is due.
	DueJobs(ctx context.Context, limit int) ([]*JobRow, error)
	// DueDeletions returns jobs to be deleted, due and without a holder,
	// all of whose runs have ended.
	DueDeletions(ctx context.Context, limit int) ([]*JobRow, error)

	InsertRun(ctx context.Context, r *Row) error // ErrConflict: the job has an active run
	SaveRun(ctx context.Context, r *Row) error
	Run(ctx context.Context, id string) (*Row, bool, error)
	// ListRuns returns a job's runs in order of creation, latest first.
	ListRuns(ctx context.Context, job, after string, limit int) ([]*Row, error)
	// ActiveRun returns the job's run that has not ended.
	ActiveRun(ctx context.Context, job string) (*Row, bool, error)
	// OnDemandSince counts the job's on-demand runs since t.
	OnDemandSince(ctx context.Context, job string, t time.Time) (int, error)
	// Slots returns the slots of the owner that runs have.
	Slots(ctx context.Context, owner string) ([]int, error)
	// Expired returns runs in phases whose lease has ended without being given back.
	Expired(ctx context.Context, phases []Phase, limit int) ([]*Row, error)
	// DueRuns returns runs in phases that are due and have no owner, those first
	// that were due first. With a connector, only runs on sources it announced.
	DueRuns(ctx context.Context, phases []Phase, connector string, limit int) ([]*Row, error)

	// Landed returns the job's disks that have landed; PutLanded replaces what
	// is known of one disk on condition of the digest it has now (nil: whatever
	// it is, a full run replaces it), and tells whether that held.
	Landed(ctx context.Context, job string) ([]Landed, error)
	PutLanded(ctx context.Context, job string, l Landed, was []byte) (bool, error)
	DropLanded(ctx context.Context, job string) error
	// Images returns the job's images that are not retired, newest first.
	Images(ctx context.Context, job string) ([]ImageRow, error)
	InsertImage(ctx context.Context, i ImageRow) error
	RetireImage(ctx context.Context, job, run string) error
	// Uncleared returns the job's ended runs that may have something left in staging.
	Uncleared(ctx context.Context, job string) ([]string, error)
	// Clear notes that a run has nothing left in staging.
	Clear(ctx context.Context, run string) error

	// SaveAsk keeps an ask for the connectors unless one of the same question
	// and subject is open.
	SaveAsk(ctx context.Context, a catalog.Ask) error
	// Reached tells whether a connector heard of since alive announced the
	// source, and the source's name for people.
	Reached(ctx context.Context, source string, alive time.Time) (name string, ok bool, err error)
}

// JobRow is a job as it is stored.
type JobRow struct {
	Job
	Source, VM string // where the server is
	ServerName string
	Hold
}

// Row is a run as it is stored: what everybody sees, and what its lifecycle needs.
type Row struct {
	Run
	Created    time.Time
	Source, VM string // where the server is
	Hold
	// Slot is the holder's place among the runs it works on at once; -1 for none.
	Slot int
	// Attempts and Expiries count attempts that failed and leases that ended
	// without being given back, in this phase and since the percent last got on.
	Attempts, Expiries int
	Snapshot           *Snapshot
	Seal               []SealedDisk
	Anchor             *Anchor
	// Earlier holds the counters reached before the present epoch.
	Earlier []RunDisk
	// Trouble is why the last attempt failed, for people.
	Trouble string
}

// Hold is who works on a row. Work is judged by owner, epoch and lease at once.
type Hold struct {
	// Due is when somebody may take the row up.
	Due        time.Time
	Owner      string
	LeaseUntil time.Time // zero: free
	Epoch      int64
	// Revision counts the row's changes; a save is conditional on it.
	Revision int64
}

// free gives the row back; it can be taken up again at due.
func (h *Hold) free(due time.Time) {
	h.Owner, h.LeaseUntil, h.Due = "", time.Time{}, due
}

// take gives the row to owner under a new epoch.
func (h *Hold) take(owner string, now time.Time, ttl time.Duration) {
	h.Owner, h.LeaseUntil, h.Due = owner, now.Add(ttl), now
	h.Epoch++
}

// held reports whether somebody holds the row at now.
func (h *Hold) held(now time.Time) bool { return h.Owner != "" && h.LeaseUntil.After(now) }

// Snapshot is the hypervisor's snapshot of a run.
type Snapshot struct {
	Server      string // the source's server ID
	Run         string
	ID          string // the platform's identity of it
	Created     time.Time
	Consistency string // crash, quiesced, powered-off
	Note        string // why it is less than asked for
}

// Anchor is what must stay on the source for the next run.
type Anchor struct {
	Server string
	Run    string
	ID     string
}

// SealedDisk is what a run's seal says of one disk.
type SealedDisk struct {
	Disk           string // identity
	Key            string // its name in staging keys
	Name           string
	Position       int
	Size           int64
	ManifestSHA256 []byte
	Digest         []byte
	BaseRun        string // empty: the disk was transferred in full
	BaseDigest     []byte
	ChangeID       string
}

// Landed is the last landed run of one disk: the base of the job's next run.
type Landed struct {
	Disk           string
	Run            string
	Key            string
	Digest         []byte
	ManifestSHA256 []byte
	ChangeID       string
	Size           int64
	Image          string // the disk's own image: a path or an EBS snapshot's ID
}

// ImageRow is the image of one landed run.
type ImageRow struct {
	Job, Run string
	Image    string
	Created  time.Time
	Disks    []ImageDisk
}

// ImageDisk is one disk of an image.
type ImageDisk struct {
	Disk           string
	Key            string
	ManifestSHA256 []byte
	Image          string
}
