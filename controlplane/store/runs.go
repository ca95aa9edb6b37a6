package store

import (
	"context"
	"database/sql"
	"time"

	"skylift/controlplane/replication"
)

// runDetail is what the runs table keeps as JSON: all that no statement asks for.
type runDetail struct {
	Stage       string                `json:"stage"`
	Progress    int                   `json:"progress"`
	Message     string                `json:"message,omitempty"`
	Trouble     string                `json:"trouble,omitempty"`
	Scheduled   int64                 `json:"scheduled"`
	Completed   int64                 `json:"completed,omitempty"`
	Description string                `json:"description,omitempty"`
	Encrypted   bool                  `json:"encrypted,omitempty"`
	KMSKeyID    string                `json:"kms_key_id,omitempty"`
	Image       string                `json:"image,omitempty"`
	Consistency string                `json:"consistency,omitempty"`
	Note        string                `json:"note,omitempty"`
	WaitingFor  string                `json:"waiting_for,omitempty"`
	Disks       []replication.RunDisk `json:"disks,omitempty"`
	Earlier     []replication.RunDisk `json:"earlier,omitempty"`
	Attempts    int                   `json:"attempts,omitempty"`
	Expiries    int                   `json:"expiries,omitempty"`
	Snapshot    *snapshot             `json:"snapshot,omitempty"`
	Anchor      *anchor               `json:"anchor,omitempty"`
}

type snapshot struct {
	Server      string `json:"server"`
	Run         string `json:"run"`
	ID          string `json:"id"`
	Created     int64  `json:"created"`
	Consistency string `json:"consistency,omitempty"`
	Note        string `json:"note,omitempty"`
}

type anchor struct {
	Server string `json:"server"`
	Run    string `json:"run"`
	ID     string `json:"id"`
}

// sealedDisk is one disk of a seal as JSON.
type sealedDisk struct {
	Disk       string `json:"disk"`
	Key        string `json:"key"`
	Name       string `json:"name,omitempty"`
	Position   int    `json:"position"`
	Size       int64  `json:"size"`
	Manifest   []byte `json:"manifest"`
	Digest     []byte `json:"digest"`
	BaseRun    string `json:"base_run,omitempty"`
	BaseDigest []byte `json:"base_digest,omitempty"`
	ChangeID   string `json:"change_id,omitempty"`
}

// storedRun is a run's mutable columns in the order of runChanges.
func storedRun(r *replication.Row) ([]any, error) {
	d := runDetail{
		Stage: r.Stage, Progress: r.Progress, Message: r.Message, Trouble: r.Trouble, Scheduled: ms(r.Scheduled),
		Completed: ms(r.Completed), Description: r.Description, Encrypted: r.Encrypted, KMSKeyID: r.KMSKeyID, Image: r.Image,
		Consistency: r.Consistency, Note: r.Note, WaitingFor: r.WaitingFor, Disks: r.Disks, Earlier: r.Earlier, Attempts: r.Attempts, Expiries: r.Expiries,
	}
	if s := r.Snapshot; s != nil {
		d.Snapshot = &snapshot{Server: s.Server, Run: s.Run, ID: s.ID, Created: ms(s.Created), Consistency: s.Consistency, Note: s.Note}
	}
	if a := r.Anchor; a != nil {
		d.Anchor = &anchor{Server: a.Server, Run: a.Run, ID: a.ID}
	}
	seal := []sealedDisk{}
	for _, s := range r.Seal {
		seal = append(seal, sealedDisk{
			Disk: s.Disk, Key: s.Key, Name: s.Name, Position: s.Position, Size: s.Size, Manifest: s.ManifestSHA256,
			Digest: s.Digest, BaseRun: s.BaseRun, BaseDigest: s.BaseDigest, ChangeID: s.ChangeID,
		})
	}
	detail, err := encode(d)
	if err != nil {
		return nil, err
	}
	sealed, err := encode(seal)
	if err != nil {
		return nil, err
	}
	slot := sql.NullInt64{Int64: int64(r.Slot), Valid: r.Slot >= 0}
	return []any{string(r.Phase), flag(r.Phase.Active()), detail, sealed, ms(r.Due), r.Owner, slot, ms(r.LeaseUntil), r.Epoch}, nil
}

const runColumns = `id, job, source, vm, run_trigger, created, revision, phase, detail, seal, due, owner, slot, lease_until, epoch`

func scanRun(row scanner) (*replication.Row, error) {
	r := &replication.Row{}
	var created, due, lease int64
	var slot sql.NullInt64
	var detail, sealed string
	if err := row.Scan(&r.ID, &r.Job, &r.Source, &r.VM, &r.Trigger, &created, &r.Revision, &r.Phase, &detail, &sealed,
		&due, &r.Owner, &slot, &lease, &r.Epoch); err != nil {
		return nil, err
	}
	r.Created, r.Due, r.LeaseUntil, r.Slot = fromMS(created), fromMS(due), fromMS(lease), -1
	if slot.Valid {
		r.Slot = int(slot.Int64)
	}
	d, err := decode[runDetail](detail)
	if err != nil {
		return nil, err
	}
	r.State = r.Phase.State()
	r.Stage, r.Progress, r.Message, r.Trouble = d.Stage, d.Progress, d.Message, d.Trouble
	r.Scheduled, r.Completed, r.Description = fromMS(d.Scheduled), fromMS(d.Completed), d.Description
	r.Encrypted, r.KMSKeyID, r.Image = d.Encrypted, d.KMSKeyID, d.Image
	r.Consistency, r.Note, r.WaitingFor = d.Consistency, d.Note, d.WaitingFor
	r.Disks, r.Earlier, r.Attempts, r.Expiries = d.Disks, d.Earlier, d.Attempts, d.Expiries
	if s := d.Snapshot; s != nil {
		r.Snapshot = &replication.Snapshot{Server: s.Server, Run: s.Run, ID: s.ID, Created: fromMS(s.Created), Consistency: s.Consistency, Note: s.Note}
	}
	if a := d.Anchor; a != nil {
		r.Anchor = &replication.Anchor{Server: a.Server, Run: a.Run, ID: a.ID}
	}
	seal, err := decode[[]sealedDisk](sealed)
	for _, s := range seal {
		r.Seal = append(r.Seal, replication.SealedDisk{
			Disk: s.Disk, Key: s.Key, Name: s.Name, Position: s.Position, Size: s.Size, ManifestSHA256: s.Manifest,
			Digest: s.Digest, BaseRun: s.BaseRun, BaseDigest: s.BaseDigest, ChangeID: s.ChangeID,
		})
	}
	return r, err
}

// InsertRun implements replication.Tx.
func (t *replicationTx) InsertRun(ctx context.Context, r *replication.Row) error {
	columns, err := storedRun(r)
	if err != nil {
		return err
	}
	args := append([]any{r.ID, r.Job, r.Source, r.VM, string(r.Trigger), ms(r.Created)}, columns...)
	n, err := exec(ctx, t.tx, `INSERT INTO runs (id, job, source, vm, run_trigger, created,
		phase, active, detail, seal, due, owner, slot, lease_until, epoch, cleared, revision)
		VALUES (`+placeholders(1, len(args))+`, 0, 0) ON CONFLICT DO NOTHING`, args...)
	if err == nil && n == 0 {
		err = replication.ErrConflict
	}
	return err
}

// SaveRun implements replication.Tx.
func (t *replicationTx) SaveRun(ctx context.Context, r *replication.Row) error {
	columns, err := storedRun(r)
	if err != nil {
		return err
	}
	n, err := exec(ctx, t.tx, `UPDATE runs SET phase = $3, active = $4, detail = $5, seal = $6, due = $7, owner = $8, slot = $9,
		lease_until = $10, epoch = $11, revision = revision + 1 WHERE id = $1 AND revision = $2`,
		append([]any{r.ID, r.Revision}, columns...)...)
	if violatesUnique(err) || err == nil && n == 0 {
		err = errStale
	}
	r.Revision++
	return err
}

// Run implements replication.Tx.
func (t *replicationTx) Run(ctx context.Context, id string) (*replication.Row, bool, error) {
	return one(ctx, t.tx, scanRun, `SELECT `+runColumns+` FROM runs WHERE id = $1`, id)
}

// ListRuns implements replication.Tx.
func (t *replicationTx) ListRuns(ctx context.Context, job, after string, limit int) ([]*replication.Row, error) {
	return list(ctx, t.tx, scanRun, `SELECT `+runColumns+` FROM runs WHERE job = $1
		AND ($2 = '' OR (created, id) < (SELECT a.created, a.id FROM runs a WHERE a.id = $2))
		ORDER BY created DESC, id DESC LIMIT $3`, job, after, limit)
}

// ActiveRun implements replication.Tx.
func (t *replicationTx) ActiveRun(ctx context.Context, job string) (*replication.Row, bool, error) {
	return one(ctx, t.tx, scanRun, `SELECT `+runColumns+` FROM runs WHERE job = $1 AND active = 1`, job)
}

// OnDemandSince implements replication.Tx.
func (t *replicationTx) OnDemandSince(ctx context.Context, job string, since time.Time) (int, error) {
	n, _, err := one(ctx, t.tx, scanInt, `SELECT COUNT(*) FROM runs WHERE job = $1 AND run_trigger = $2 AND created > $3`,
		job, string(replication.OnDemand), ms(since))
	return n, err
}

// Slots implements replication.Tx.
func (t *replicationTx) Slots(ctx context.Context, owner string) ([]int, error) {
	return list(ctx, t.tx, scanInt, `SELECT slot FROM runs WHERE owner = $1 AND slot IS NOT NULL`, owner)
}

// Expired implements replication.Tx.
func (t *replicationTx) Expired(ctx context.Context, phases []replication.Phase, limit int) ([]*replication.Row, error) {
	args := []any{ms(t.now), limit}
	for _, p := range phases {
		args = append(args, string(p))
	}
	return list(ctx, t.tx, scanRun, `SELECT `+runColumns+` FROM runs WHERE phase IN (`+placeholders(3, len(phases))+`)
		AND owner <> '' AND lease_until <= $1 ORDER BY lease_until, id LIMIT $2`, args...)
}

// DueRuns implements replication.Tx.
func (t *replicationTx) DueRuns(ctx context.Context, phases []replication.Phase, connector string, limit int) ([]*replication.Row, error) {
	args := []any{ms(t.now), connector, limit}
	for _, p := range phases {
		args = append(args, string(p))
	}
	return list(ctx, t.tx, scanRun, `SELECT `+runColumns+` FROM runs WHERE phase IN (`+placeholders(4, len(phases))+`)
		AND due <= $1 AND owner = '' AND ($2 = '' OR source IN (SELECT source FROM connector_sources WHERE connector = $2))
		ORDER BY due, created, id LIMIT $3`, args...)
}
