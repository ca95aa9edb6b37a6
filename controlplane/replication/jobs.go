package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"skylift/controlplane/catalog"
)

// The bounds of a job's settings.
const (
	MinFrequency = 5 * time.Minute
	MaxFrequency = 24 * time.Hour
	MaxKeep      = 270                 // images
	MaxAhead     = 30 * 24 * time.Hour // from now to a job's first or next run
)

// NewJob is what a user sets of a new job; the fields mean what Job's do.
type NewJob struct {
	Server      string
	Seed        time.Time // zero or past: at once
	Frequency   time.Duration
	RunOnce     bool
	LicenseType string
	RoleName    string
	Description string
	KeepImages  int
	Encrypted   bool
	KMSKeyID    string
	Quiesce     string // empty: prefer
	KeepStaging bool
	SkipDisks   []string
}

// JobChange is what a user changes of a job; nil fields stay as they are.
type JobChange struct {
	Frequency   *time.Duration
	NextRun     *time.Time
	LicenseType *string
	RoleName    *string
	Description *string
	KeepImages  *int
	Encrypted   *bool
	KMSKeyID    *string
	Quiesce     *string
	KeepStaging *bool
	SkipDisks   *[]string
}

// Create makes a job. Errors: InvalidJob, catalog.NoConnectors,
// catalog.ServerNotFound, ServerCannotBeReplicated, JobExists.
func (s *Service) Create(ctx context.Context, n NewJob) (Job, error) {
	connectors, _, err := s.catalog.Connectors(ctx, catalog.Page{Limit: 1})
	if err != nil {
		return Job{}, err
	}
	if len(connectors) == 0 {
		return Job{}, catalog.NoConnectors.New(nil, "create a replication job")
	}
	server, err := s.catalog.Server(ctx, n.Server)
	if err != nil {
		return Job{}, err
	}
	if why := unfit(server, n.SkipDisks); why != "" {
		return Job{}, ServerCannotBeReplicated.New(errors.New(why), "create a replication job for %s", server.Name)
	}

	row := &JobRow{
		Job: Job{
			ID: s.newID("sms-job-"), Server: n.Server, Seed: n.Seed, Frequency: n.Frequency, RunOnce: n.RunOnce,
			LicenseType: n.LicenseType, RoleName: n.RoleName, Description: n.Description, KeepImages: n.KeepImages,
			Encrypted: n.Encrypted, KMSKeyID: n.KMSKeyID, Quiesce: or(n.Quiesce, "prefer"), KeepStaging: n.KeepStaging,
			SkipDisks: slices.Clone(n.SkipDisks), State: JobPending,
		},
		Source: server.Source.ID, VM: server.VM, ServerName: server.Name,
	}
	err = s.change(ctx, func(tx Tx) error {
		now := tx.Now()
		row.Created = now
		if row.Seed.IsZero() {
			row.Seed = now
		}
		row.NextRun = row.Seed
		row.Due = row.NextRun
		if err := row.validate(now); err != nil {
			return InvalidJob.New(err, "create a replication job for %s", server.Name)
		}
		err := tx.InsertJob(ctx, row)
		if errors.Is(err, ErrConflict) {
			return JobExists.New(nil, "create a replication job for %s", server.Name)
		}
		if err != nil {
			return err
		}
		// What would make the first run fail is found before it begins.
		return tx.SaveAsk(ctx, catalog.NewAsk(catalog.CheckServer, row.Source, row.VM, now))
	})
	if err != nil {
		return Job{}, err
	}
	return row.Job, nil
}

// unfit says why the server cannot be replicated without the disks in skip; "" when it can.
func unfit(server catalog.Server, skip []string) string {
	if server.Gone {
		return "it is no longer on its source"
	}
	kept := 0
	for _, d := range server.Disks {
		switch {
		case slices.Contains(skip, d.ID):
		case d.Skip != "":
			return fmt.Sprintf("disk %s: %s", d.Name, d.Skip)
		default:
			kept++
		}
	}
	if kept == 0 {
		return "no disk is left to replicate"
	}
	return ""
}

// validate checks the settings of a job, with its next run as seen from now.
func (j *JobRow) validate(now time.Time) error {
	switch {
	case j.RunOnce && j.Frequency != 0:
		return errors.New("a job that runs once has no frequency")
	case !j.RunOnce && j.Frequency == 0:
		return errors.New("a job needs a frequency, or to run once")
	case !j.RunOnce && (j.Frequency < MinFrequency || j.Frequency > MaxFrequency):
		return fmt.Errorf("the frequency is %s; it can be %s to %s", j.Frequency, MinFrequency, MaxFrequency)
	case j.NextRun.Sub(now) > MaxAhead:
		return errors.New("the next run can be at most 30 days ahead")
	case j.KeepImages < 0 || j.KeepImages > MaxKeep:
		return fmt.Errorf("the number of images to keep is %d; it can be 0, for all, to %d", j.KeepImages, MaxKeep)
	case !slices.Contains([]string{"", "AWS", "BYOL"}, j.LicenseType):
		return fmt.Errorf("the license type is %q; it can be AWS or BYOL", j.LicenseType)
	case !slices.Contains([]string{"never", "prefer", "require"}, j.Quiesce):
		return fmt.Errorf("quiesce is %q; it can be never, prefer or require", j.Quiesce)
	case j.KMSKeyID != "" && !j.Encrypted:
		return errors.New("a KMS key is named but encryption is off")
	}
	return nil
}

// Jobs lists all jobs, or the one with the ID; JobNotFound when it is unknown.
func (s *Service) Jobs(ctx context.Context, id string, p catalog.Page) ([]Job, string, error) {
	var rows []*JobRow
	err := s.store.Replicate(ctx, func(tx Tx) (err error) {
		if id == "" {
			rows, err = tx.ListJobs(ctx, p.After, p.Size()+1)
			return err
		}
		row, err := job(ctx, tx, id)
		rows = []*JobRow{row}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	jobs := make([]Job, len(rows))
	for i, r := range rows {
		jobs[i] = r.Job
	}
	jobs, next := catalog.Cut(p, jobs, func(j Job) string { return j.ID })
	return jobs, next, nil
}

func job(ctx context.Context, tx Tx, id string) (*JobRow, error) {
	row, ok, err := tx.Job(ctx, id)
	if err == nil && !ok {
		err = JobNotFound.New(nil, "find job %q", id)
	}
	return row, err
}

// open reports whether the job still makes runs.
func (j *JobRow) open() bool {
	return j.State == JobPending || j.State == JobActive || j.State == JobPausedOnFailure
}

// Update changes a job's settings; the run under way keeps its own.
func (s *Service) Update(ctx context.Context, id string, c JobChange) error {
	return s.change(ctx, func(tx Tx) error {
		row, err := job(ctx, tx, id)
		if err != nil {
			return err
		}
		if !row.open() {
			return JobNotActive.New(nil, "update job %s, which is %s", id, row.State)
		}
		c.apply(row)
		if err := row.validate(tx.Now()); err != nil {
			return InvalidJob.New(err, "update job %s", id)
		}
		return tx.SaveJob(ctx, row)
	})
}

func (c JobChange) apply(row *JobRow) {
	if c.NextRun != nil {
		row.NextRun, row.Due = *c.NextRun, *c.NextRun
	}
	set(&row.Frequency, c.Frequency)
	set(&row.LicenseType, c.LicenseType)
	set(&row.RoleName, c.RoleName)
	set(&row.Description, c.Description)
	set(&row.KeepImages, c.KeepImages)
	set(&row.Encrypted, c.Encrypted)
	set(&row.KMSKeyID, c.KMSKeyID)
	set(&row.Quiesce, c.Quiesce)
	set(&row.KeepStaging, c.KeepStaging)
	set(&row.SkipDisks, c.SkipDisks)
	if c.Encrypted != nil && !*c.Encrypted && c.KMSKeyID == nil {
		row.KMSKeyID = ""
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Delete ends a job: its active run stops, staging is cleared, images stay.
// Deleting a job that is being deleted, or was, is no error.
func (s *Service) Delete(ctx context.Context, id string) error {
	return s.change(ctx, func(tx Tx) error {
		row, err := job(ctx, tx, id)
		if err != nil || row.State == JobDeleting || row.State == JobDeleted {
			return err
		}
		row.State, row.NextRun, row.Due = JobDeleting, time.Time{}, tx.Now()
		row.Message = "The job is being deleted: its run stops and staging is cleared; its images stay."
		if err := tx.SaveJob(ctx, row); err != nil {
			return err
		}
		run, ok, err := tx.ActiveRun(ctx, id)
		if err != nil || !ok {
			return err
		}
		switch run.Phase {
		case Waiting, Transferring, Settling, Building:
			run.enter(Deleting, tx.Now())
			run.Message = "The run is being deleted with its job."
			return tx.SaveRun(ctx, run)
		}
		return nil // it ends by itself, and the job's deletion waits for it
	})
}
