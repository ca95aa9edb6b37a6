package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/problem"
)

// Replication is what the API needs of jobs and runs. Its problems are the
// kinds of package replication.
type Replication interface {
	Create(ctx context.Context, job replication.NewJob) (replication.Job, error)
	// Jobs lists the jobs, or the one with the ID; JobNotFound then.
	Jobs(ctx context.Context, id string, p catalog.Page) (list []replication.Job, next string, err error)
	Update(ctx context.Context, id string, c replication.JobChange) error
	Delete(ctx context.Context, id string) error
	StartOnDemand(ctx context.Context, id, description string) (replication.Run, error)
	// Runs lists the job's runs, the latest first.
	Runs(ctx context.Context, job string, p catalog.Page) (j replication.Job, list []replication.Run, next string, err error)
}

// recentRuns is how many runs are shown with a single job.
const recentRuns = 10

func (h *Handler) createReplicationJob(ctx context.Context, in sms.CreateReplicationJobRequest) (sms.CreateReplicationJobResponse, error) {
	var out sms.CreateReplicationJobResponse
	n, err := h.newJob(in)
	if err != nil {
		return out, err
	}
	j, err := h.config.Replication.Create(ctx, n)
	if err != nil {
		return out, err
	}
	out.ReplicationJobID = j.ID
	return out, nil
}

func (h *Handler) getReplicationJobs(ctx context.Context, in sms.GetReplicationJobsRequest) (sms.GetReplicationJobsResponse, error) {
	var out sms.GetReplicationJobsResponse
	if in.ReplicationJobID != "" {
		if err := checkID("replicationJobId", in.ReplicationJobID); err != nil {
			return out, err
		}
	}
	l := h.listing(ctx, "GetReplicationJobs", in.ReplicationJobID)
	p, err := l.page(in.Page)
	if err != nil {
		return out, err
	}
	list, next, err := h.config.Replication.Jobs(ctx, in.ReplicationJobID, p)
	if err != nil {
		return out, err
	}
	if out.ReplicationJobList, err = h.jobs(ctx, list); err != nil {
		return out, err
	}
	if in.ReplicationJobID != "" && len(list) == 1 {
		_, runs, _, err := h.config.Replication.Runs(ctx, in.ReplicationJobID, catalog.Page{Limit: recentRuns})
		if err != nil {
			return out, err
		}
		out.ReplicationJobList[0].ReplicationRunList = each(runs, run)
	}
	out.NextToken = l.token(next)
	return out, nil
}

func (h *Handler) updateReplicationJob(ctx context.Context, in sms.UpdateReplicationJobRequest) (sms.Empty, error) {
	c, err := jobChange(in)
	if err != nil {
		return nothing, err
	}
	return nothing, h.config.Replication.Update(ctx, in.ReplicationJobID, c)
}

func (h *Handler) deleteReplicationJob(ctx context.Context, in sms.DeleteReplicationJobRequest) (sms.Empty, error) {
	if err := checkID("replicationJobId", in.ReplicationJobID); err != nil {
		return nothing, err
	}
	return nothing, h.config.Replication.Delete(ctx, in.ReplicationJobID)
}

func (h *Handler) startOnDemandReplicationRun(ctx context.Context, in sms.StartOnDemandReplicationRunRequest) (sms.StartOnDemandReplicationRunResponse, error) {
	var out sms.StartOnDemandReplicationRunResponse
	if err := checkID("replicationJobId", in.ReplicationJobID); err != nil {
		return out, err
	}
	if err := checkDescription(in.Description); err != nil {
		return out, err
	}
	r, err := h.config.Replication.StartOnDemand(ctx, in.ReplicationJobID, in.Description)
	if err != nil {
		return out, err
	}
	out.ReplicationRunID = r.ID
	return out, nil
}

func (h *Handler) getReplicationRuns(ctx context.Context, in sms.GetReplicationRunsRequest) (sms.GetReplicationRunsResponse, error) {
	var out sms.GetReplicationRunsResponse
	if err := checkID("replicationJobId", in.ReplicationJobID); err != nil {
		return out, err
	}
	l := h.listing(ctx, "GetReplicationRuns", in.ReplicationJobID)
	p, err := l.page(in.Page)
	if err != nil {
		return out, err
	}
	j, list, next, err := h.config.Replication.Runs(ctx, in.ReplicationJobID, p)
	if err != nil {
		return out, err
	}
	jobs, err := h.jobs(ctx, []replication.Job{j})
	if err != nil {
		return out, err
	}
	out.ReplicationJob = jobs[0]
	out.ReplicationRunList = each(list, run)
	out.NextToken = l.token(next)
	return out, nil
}

// jobs shows jobs with where their servers live; a server that has left the
// catalog has no address.
func (h *Handler) jobs(ctx context.Context, list []replication.Job) ([]sms.ReplicationJob, error) {
	out := each(list, job)
	for i, j := range list {
		s, err := h.config.Catalog.Server(ctx, j.Server)
		if problem.Has(err, catalog.ServerNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[i].VMServer = vmServer(s)
	}
	return out, nil
}

func job(j replication.Job) sms.ReplicationJob {
	return sms.ReplicationJob{
		ReplicationJobID:            j.ID,
		ServerID:                    j.Server,
		ServerType:                  serverType,
		SeedReplicationTime:         sms.At(j.Seed),
		Frequency:                   hours(j.Frequency),
		RunOnce:                     j.RunOnce,
		NextReplicationRunStartTime: sms.At(j.NextRun),
		LicenseType:                 j.LicenseType,
		RoleName:                    j.RoleName,
		LatestAmiID:                 j.LatestImage,
		State:                       string(j.State),
		StatusMessage:               j.Message,
		Description:                 j.Description,
		NumberOfRecentAmisToKeep:    int32(j.KeepImages),
		Encrypted:                   j.Encrypted,
		KMSKeyID:                    j.KMSKeyID,
		FrequencyMinutes:            int32(j.Frequency / time.Minute),
		Quiesce:                     j.Quiesce,
		KeepStaging:                 j.KeepStaging,
		SkipDisks:                   j.SkipDisks,
	}
}

// hours is a frequency in whole hours; 0 for one that is not.
func hours(frequency time.Duration) int32 {
	if frequency%time.Hour != 0 {
		return 0
	}
	return int32(frequency / time.Hour)
}

func run(r replication.Run) sms.ReplicationRun {
	return sms.ReplicationRun{
		ReplicationRunID:   r.ID,
		State:              string(r.State),
		Type:               string(r.Trigger),
		StageDetails:       stage(r),
		StatusMessage:      r.Message,
		AmiID:              r.Image,
		ScheduledStartTime: sms.At(r.Scheduled),
		CompletedTime:      sms.At(r.Completed),
		Description:        r.Description,
		Encrypted:          r.Encrypted,
		KMSKeyID:           r.KMSKeyID,
		Consistency:        r.Consistency,
		ConsistencyReason:  r.Note,
		WaitingFor:         r.WaitingFor,
		Disks:              each(r.Disks, runDisk),
	}
}

// stage gives the progress only of a run that has begun.
func stage(r replication.Run) sms.StageDetails {
	if r.Stage == "" {
		return sms.StageDetails{}
	}
	return sms.StageDetails{Stage: r.Stage, StageProgress: fmt.Sprintf("%d%%", r.Progress)}
}

func runDisk(d replication.RunDisk) sms.RunDisk {
	return sms.RunDisk{
		DiskID:          d.ID,
		Name:            d.Name,
		Kind:            d.Kind,
		Reason:          d.Reason,
		Transport:       d.Transport,
		TransportReason: d.TransportWhy,
		SizeBytes:       d.Size,
		PlannedBytes:    d.Planned,
		ReadBytes:       d.Read,
		ChangedBytes:    d.Changed,
		SentBytes:       d.Sent,
		StoredBytes:     d.Stored,
		ResumedBytes:    d.Resumed,
		Digest:          hex.EncodeToString(d.Digest),
		Image:           d.Image,
	}
}
