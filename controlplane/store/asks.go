package store

import (
	"context"
	"database/sql"
	"time"

	"skylift/controlplane/catalog"
)

const askColumns = `id, what, source, vm, state, asked, begin_by, expires, connector, answered, failure`

func scanAsk(row scanner) (a catalog.Ask, err error) {
	var asked, begin, expires, answered int64
	var failure string
	if err := row.Scan(&a.ID, &a.Question, &a.Source, &a.VM, &a.State, &asked, &begin, &expires, &a.Connector, &answered, &failure); err != nil {
		return a, err
	}
	a.Asked, a.BeginBy, a.Expires, a.Answered = fromMS(asked), fromMS(begin), fromMS(expires), fromMS(answered)
	a.Failure, err = decode[catalog.Failure](failure)
	return a, err
}

// SaveAsk implements catalog.Store.
func (db *DB) SaveAsk(ctx context.Context, a catalog.Ask) error { return saveAsk(ctx, db.sql, a) }

// SaveAsk implements replication.Tx.
func (t *replicationTx) SaveAsk(ctx context.Context, a catalog.Ask) error {
	return saveAsk(ctx, t.tx, a)
}

// saveAsk replaces the ask of the question and subject when that is over.
func saveAsk(ctx context.Context, q querier, a catalog.Ask) error {
	_, err := exec(ctx, q, `INSERT INTO asks (`+askColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', 0, '{}')
		ON CONFLICT (source, vm, what) DO UPDATE SET id = excluded.id, state = excluded.state, asked = excluded.asked,
			begin_by = excluded.begin_by, expires = excluded.expires, connector = '', answered = 0, failure = '{}'
		WHERE asks.state IN ('COMPLETED', 'FAILED') OR asks.expires <= $6 OR asks.state = 'PENDING' AND asks.begin_by <= $6`,
		a.ID, string(a.Question), a.Source, a.VM, string(a.State), ms(a.Asked), ms(a.BeginBy), ms(a.Expires))
	return err
}

// TakeAsk implements catalog.Store. An ask that somebody else took meanwhile
// is left to the next look.
func (db *DB) TakeAsk(ctx context.Context, connector string, alive time.Time, limit int) (catalog.Ask, bool, error) {
	now := ms(db.clock())
	given, _, err := one(ctx, db.sql, scanInt, `SELECT COUNT(*) FROM asks WHERE state = 'ACTIVE' AND connector = $1 AND expires > $2`, connector, now)
	if err != nil || given >= limit {
		return catalog.Ask{}, false, err
	}
	a, ok, err := one(ctx, db.sql, scanAsk, `SELECT `+askColumns+` FROM asks
		WHERE source IN (SELECT source FROM connector_sources WHERE connector = $1) AND expires > $2
		AND (state = 'PENDING' AND begin_by > $2
			OR state = 'ACTIVE' AND connector NOT IN (SELECT id FROM connectors WHERE last_seen > $3))
		ORDER BY asked, id LIMIT 1`, connector, now, ms(alive))
	if err != nil || !ok {
		return catalog.Ask{}, false, err
	}
	n, err := exec(ctx, db.sql, `UPDATE asks SET state = 'ACTIVE', connector = $2 WHERE id = $1 AND state = $3 AND connector = $4`,
		a.ID, connector, string(a.State), a.Connector)
	a.State, a.Connector = catalog.AskGiven, connector
	return a, n == 1, err
}

// ReturnAsk implements catalog.Store.
func (db *DB) ReturnAsk(ctx context.Context, id string) error {
	_, err := exec(ctx, db.sql, `UPDATE asks SET state = 'PENDING', connector = '' WHERE id = $1 AND state = 'ACTIVE'`, id)
	return err
}

// loseAsks has what the connector has not answered given out again.
func loseAsks(ctx context.Context, q querier, connector string) error {
	_, err := exec(ctx, q, `UPDATE asks SET connector = '' WHERE connector = $1 AND state = 'ACTIVE'`, connector)
	return err
}

// Ask implements catalog.Store.
func (db *DB) Ask(ctx context.Context, id string) (catalog.Ask, bool, error) {
	return one(ctx, db.sql, scanAsk, `SELECT `+askColumns+` FROM asks WHERE id = $1`, id)
}

// SaveAnswer implements catalog.Store.
func (db *DB) SaveAnswer(ctx context.Context, connector, id string, r *catalog.Readiness, f *catalog.Failure) (first bool, err error) {
	state, failure := catalog.AskDone, catalog.Failure{}
	if f != nil {
		state, failure = catalog.AskFailed, *f
	}
	told, err := encode(failure)
	if err != nil {
		return false, err
	}
	err = db.write(ctx, func(tx *sql.Tx) error {
		now := ms(db.clock())
		n, err := exec(ctx, tx, `UPDATE asks SET state = $2, connector = $3, answered = $4, failure = $5
			WHERE id = $1 AND state IN ('PENDING', 'ACTIVE')`, id, string(state), connector, now, told)
		if first = n == 1; err != nil || !first || r == nil || f != nil {
			return err
		}
		report, err := encode(r)
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, `INSERT INTO reports (source, vm, made, connector, report)
			SELECT source, vm, $2, $3, $4 FROM asks WHERE id = $1
			ON CONFLICT (source, vm) DO UPDATE SET made = excluded.made, connector = excluded.connector, report = excluded.report`,
			id, now, connector, report)
		return err
	})
	return first && err == nil, err
}

// Standing implements catalog.Store.
func (db *DB) Standing(ctx context.Context, source, vm string) (catalog.ReadinessReport, []catalog.Ask, error) {
	report, _, err := one(ctx, db.sql, func(row scanner) (r catalog.ReadinessReport, err error) {
		var made int64
		var text string
		if err := row.Scan(&made, &r.Connector, &text); err != nil {
			return r, err
		}
		r.Made = fromMS(made)
		r.Readiness, err = decode[catalog.Readiness](text)
		return r, err
	}, `SELECT made, connector, report FROM reports WHERE source = $1 AND vm = $2`, source, vm)
	if err != nil {
		return report, nil, err
	}
	asks, err := list(ctx, db.sql, scanAsk, `SELECT `+askColumns+` FROM asks WHERE source = $1 AND vm = $2`, source, vm)
	return report, asks, err
}

// Source implements catalog.Store.
func (db *DB) Source(ctx context.Context, id string) (catalog.Source, bool, error) {
	return one(ctx, db.sql, scanSource, `SELECT id, platform, name FROM sources WHERE id = $1`, id)
}

// SourceReached implements catalog.Store.
func (db *DB) SourceReached(ctx context.Context, source string, alive time.Time) (bool, error) {
	return sourceReached(ctx, db.sql, source, alive)
}

func sourceReached(ctx context.Context, q querier, source string, alive time.Time) (bool, error) {
	n, _, err := one(ctx, q, scanInt, `SELECT COUNT(*) FROM connector_sources cs JOIN connectors c ON c.id = cs.connector
		WHERE cs.source = $1 AND c.last_seen > $2`, source, ms(alive))
	return n > 0, err
}

// forgetReadiness drops what is known of the readiness of servers that are not
// in the catalog any more.
func forgetReadiness(ctx context.Context, q querier) error {
	for _, table := range []string{"asks", "reports"} {
		if _, err := exec(ctx, q, `DELETE FROM `+table+` WHERE vm <> '' AND NOT EXISTS
			(SELECT 1 FROM servers s WHERE s.source = `+table+`.source AND s.vm = `+table+`.vm)`); err != nil {
			return err
		}
	}
	return nil
}
