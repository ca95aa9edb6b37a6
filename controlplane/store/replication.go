package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"skylift/controlplane/replication"
)

var (
	_ replication.Store = (*DB)(nil)
	_ replication.Tx    = (*replicationTx)(nil)
)

// Replicate implements replication.Store.
func (db *DB) Replicate(ctx context.Context, f func(tx replication.Tx) error) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		return f(&replicationTx{tx: tx, now: db.clock()})
	})
}

// replicationTx implements replication.Tx: jobs in jobs.go, runs in runs.go,
// what has landed here.
type replicationTx struct {
	tx  *sql.Tx
	now time.Time
}

// Now implements replication.Tx.
func (t *replicationTx) Now() time.Time { return t.now }

func scanLanded(row scanner) (l replication.Landed, err error) {
	var digest, manifest string
	if err := row.Scan(&l.Disk, &l.Run, &l.Key, &digest, &manifest, &l.ChangeID, &l.Size, &l.Image); err != nil {
		return l, err
	}
	if l.Digest, err = fromHex(digest); err != nil {
		return l, err
	}
	l.ManifestSHA256, err = fromHex(manifest)
	return l, err
}

// Landed implements replication.Tx.
func (t *replicationTx) Landed(ctx context.Context, job string) ([]replication.Landed, error) {
	return list(ctx, t.tx, scanLanded,
		`SELECT disk, run, disk_key, digest, manifest, change, size, image FROM landed WHERE job = $1 ORDER BY disk`, job)
}

// PutLanded implements replication.Tx.
func (t *replicationTx) PutLanded(ctx context.Context, job string, l replication.Landed, was []byte) (bool, error) {
	args := []any{job, l.Disk, l.Run, l.Key, toHex(l.Digest), toHex(l.ManifestSHA256), l.ChangeID, l.Size, l.Image}
	if len(was) == 0 {
		_, err := exec(ctx, t.tx, `INSERT INTO landed (job, disk, run, disk_key, digest, manifest, change, size, image)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (job, disk) DO UPDATE SET run = excluded.run, disk_key = excluded.disk_key, digest = excluded.digest,
			manifest = excluded.manifest, change = excluded.change, size = excluded.size, image = excluded.image`, args...)
		return err == nil, err
	}
	n, err := exec(ctx, t.tx, `UPDATE landed SET run = $3, disk_key = $4, digest = $5, manifest = $6, change = $7, size = $8, image = $9
		WHERE job = $1 AND disk = $2 AND digest = $10`, append(args, toHex(was))...)
	return n == 1, err
}

// DropLanded implements replication.Tx.
func (t *replicationTx) DropLanded(ctx context.Context, job string) error {
	_, err := exec(ctx, t.tx, `DELETE FROM landed WHERE job = $1`, job)
	return err
}

// imageDisk is a disk of an image as JSON.
type imageDisk struct {
	Disk     string `json:"disk"`
	Key      string `json:"key"`
	Manifest []byte `json:"manifest"`
	Image    string `json:"image"`
}

func scanImage(row scanner) (i replication.ImageRow, err error) {
	var created int64
	var detail string
	if err := row.Scan(&i.Job, &i.Run, &i.Image, &created, &detail); err != nil {
		return i, err
	}
	i.Created = fromMS(created)
	disks, err := decode[[]imageDisk](detail)
	for _, d := range disks {
		i.Disks = append(i.Disks, replication.ImageDisk{Disk: d.Disk, Key: d.Key, ManifestSHA256: d.Manifest, Image: d.Image})
	}
	return i, err
}

// Images implements replication.Tx.
func (t *replicationTx) Images(ctx context.Context, job string) ([]replication.ImageRow, error) {
	return list(ctx, t.tx, scanImage, `SELECT i.job, i.run, i.image, i.created, i.disks FROM images i
		LEFT JOIN runs r ON r.id = i.run WHERE i.job = $1 AND i.retired = 0 ORDER BY i.created DESC, r.created DESC, i.run DESC`, job)
}

// InsertImage implements replication.Tx.
func (t *replicationTx) InsertImage(ctx context.Context, i replication.ImageRow) error {
	disks := []imageDisk{}
	for _, d := range i.Disks {
		disks = append(disks, imageDisk{Disk: d.Disk, Key: d.Key, Manifest: d.ManifestSHA256, Image: d.Image})
	}
	detail, err := encode(disks)
	if err != nil {
		return err
	}
	_, err = exec(ctx, t.tx, `INSERT INTO images (job, run, image, created, retired, disks) VALUES ($1, $2, $3, $4, 0, $5)`,
		i.Job, i.Run, i.Image, ms(i.Created), detail)
	return err
}

// RetireImage implements replication.Tx.
func (t *replicationTx) RetireImage(ctx context.Context, job, run string) error {
	_, err := exec(ctx, t.tx, `UPDATE images SET retired = $3 WHERE job = $1 AND run = $2`, job, run, ms(t.now))
	return err
}

// Uncleared implements replication.Tx.
func (t *replicationTx) Uncleared(ctx context.Context, job string) ([]string, error) {
	return list(ctx, t.tx, scanString, `SELECT id FROM runs WHERE job = $1 AND active = 0 AND cleared = 0 AND phase <> $2 ORDER BY created, id`,
		job, string(replication.Missed))
}

// Clear implements replication.Tx.
func (t *replicationTx) Clear(ctx context.Context, run string) error {
	_, err := exec(ctx, t.tx, `UPDATE runs SET cleared = 1 WHERE id = $1`, run)
	return err
}

// Reached implements replication.Tx.
func (t *replicationTx) Reached(ctx context.Context, source string, alive time.Time) (string, bool, error) {
	s, ok, err := one(ctx, t.tx, scanSource, `SELECT id, platform, name FROM sources WHERE id = $1`, source)
	if err != nil || !ok {
		return "", false, err
	}
	reached, err := sourceReached(ctx, t.tx, source, alive)
	return s.Name, reached, err
}

// placeholders returns "$from, ..." for n parameters.
func placeholders(from, n int) string {
	marks := make([]string, n)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", from+i)
	}
	return strings.Join(marks, ", ")
}
