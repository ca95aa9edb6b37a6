package store

import (
	"context"
	"database/sql"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
)

var _ access.Store = (*DB)(nil)

// Installation implements access.Store.
func (db *DB) Installation(ctx context.Context, fresh string) (id string, err error) {
	err = db.write(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `INSERT INTO installation (one, id) VALUES (1, $1) ON CONFLICT DO NOTHING`, fresh); err != nil {
			return err
		}
		id, _, err = one(ctx, tx, scanString, `SELECT id FROM installation WHERE one = 1`)
		return err
	})
	return id, err
}

// InsertCode implements access.Store.
func (db *DB) InsertCode(ctx context.Context, c access.Code) error {
	_, err := exec(ctx, db.sql, `INSERT INTO activation_codes (id, hash, expires, tries, public_key, connector) VALUES ($1, $2, $3, $4, $5, $6)`,
		c.ID, toHex(c.Hash), ms(c.Expires), c.Tries, toHex(c.PublicKey), c.Connector)
	return err
}

func scanCode(row scanner) (c access.Code, err error) {
	var hash, key string
	var expires int64
	if err := row.Scan(&c.ID, &hash, &expires, &c.Tries, &key, &c.Connector); err != nil {
		return c, err
	}
	c.Expires = fromMS(expires)
	if c.Hash, err = fromHex(hash); err != nil {
		return c, err
	}
	c.PublicKey, err = fromHex(key)
	return c, err
}

// RedeemCode implements access.Store.
func (db *DB) RedeemCode(ctx context.Context, id string, f func(*access.Code, bool, time.Time) *catalog.Connector) (found bool, err error) {
	err = db.write(ctx, func(tx *sql.Tx) error {
		code, ok, err := one(ctx, tx, scanCode, `SELECT id, hash, expires, tries, public_key, connector FROM activation_codes WHERE id = $1`, id)
		if found = ok; err != nil || !ok {
			return err
		}
		_, exists, err := one(ctx, tx, scanString, `SELECT id FROM connectors WHERE id = $1`, code.Connector)
		if err != nil {
			return err
		}
		tries, used := code.Tries, code.Connector
		if c := f(&code, exists, db.clock()); c != nil {
			if _, err := exec(ctx, tx, `INSERT INTO connectors (`+connectorColumns+`, refreshed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`,
				c.ID, c.Name, toHex(c.PublicKey), c.Version, c.IPAddress, c.MACAddress, ms(c.AssociatedOn), ms(c.LastSeen)); err != nil {
				return err
			}
		}
		n, err := exec(ctx, tx, `UPDATE activation_codes SET tries = $2, public_key = $3, connector = $4
			WHERE id = $1 AND tries = $5 AND connector = $6`, id, code.Tries, toHex(code.PublicKey), code.Connector, tries, used)
		if err == nil && n == 0 {
			err = errStale
		}
		return err
	})
	return found, err
}

// PublicKey implements access.Store.
func (db *DB) PublicKey(ctx context.Context, connector string) ([]byte, bool, error) {
	c, ok, err := one(ctx, db.sql, scanConnector, `SELECT `+connectorColumns+` FROM connectors WHERE id = $1`, connector)
	return c.PublicKey, ok, err
}

const keyColumns = `id, sealed, role, description, created, revoked`

type storedKey struct {
	access.Key
	sealed []byte
}

func scanKey(row scanner) (k storedKey, err error) {
	var sealed string
	var created, revoked int64
	if err := row.Scan(&k.ID, &sealed, &k.Role, &k.Description, &created, &revoked); err != nil {
		return k, err
	}
	k.Created, k.Revoked = fromMS(created), fromMS(revoked)
	k.sealed, err = fromHex(sealed)
	return k, err
}

// InsertKey implements access.Store.
func (db *DB) InsertKey(ctx context.Context, k access.Key, sealed []byte) error {
	_, err := exec(ctx, db.sql, `INSERT INTO access_keys (`+keyColumns+`) VALUES ($1, $2, $3, $4, $5, $6)`,
		k.ID, toHex(sealed), string(k.Role), k.Description, ms(k.Created), ms(k.Revoked))
	return err
}

// Key implements access.Store.
func (db *DB) Key(ctx context.Context, id string) (access.Key, []byte, bool, error) {
	k, ok, err := one(ctx, db.sql, scanKey, `SELECT `+keyColumns+` FROM access_keys WHERE id = $1`, id)
	return k.Key, k.sealed, ok, err
}

// ListKeys implements access.Store.
func (db *DB) ListKeys(ctx context.Context) ([]access.Key, error) {
	return list(ctx, db.sql, func(row scanner) (access.Key, error) {
		k, err := scanKey(row)
		return k.Key, err
	}, `SELECT `+keyColumns+` FROM access_keys ORDER BY id`)
}

// RevokeKey implements access.Store.
func (db *DB) RevokeKey(ctx context.Context, id string) (bool, error) {
	n, err := exec(ctx, db.sql, `UPDATE access_keys SET revoked = CASE revoked WHEN 0 THEN $2 ELSE revoked END WHERE id = $1`,
		id, ms(db.clock()))
	return n > 0, err
}
