package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"skylift/controlplane/catalog"
)

var _ catalog.Store = (*DB)(nil)

const connectorColumns = `id, name, public_key, version, ip, mac, associated, last_seen`

func scanConnector(row scanner) (c catalog.Connector, err error) {
	var key string
	var associated, seen int64
	if err := row.Scan(&c.ID, &c.Name, &key, &c.Version, &c.IPAddress, &c.MACAddress, &associated, &seen); err != nil {
		return c, err
	}
	c.AssociatedOn, c.LastSeen = fromMS(associated), fromMS(seen)
	c.PublicKey, err = fromHex(key)
	return c, err
}

func scanSource(row scanner) (s catalog.Source, err error) {
	err = row.Scan(&s.ID, &s.Platform, &s.Name)
	return s, err
}

// ListConnectors implements catalog.Store.
func (db *DB) ListConnectors(ctx context.Context, after string, limit int) ([]catalog.Connector, error) {
	connectors, err := list(ctx, db.sql, scanConnector,
		`SELECT `+connectorColumns+` FROM connectors WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range connectors {
		if connectors[i].Sources, err = list(ctx, db.sql, scanSource,
			`SELECT s.id, s.platform, s.name FROM sources s JOIN connector_sources c ON c.source = s.id
			WHERE c.connector = $1 ORDER BY s.id`, connectors[i].ID); err != nil {
			return nil, err
		}
	}
	return connectors, nil
}

// DeleteConnector implements catalog.Store.
func (db *DB) DeleteConnector(ctx context.Context, id string) (found, busy bool, err error) {
	err = db.write(ctx, func(tx *sql.Tx) error {
		found, busy = true, false
		held, _, err := one(ctx, tx, scanInt, `SELECT COUNT(*) FROM runs WHERE owner = $1 AND lease_until > $2`, id, ms(db.clock()))
		if err != nil || held > 0 {
			busy = held > 0
			return err
		}
		n, err := exec(ctx, tx, `DELETE FROM connectors WHERE id = $1`, id)
		if err != nil || n == 0 {
			found = false
			return err
		}
		for _, table := range []string{"connector_sources", "listed"} {
			if _, err := exec(ctx, tx, `DELETE FROM `+table+` WHERE connector = $1`, id); err != nil {
				return err
			}
		}
		return loseAsks(ctx, tx, id)
	})
	return found, busy, err
}

// Announce implements catalog.Store.
func (db *DB) Announce(ctx context.Context, id string, a catalog.Announcement) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `UPDATE connectors SET version = $2, ip = $3, mac = $4, last_seen = $5 WHERE id = $1`,
			id, a.Version, a.IPAddress, a.MACAddress, ms(db.clock())); err != nil {
			return err
		}
		if err := loseAsks(ctx, tx, id); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, `DELETE FROM connector_sources WHERE connector = $1`, id); err != nil {
			return err
		}
		for _, s := range a.Sources {
			if _, err := exec(ctx, tx, `INSERT INTO sources (id, platform, name, synced) VALUES ($1, $2, $3, 0)
				ON CONFLICT (id) DO UPDATE SET platform = excluded.platform, name = excluded.name`, s.ID, s.Platform, s.Name); err != nil {
				return err
			}
			if _, err := exec(ctx, tx, `INSERT INTO connector_sources (connector, source) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
				id, s.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// Touch implements catalog.Store. Calls within 10 seconds count as one.
func (db *DB) Touch(ctx context.Context, id string) error {
	now := db.clock()
	_, err := exec(ctx, db.sql, `UPDATE connectors SET last_seen = $2 WHERE id = $1 AND last_seen < $3`,
		id, ms(now), ms(now.Add(-10*time.Second)))
	return err
}

// Announced implements catalog.Store.
func (db *DB) Announced(ctx context.Context, connector, source string) (bool, error) {
	_, ok, err := one(ctx, db.sql, scanString,
		`SELECT source FROM connector_sources WHERE connector = $1 AND source = $2`, connector, source)
	return ok, err
}

// State implements catalog.Store.
func (db *DB) State(ctx context.Context) (catalog.State, error) {
	s, _, err := one(ctx, db.sql, func(row scanner) (s catalog.State, err error) {
		var imported, modified int64
		err = row.Scan(&s.Status, &imported, &modified)
		s.Imported, s.Modified = fromMS(imported), fromMS(modified)
		return s, err
	}, `SELECT status, imported, modified FROM catalog WHERE one = 1`)
	return s, err
}

// SetState implements catalog.Store.
func (db *DB) SetState(ctx context.Context, s catalog.State) error {
	_, err := exec(ctx, db.sql, `UPDATE catalog SET status = $1, imported = $2, modified = $3 WHERE one = 1`,
		string(s.Status), ms(s.Imported), ms(s.Modified))
	return err
}

// Unsynced implements catalog.Store.
func (db *DB) Unsynced(ctx context.Context, alive, since time.Time) (int, error) {
	n, _, err := one(ctx, db.sql, scanInt, `SELECT COUNT(*) FROM sources s WHERE s.synced < $1 AND EXISTS (
		SELECT 1 FROM connector_sources cs JOIN connectors c ON c.id = cs.connector WHERE cs.source = s.id AND c.last_seen > $2)`,
		ms(since), ms(alive))
	return n, err
}

// TakeRefresh implements catalog.Store.
func (db *DB) TakeRefresh(ctx context.Context, connector string) (bool, error) {
	n, err := exec(ctx, db.sql, `UPDATE connectors SET refreshed = (SELECT imported FROM catalog WHERE one = 1)
		WHERE id = $1 AND refreshed < (SELECT imported FROM catalog WHERE one = 1)`, connector)
	return n > 0, err
}

// ReturnRefresh implements catalog.Store.
func (db *DB) ReturnRefresh(ctx context.Context, connector string) error {
	_, err := exec(ctx, db.sql, `UPDATE connectors SET refreshed = 0 WHERE id = $1`, connector)
	return err
}

// ClearServers implements catalog.Store.
func (db *DB) ClearServers(ctx context.Context) (busy bool, err error) {
	err = db.write(ctx, func(tx *sql.Tx) error {
		jobs, _, err := one(ctx, tx, scanInt, `SELECT COUNT(*) FROM jobs WHERE live = 1`)
		if busy = jobs > 0; err != nil || busy {
			return err
		}
		for _, table := range []string{"servers", "listed"} {
			if _, err := exec(ctx, tx, `DELETE FROM `+table); err != nil {
				return err
			}
		}
		if err := forgetReadiness(ctx, tx); err != nil {
			return err
		}
		_, err = exec(ctx, tx, `UPDATE catalog SET status = $1, modified = $2 WHERE one = 1`, string(catalog.Deleted), ms(db.clock()))
		return err
	})
	return busy, err
}

// serverDetail is what the servers table keeps as JSON.
type serverDetail struct {
	Path       string         `json:"path,omitempty"`
	PoweredOn  bool           `json:"powered_on,omitempty"`
	GuestOS    string         `json:"guest_os,omitempty"`
	Firmware   string         `json:"firmware,omitempty"`
	SecureBoot bool           `json:"secure_boot,omitempty"`
	TPM        bool           `json:"tpm,omitempty"`
	CPUs       int            `json:"cpus,omitempty"`
	MemoryMiB  int64          `json:"memory_mib,omitempty"`
	Host       string         `json:"host,omitempty"`
	Disks      []catalog.Disk `json:"disks,omitempty"`
	NICs       []catalog.NIC  `json:"nics,omitempty"`
}

// SaveInventory implements catalog.Store.
func (db *DB) SaveInventory(ctx context.Context, connector string, r catalog.Report) error {
	return db.write(ctx, func(tx *sql.Tx) error {
		now := ms(db.clock())
		if r.Sync != "" { // a listing that was begun anew makes the earlier one void
			if _, err := exec(ctx, tx, `DELETE FROM listed WHERE connector = $1 AND source = $2 AND sync <> $3`,
				connector, r.Source, r.Sync); err != nil {
				return err
			}
		}
		for _, s := range r.Servers {
			if err := saveServer(ctx, tx, connector, r, s); err != nil {
				return err
			}
		}
		for _, vm := range r.Gone {
			if err := dropServers(ctx, tx, `source = $1 AND vm = $2`, r.Source, vm); err != nil {
				return err
			}
		}
		if len(r.Gone) > 0 {
			if err := forgetReadiness(ctx, tx); err != nil {
				return err
			}
		}
		if r.Sync != "" && r.Last {
			if err := endListing(ctx, tx, connector, r, now); err != nil {
				return err
			}
		}
		_, err := exec(ctx, tx, `UPDATE catalog SET modified = $1 WHERE one = 1`, now)
		return err
	})
}

func saveServer(ctx context.Context, tx *sql.Tx, connector string, r catalog.Report, s catalog.Server) error {
	detail, err := json.Marshal(serverDetail{
		Path: s.Path, PoweredOn: s.PoweredOn, GuestOS: s.GuestOS, Firmware: s.Firmware, SecureBoot: s.SecureBoot,
		TPM: s.TPM, CPUs: s.CPUs, MemoryMiB: s.MemoryMiB, Host: s.Host, Disks: s.Disks, NICs: s.NICs,
	})
	if err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `INSERT INTO servers (id, source, vm, manager_id, name, gone, detail) VALUES ($1, $2, $3, $4, $5, 0, $6)
		ON CONFLICT (source, vm) DO UPDATE SET manager_id = excluded.manager_id, name = excluded.name, gone = 0, detail = excluded.detail`,
		catalog.ServerID(r.Source, s.VM), r.Source, s.VM, s.ManagerID, s.Name, string(detail)); err != nil {
		return err
	}
	if r.Sync == "" {
		return nil
	}
	_, err = exec(ctx, tx, `INSERT INTO listed (connector, source, sync, vm) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		connector, r.Source, r.Sync, s.VM)
	return err
}

// endListing drops the servers that a full listing did not name. The end of a
// listing that has ended already, sent again after a lost answer, drops none:
// what the listing named is forgotten by then.
func endListing(ctx context.Context, tx *sql.Tx, connector string, r catalog.Report, now int64) error {
	first, err := exec(ctx, tx, `UPDATE connector_sources SET ended = $3 WHERE connector = $1 AND source = $2 AND ended <> $3`,
		connector, r.Source, r.Sync)
	if err != nil || first == 0 {
		return err
	}
	if err := dropServers(ctx, tx, `source = $1 AND vm NOT IN
		(SELECT vm FROM listed WHERE connector = $2 AND source = $1 AND sync = $3)`, r.Source, connector, r.Sync); err != nil {
		return err
	}
	if err := forgetReadiness(ctx, tx); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `DELETE FROM listed WHERE connector = $1 AND source = $2`, connector, r.Source); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `UPDATE sources SET synced = $2 WHERE id = $1`, r.Source, now); err != nil {
		return err
	}
	_, err = exec(ctx, tx, `UPDATE catalog SET status = $1 WHERE one = 1 AND status = $2`,
		string(catalog.Available), string(catalog.NotImported))
	return err
}

// dropServers removes servers, or marks those gone that a live job refers to.
func dropServers(ctx context.Context, tx *sql.Tx, where string, args ...any) error {
	const used = ` EXISTS (SELECT 1 FROM jobs WHERE jobs.server = servers.id AND jobs.live = 1)`
	if _, err := exec(ctx, tx, `UPDATE servers SET gone = 1 WHERE `+where+` AND`+used, args...); err != nil {
		return err
	}
	_, err := exec(ctx, tx, `DELETE FROM servers WHERE `+where+` AND NOT`+used, args...)
	return err
}

// A server's job is the one made last.
const serverQuery = `SELECT v.id, v.vm, v.manager_id, v.name, v.gone, v.detail, v.source, COALESCE(s.platform, ''), COALESCE(s.name, ''),
	COALESCE(j.id, ''), COALESCE(j.state, '')
	FROM servers v LEFT JOIN sources s ON s.id = v.source LEFT JOIN jobs j ON j.id =
		(SELECT l.id FROM jobs l WHERE l.server = v.id ORDER BY l.created DESC, l.id DESC LIMIT 1) `

func scanServer(row scanner) (s catalog.Server, err error) {
	var gone int
	var detail, state string
	if err := row.Scan(&s.ID, &s.VM, &s.ManagerID, &s.Name, &gone, &detail, &s.Source.ID, &s.Source.Platform, &s.Source.Name,
		&s.JobID, &state); err != nil {
		return s, err
	}
	var d serverDetail
	if err := json.Unmarshal([]byte(detail), &d); err != nil {
		return s, fmt.Errorf("server %s: %w", s.ID, err)
	}
	s.Gone, s.JobTerminated = gone != 0, state == "DELETED" || state == "FAILED"
	s.Path, s.PoweredOn, s.GuestOS, s.Firmware, s.SecureBoot, s.TPM = d.Path, d.PoweredOn, d.GuestOS, d.Firmware, d.SecureBoot, d.TPM
	s.CPUs, s.MemoryMiB, s.Host, s.Disks, s.NICs = d.CPUs, d.MemoryMiB, d.Host, d.Disks, d.NICs
	return s, nil
}

// ListServers implements catalog.Store.
func (db *DB) ListServers(ctx context.Context, filter []catalog.Address, after string, limit int) ([]catalog.Server, error) {
	args := []any{after, limit}
	var any []string
	for _, a := range filter {
		args = append(args, a.Manager, a.VM)
		any = append(any, fmt.Sprintf(`(v.source = $%d AND v.manager_id = $%d)`, len(args)-1, len(args)))
	}
	where := `WHERE v.id > $1`
	if len(any) > 0 {
		where += ` AND (` + strings.Join(any, ` OR `) + `)`
	}
	return list(ctx, db.sql, scanServer, serverQuery+where+` ORDER BY v.id LIMIT $2`, args...)
}

// Server implements catalog.Store.
func (db *DB) Server(ctx context.Context, id string) (catalog.Server, bool, error) {
	return one(ctx, db.sql, scanServer, serverQuery+`WHERE v.id = $1`, id)
}
