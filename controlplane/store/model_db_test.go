package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
)

// modelDB is the real service on a real database, in which a state can be
// left and taken up again. States that differ only in revisions, times and
// messages behave alike and are one: a lease counts as held or ended, a pause as
// over or not. Calls are remembered, since the same call in the same state has
// the same outcome.
type modelDB struct {
	t          testing.TB
	db         *DB
	service    *replication.Service
	now        time.Time
	ids        int
	loaded     int // the state that is in the database now; -1 for none
	states     []modelState
	index      map[string]int
	calls      map[modelCall]modelOutcome
	real       int // calls that were not remembered
	statements map[string]*sql.Stmt
}

type modelState struct {
	rows map[string][][]any
	now  time.Time
	ids  int
	run  string // the job's last run
	row  *replication.Row
	land []replication.Landed
}

type modelCall struct {
	state int
	call  string
}

type modelOutcome struct {
	state  int
	result any
	err    error
}

var modelTables = []string{"jobs", "runs", "landed", "images"}

func newModelDB(t testing.TB) *modelDB {
	m := &modelDB{t: t, now: time.UnixMilli(1_700_000_000_000), index: map[string]int{}, calls: map[modelCall]modelOutcome{}, loaded: -1, statements: map[string]*sql.Stmt{}}
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "model.db"), WithClock(func() time.Time { return m.now }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.sql.SetMaxOpenConns(1)
	for _, pragma := range []string{`journal_mode = MEMORY`, `locking_mode = EXCLUSIVE`, `synchronous = OFF`} {
		m.exec(db, `PRAGMA `+pragma) // nothing here has to outlive the process
	}
	m.db = db
	m.service = replication.NewService(db, catalog.NewService(db, nil), replication.Options{
		NewID: func(prefix string) string { m.ids++; return fmt.Sprintf("%s%d", prefix, m.ids) },
	})
	return m
}

func (m *modelDB) exec(db *DB, query string, args ...any) {
	if _, err := db.sql.ExecContext(context.Background(), query, args...); err != nil {
		m.t.Fatal(err)
	}
}

// call makes a call in a state and returns the state after it.
func (m *modelDB) call(state int, name string, f func() (any, error)) modelOutcome {
	key := modelCall{state, name}
	if o, ok := m.calls[key]; ok {
		return o
	}
	m.real++
	m.load(state)
	result, err := f()
	o := modelOutcome{state: m.save(), result: result, err: err}
	m.calls[key] = o
	return o
}

// load puts a state into the database.
func (m *modelDB) load(state int) {
	if m.loaded == state {
		return
	}
	s := m.states[state]
	m.now, m.ids = s.now, s.ids
	for _, table := range modelTables { // before the transaction, which has the only connection
		m.prepared(`DELETE FROM ` + table)
		for _, row := range s.rows[table] {
			m.prepared(insertInto(table, row))
		}
	}
	tx, err := m.db.sql.BeginTx(context.Background(), nil)
	must(m.t, err)
	for _, table := range modelTables {
		_, err := tx.Stmt(m.prepared(`DELETE FROM ` + table)).Exec()
		must(m.t, err)
		for _, row := range s.rows[table] {
			_, err := tx.Stmt(m.prepared(insertInto(table, row))).Exec(row...)
			must(m.t, err)
		}
	}
	must(m.t, tx.Commit())
}

func insertInto(table string, row []any) string {
	return `INSERT INTO ` + table + ` VALUES (` + placeholders(1, len(row)) + `)`
}

func (m *modelDB) prepared(query string) *sql.Stmt {
	if m.statements[query] == nil {
		statement, err := m.db.sql.Prepare(query)
		must(m.t, err)
		m.statements[query] = statement
	}
	return m.statements[query]
}

// save notes the database's state, or finds the like one that was there before.
func (m *modelDB) save() int {
	s := modelState{rows: map[string][][]any{}, now: m.now, ids: m.ids}
	var normal strings.Builder
	for _, table := range modelTables {
		rows, err := m.prepared(`SELECT * FROM ` + table + ` ORDER BY 1, 2`).Query()
		if err != nil {
			m.t.Fatal(err)
		}
		names, err := rows.Columns()
		if err != nil {
			m.t.Fatal(err)
		}
		for rows.Next() {
			row, to := make([]any, len(names)), make([]any, len(names))
			for i := range row {
				to[i] = &row[i]
			}
			if err := rows.Scan(to...); err != nil {
				m.t.Fatal(err)
			}
			s.rows[table] = append(s.rows[table], row)
			for i, name := range names {
				fmt.Fprintf(&normal, "%s=%v;", name, m.normal(name, row[i]))
			}
			normal.WriteByte('\n')
		}
		if err := rows.Close(); err != nil {
			m.t.Fatal(err)
		}
	}
	m.loaded = -1 // unless the state turns out to be this one
	state, ok := m.index[normal.String()]
	if !ok {
		m.read(&s)
		state = len(m.states)
		m.states = append(m.states, s)
		m.index[normal.String()] = state
		m.loaded = state
	}
	return state
}

// normal leaves of a column what behavior depends on.
func (m *modelDB) normal(name string, v any) any {
	switch name {
	case "revision", "created", "next_run", "message", "retired":
		return ""
	case "lease_until", "due":
		return v.(int64) > m.now.UnixMilli()
	case "detail":
		var d map[string]any
		if err := json.Unmarshal([]byte(v.(string)), &d); err != nil {
			m.t.Fatal(err)
		}
		for _, k := range []string{"message", "trouble", "scheduled", "completed"} {
			delete(d, k)
		}
		b, err := json.Marshal(d)
		if err != nil {
			m.t.Fatal(err)
		}
		return string(b)
	}
	return v
}

// read notes what the model looks at: the job's last run and what has landed.
func (m *modelDB) read(s *modelState) {
	err := m.db.Replicate(context.Background(), func(tx replication.Tx) error {
		jobs, err := tx.ListJobs(context.Background(), "", 1)
		if err != nil || len(jobs) == 0 {
			return err
		}
		runs, err := tx.ListRuns(context.Background(), jobs[0].ID, "", 8)
		if err != nil {
			return err
		}
		for _, r := range runs {
			if s.row == nil || len(r.ID) > len(s.row.ID) || len(r.ID) == len(s.row.ID) && r.ID > s.row.ID {
				s.row, s.run = r, r.ID
			}
		}
		s.land, err = tx.Landed(context.Background(), jobs[0].ID)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func modelHash(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
