package replication

import "slices"

// The stages of a run, in order, in the SMS API's words.
const (
	StagePreparing  = "Preparing"
	StageUploading  = "Uploading"
	StageConverting = "Converting"
	StageCompleted  = "Completed"
)

var stages = []string{StagePreparing, StageUploading, StageConverting, StageCompleted}

// State is the phase in the SMS API's words.
func (p Phase) State() RunState {
	switch p {
	case Waiting:
		return RunPending
	case Completed:
		return RunCompleted
	case Failed:
		return RunFailed
	case Missed:
		return RunMissed
	case Deleting:
		return RunDeleting
	case Deleted:
		return RunDeleted
	}
	return RunActive
}

// stage is where a run is at least when it enters the phase; empty: where it was.
func (p Phase) stage() string {
	switch p {
	case Waiting, Transferring:
		return StagePreparing
	case Settling:
		return StageUploading
	case Building, Purging:
		return StageConverting
	case Completed:
		return StageCompleted
	}
	return ""
}

// Active reports whether a run in this phase has not ended.
func (p Phase) Active() bool {
	return slices.Contains(leasedPhases, p)
}

// Progress is what a connector reports while it works on a run.
type Progress struct {
	Uploading  bool   // past the preparations
	WaitingFor string // one sentence; empty when nothing is waited for
	Disks      []DiskProgress
}

// DiskProgress is a disk's counters within the present epoch; Done are bytes
// of those planned that were read in it or found in staging.
type DiskProgress struct {
	RunDisk
	Done int64
}

// report takes a connector's progress over. Counters of this epoch add to
// those of earlier ones.
func (r *Row) report(p Progress) {
	r.Message, r.WaitingFor = p.WaitingFor, p.WaitingFor
	var done, planned int64
	for _, d := range p.Disks {
		done, planned = done+d.Done, planned+d.Planned
		r.count(d.RunDisk)
	}
	if !p.Uploading {
		return
	}
	percent := 0
	if planned > 0 {
		percent = int(min(max(done, 0), planned) * 100 / planned)
	}
	r.advance(StageUploading, percent)
}

// count replaces the disk's counters by those of earlier epochs and of this one.
func (r *Row) count(d RunDisk) {
	if i := slices.IndexFunc(r.Earlier, func(e RunDisk) bool { return e.ID == d.ID }); i >= 0 {
		e := r.Earlier[i]
		d.Read, d.Sent, d.Stored = d.Read+e.Read, d.Sent+e.Sent, d.Stored+e.Stored
		d.Changed = max(d.Changed, e.Changed)
		d.Reason, d.Kind = or(d.Reason, e.Reason), or(d.Kind, e.Kind)
	}
	if i := slices.IndexFunc(r.Disks, func(e RunDisk) bool { return e.ID == d.ID }); i >= 0 {
		r.Disks[i] = d
		return
	}
	r.Disks = append(r.Disks, d)
}

// advance moves stage and percent on; neither goes back. A run that gets on
// has its budgets back: a transfer of weeks outlives more than a few bad nights.
// That ends, because percents do.
func (r *Row) advance(stage string, percent int) {
	percent = min(percent, 100)
	is, to := slices.Index(stages, r.Stage), slices.Index(stages, stage)
	if to < is || to == is && percent <= r.Progress {
		return
	}
	r.Stage, r.Progress, r.Attempts, r.Expiries = stage, percent, 0, 0
	if stage == StageCompleted {
		r.Progress = 100
	}
}
