// Package store keeps the control plane's rows in SQLite. It is the only
// package that knows SQL: the domain packages declare what they need of it,
// and store implements that, a file per domain.
//
// Statements keep to what SQLite and PostgreSQL share: numbered parameters,
// ON CONFLICT, RETURNING, TEXT and BIGINT. Times are milliseconds since 1970
// UTC with 0 for none, hashes and keys are hexadecimal, lists are JSON.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"skylift/internal/problem"
)

//go:embed migrations/*.sql
var migrations embed.FS

// What can be wrong with a database.
var (
	TooNew = &problem.Kind{
		Code:  "store-too-new",
		Title: "the database was changed by a newer version in a way this one cannot work with",
		Hint:  "Start the newer version again, or restore the backup that was made before the upgrade.",
	}
	Unusable = &problem.Kind{
		Code:  "store-unusable",
		Title: "the database cannot be opened",
		Hint:  "Check that the data directory exists, is on a local disk with free space and belongs to this service; then restore the last backup.",
	}
)

// DB is the open database. Its methods may be called at once from many goroutines.
type DB struct {
	sql *sql.DB
	now func() time.Time
}

// Option changes how a database is opened.
type Option func(*DB)

// WithClock sets the database's clock, by which leases are judged. SQLite has
// none of its own worth the name: it runs in this process.
func WithClock(now func() time.Time) Option { return func(db *DB) { db.now = now } }

// Open opens the SQLite file, makes it if there is none, and brings its
// schema up to date. TooNew when its declared minimum is above this binary's.
func Open(ctx context.Context, path string, options ...Option) (*DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, Unusable.New(err, "open %s", path)
	}
	if err := private(abs); err != nil {
		return nil, Unusable.New(err, "open %s", path)
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: url.Values{
		"_txlock": {"immediate"}, // a transaction never finds out late that it cannot write
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"},
	}.Encode()}
	db := &DB{now: time.Now}
	for _, o := range options {
		o(db)
	}
	if db.sql, err = sql.Open("sqlite", dsn.String()); err != nil {
		return nil, Unusable.New(err, "open %s", path)
	}
	db.sql.SetMaxOpenConns(4)
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.sql.Close())
	}
	return db, nil
}

// private makes the file, if there is none, readable by its owner only;
// SQLite gives its journals the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Close closes the database.
func (db *DB) Close() error { return db.sql.Close() }

// migrate brings the schema up to date unless it is a newer one already.
func (db *DB) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db.sql, files)
	if err != nil {
		return Unusable.New(err, "read the migrations")
	}
	sources := provider.ListSources()
	own := sources[len(sources)-1].Version
	version, err := provider.GetDBVersion(ctx)
	if err != nil {
		return Unusable.New(err, "read the schema's version")
	}
	if version > 0 {
		var minimum int64
		if err := db.sql.QueryRowContext(ctx, `SELECT version FROM schema_minimum WHERE one = 1`).Scan(&minimum); err != nil {
			return Unusable.New(err, "read the schema's minimum")
		}
		if minimum > own {
			return TooNew.New(fmt.Errorf("it needs schema %d, this version knows %d", minimum, own), "open the database")
		}
	}
	if version >= own {
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return Unusable.New(err, "bring the schema to version %d", own)
	}
	return nil
}

// Now is the database's time, in whole milliseconds as it is stored.
func (db *DB) Now(context.Context) (time.Time, error) { return db.clock(), nil }

func (db *DB) clock() time.Time { return fromMS(ms(db.now())) }

// attempts is how often a transaction is run when others change what it read.
const attempts = 8

// errStale is why a transaction is run again.
var errStale = errors.New("store: the row was changed by somebody else")

// write runs f in one transaction.
func (db *DB) write(ctx context.Context, f func(tx *sql.Tx) error) error {
	for n := 1; ; n++ {
		err := db.once(ctx, f)
		if !errors.Is(err, errStale) || n == attempts {
			return err
		}
	}
}

func (db *DB) once(ctx context.Context, f func(tx *sql.Tx) error) (err error) {
	tx, err := db.sql.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: begin: %w", err)
	}
	defer func() {
		if err != nil {
			if rollback := tx.Rollback(); !errors.Is(rollback, sql.ErrTxDone) {
				err = errors.Join(err, rollback)
			}
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("store: commit: %w", err)
	}
	return nil
}

// querier is a database or a transaction.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// scanner is one row.
type scanner interface{ Scan(to ...any) error }

// list collects the rows of a query.
func list[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) (items []T, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		items = append(items, item)
	}
	return items, rows.Err()
}

// one returns the only row of a query, if there is one.
func one[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) (item T, ok bool, err error) {
	item, err = scan(q.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return item, false, nil
	}
	if err != nil {
		return item, false, fmt.Errorf("store: %w", err)
	}
	return item, true, nil
}

// exec runs a statement and tells how many rows it touched.
func exec(ctx context.Context, q querier, query string, args ...any) (int64, error) {
	result, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return n, nil
}

func scanString(row scanner) (s string, err error) {
	err = row.Scan(&s)
	return s, err
}

func scanInt(row scanner) (n int, err error) {
	err = row.Scan(&n)
	return n, err
}

// violatesUnique reports whether a unique index forbade a write.
func violatesUnique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMS(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func toHex(b []byte) string { return hex.EncodeToString(b) }

func fromHex(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return hex.DecodeString(s)
}
