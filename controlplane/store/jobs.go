package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"skylift/controlplane/replication"
)

// jobSettings is what the jobs table keeps as JSON.
type jobSettings struct {
	Seed        int64    `json:"seed"`         // milliseconds
	FrequencyMS int64    `json:"frequency_ms"` // 0 for a job that runs once
	RunOnce     bool     `json:"run_once,omitempty"`
	LicenseType string   `json:"license_type,omitempty"`
	RoleName    string   `json:"role_name,omitempty"`
	Description string   `json:"description,omitempty"`
	KeepImages  int      `json:"keep_images,omitempty"`
	Encrypted   bool     `json:"encrypted,omitempty"`
	KMSKeyID    string   `json:"kms_key_id,omitempty"`
	Quiesce     string   `json:"quiesce"`
	KeepStaging bool     `json:"keep_staging,omitempty"`
	SkipDisks   []string `json:"skip_disks,omitempty"`
}

func settingsOf(j *replication.JobRow) jobSettings {
	return jobSettings{
		Seed: ms(j.Seed), FrequencyMS: j.Frequency.Milliseconds(), RunOnce: j.RunOnce, LicenseType: j.LicenseType,
		RoleName: j.RoleName, Description: j.Description, KeepImages: j.KeepImages, Encrypted: j.Encrypted,
		KMSKeyID: j.KMSKeyID, Quiesce: j.Quiesce, KeepStaging: j.KeepStaging, SkipDisks: j.SkipDisks,
	}
}

func (s jobSettings) apply(j *replication.JobRow) {
	j.Seed, j.Frequency, j.RunOnce = fromMS(s.Seed), time.Duration(s.FrequencyMS)*time.Millisecond, s.RunOnce
	j.LicenseType, j.RoleName, j.Description, j.KeepImages = s.LicenseType, s.RoleName, s.Description, s.KeepImages
	j.Encrypted, j.KMSKeyID, j.Quiesce, j.KeepStaging, j.SkipDisks = s.Encrypted, s.KMSKeyID, s.Quiesce, s.KeepStaging, s.SkipDisks
}

const jobColumns = `id, server, source, vm, server_name, state, created, next_run, latest_image, message, settings,
	due, owner, lease_until, epoch, revision`

func scanJob(row scanner) (*replication.JobRow, error) {
	j := &replication.JobRow{}
	var created, next, due, lease int64
	var settings string
	if err := row.Scan(&j.ID, &j.Server, &j.Source, &j.VM, &j.ServerName, &j.State, &created, &next, &j.LatestImage, &j.Message,
		&settings, &due, &j.Owner, &lease, &j.Epoch, &j.Revision); err != nil {
		return nil, err
	}
	j.Created, j.NextRun, j.Due, j.LeaseUntil = fromMS(created), fromMS(next), fromMS(due), fromMS(lease)
	s, err := decode[jobSettings](settings)
	s.apply(j)
	return j, err
}

// ended tells of a state whether the server can have another job.
func ended(s replication.JobState) bool {
	return s == replication.JobCompleted || s == replication.JobFailed || s == replication.JobDeleted
}

// InsertJob implements replication.Tx.
func (t *replicationTx) InsertJob(ctx context.Context, j *replication.JobRow) error {
	settings, err := encode(settingsOf(j))
	if err != nil {
		return err
	}
	n, err := exec(ctx, t.tx, `INSERT INTO jobs (`+jobColumns+`, live) VALUES (`+placeholders(1, 17)+`) ON CONFLICT DO NOTHING`,
		j.ID, j.Server, j.Source, j.VM, j.ServerName, string(j.State), ms(j.Created), ms(j.NextRun), j.LatestImage, j.Message, settings,
		ms(j.Due), j.Owner, ms(j.LeaseUntil), j.Epoch, j.Revision, flag(!ended(j.State)))
	if err == nil && n == 0 {
		err = replication.ErrConflict
	}
	return err
}

// SaveJob implements replication.Tx.
func (t *replicationTx) SaveJob(ctx context.Context, j *replication.JobRow) error {
	settings, err := encode(settingsOf(j))
	if err != nil {
		return err
	}
	n, err := exec(ctx, t.tx, `UPDATE jobs SET state = $3, next_run = $4, latest_image = $5, message = $6, settings = $7, due = $8,
		owner = $9, lease_until = $10, epoch = $11, live = $12, revision = revision + 1 WHERE id = $1 AND revision = $2`,
		j.ID, j.Revision, string(j.State), ms(j.NextRun), j.LatestImage, j.Message, settings, ms(j.Due),
		j.Owner, ms(j.LeaseUntil), j.Epoch, flag(!ended(j.State)))
	if err == nil && n == 0 {
		err = errStale
	}
	j.Revision++
	return err
}

// Job implements replication.Tx.
func (t *replicationTx) Job(ctx context.Context, id string) (*replication.JobRow, bool, error) {
	return one(ctx, t.tx, scanJob, `SELECT `+jobColumns+` FROM jobs WHERE id = $1`, id)
}

// ListJobs implements replication.Tx.
func (t *replicationTx) ListJobs(ctx context.Context, after string, limit int) ([]*replication.JobRow, error) {
	return list(ctx, t.tx, scanJob, `SELECT `+jobColumns+` FROM jobs WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
}

// DueJobs implements replication.Tx.
func (t *replicationTx) DueJobs(ctx context.Context, limit int) ([]*replication.JobRow, error) {
	return list(ctx, t.tx, scanJob, `SELECT `+jobColumns+` FROM jobs
		WHERE live = 1 AND state IN ($1, $2) AND next_run > 0 AND next_run <= $3 ORDER BY next_run, id LIMIT $4`,
		string(replication.JobPending), string(replication.JobActive), ms(t.now), limit)
}

// DueDeletions implements replication.Tx.
func (t *replicationTx) DueDeletions(ctx context.Context, limit int) ([]*replication.JobRow, error) {
	return list(ctx, t.tx, scanJob, `SELECT `+jobColumns+` FROM jobs
		WHERE state = $1 AND due <= $2 AND lease_until <= $2 AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.job = jobs.id AND runs.active = 1)
		ORDER BY due, id LIMIT $3`, string(replication.JobDeleting), ms(t.now), limit)
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func decode[T any](s string) (v T, err error) {
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return v, fmt.Errorf("stored JSON: %w", err)
	}
	return v, nil
}
