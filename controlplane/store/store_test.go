package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/problem"
)

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

func TestDatabaseIsKeptFromOneStartToTheNext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space?&#%.db")
	first := open(t, path)
	id, err := first.Installation(t.Context(), "i1")
	must(t, err)
	second := open(t, path) // while the first is open: its changes are seen
	if again, err := second.Installation(t.Context(), "i2"); again != id || err != nil {
		t.Errorf("installation %q, error %v", again, err)
	}
	var mode, sync string
	must(t, second.sql.QueryRow(`PRAGMA journal_mode`).Scan(&mode))
	must(t, second.sql.QueryRow(`PRAGMA synchronous`).Scan(&sync))
	if mode != "wal" || sync != "2" {
		t.Errorf("journal mode %s, synchronous %s", mode, sync)
	}
}

func TestDatabaseOfANewerVersionIsRefusedOnlyWhenItSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skylift.db")
	db := open(t, path)
	exec := func(query string) {
		t.Helper()
		if _, err := db.sql.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	exec(`CREATE TABLE added_by_a_newer_version (id TEXT)`)
	open(t, path)
	exec(`UPDATE schema_minimum SET version = 98`)
	if _, err := Open(t.Context(), path); !problem.Has(err, TooNew) {
		t.Errorf("error %v", err)
	}
}

func TestDatabaseIsReadableByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skylift.db")
	db := open(t, path)
	seed(t, db, "j1", "r1")
	for _, file := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", filepath.Base(file), info.Mode().Perm())
		}
	}
}

// What is stored as JSON is read by later versions: a changed name loses data.
func TestStoredJSONStaysAsItIs(t *testing.T) {
	for name, c := range map[string]struct {
		value any
		want  string
	}{
		"disk of a run": {replication.RunDisk{ID: "d", Digest: []byte{1}}, `{"ID":"d","Name":"","Kind":"","Reason":"","Transport":"","TransportWhy":"",` +
			`"Size":0,"Planned":0,"Read":0,"Changed":0,"Sent":0,"Stored":0,"Resumed":0,"Digest":"AQ==","Image":""}`},
		"disk of a server":   {catalog.Disk{ID: "d"}, `{"ID":"d","Name":"","Size":0,"Skip":""}`},
		"network card":       {catalog.NIC{MAC: "m"}, `{"Name":"","MAC":"m","Network":""}`},
		"settings of a job":  {jobSettings{Seed: 1}, `{"seed":1,"frequency_ms":0,"quiesce":""}`},
		"sealed disk":        {sealedDisk{Disk: "d", Manifest: []byte{1}}, `{"disk":"d","key":"","position":0,"size":0,"manifest":"AQ==","digest":null}`},
		"disk of an image":   {imageDisk{Disk: "d"}, `{"disk":"d","key":"","manifest":null,"image":""}`},
		"snapshot of a run":  {snapshot{ID: "s"}, `{"server":"","run":"","id":"s","created":0}`},
		"details of a run":   {runDetail{Stage: "s"}, `{"stage":"s","progress":0,"scheduled":0}`},
		"details of servers": {serverDetail{Path: "p"}, `{"path":"p"}`},
		"failure of an ask":  {catalog.Failure{Code: "c", Message: "m", Hint: "h"}, `{"code":"c","message":"m","hint":"h"}`},
		"report": {catalog.Readiness{Facts: []catalog.Fact{{Subject: "s", Name: "n", Value: "v"}}, Findings: []catalog.Finding{{Code: "c", Blocks: true, Subject: "s", What: "w", Hint: "h"}}},
			`{"facts":[{"subject":"s","name":"n","value":"v"}],"findings":[{"code":"c","blocks":true,"subject":"s","what":"w","hint":"h"}]}`},
	} {
		if got, err := encode(c.value); got != c.want || err != nil {
			t.Errorf("%s: got %s, want %s, error %v", name, got, c.want, err)
		}
	}
}

func TestDatabaseThatCannotBeOpenedSaysSo(t *testing.T) {
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none", "skylift.db")); !problem.Has(err, Unusable) {
		t.Errorf("error %v", err)
	}
}

func TestTransactionIsKeptWholeOrNotAtAll(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "skylift.db"))
	ctx := t.Context()
	failure := errors.New("no")
	err := db.Replicate(ctx, func(tx replication.Tx) error {
		if err := tx.InsertJob(ctx, &replication.JobRow{Job: replication.Job{ID: "j1", Server: "s1", State: replication.JobActive}}); err != nil {
			return err
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	must(t, db.Replicate(ctx, func(tx replication.Tx) error {
		if _, ok, err := tx.Job(ctx, "j1"); ok || err != nil {
			t.Errorf("the job is there, error %v", err)
		}
		return nil
	}))
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := db.Replicate(canceled, func(replication.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// seed makes a job and a run.
func seed(t *testing.T, db *DB, job, run string) {
	t.Helper()
	ctx := t.Context()
	must(t, db.Replicate(ctx, func(tx replication.Tx) error {
		if err := tx.InsertJob(ctx, &replication.JobRow{Job: replication.Job{ID: job, Server: job, State: replication.JobActive}}); err != nil {
			return err
		}
		return tx.InsertRun(ctx, &replication.Row{Run: replication.Run{ID: run, Job: job, Phase: replication.Waiting}, Slot: -1})
	}))
}

func TestRowIsSavedOnlyAsItWasRead(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "skylift.db"))
	ctx := t.Context()
	seed(t, db, "j1", "r1")
	attempt := 0
	must(t, db.Replicate(ctx, func(tx replication.Tx) error {
		attempt++
		row, _, err := tx.Run(ctx, "r1")
		must(t, err)
		if attempt == 1 {
			row.Revision-- // as if somebody had saved it meanwhile
		}
		row.Owner = "c-1"
		return tx.SaveRun(ctx, row)
	}))
	if attempt != 2 {
		t.Errorf("the transaction ran %d times", attempt)
	}
	attempt = 0
	err := db.Replicate(ctx, func(tx replication.Tx) error {
		attempt++
		j, _, err := tx.Job(ctx, "j1")
		must(t, err)
		j.Revision = 99
		return tx.SaveJob(ctx, j)
	})
	if !errors.Is(err, errStale) || attempt != attempts {
		t.Errorf("error %v after %d attempts", err, attempt)
	}
}

func TestUniqueRulesHold(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "skylift.db"))
	ctx := t.Context()
	seed(t, db, "j1", "r1")
	seed(t, db, "j2", "r2")
	must(t, db.Replicate(ctx, func(tx replication.Tx) error {
		job := &replication.JobRow{Job: replication.Job{ID: "j3", Server: "j1", State: replication.JobPending}}
		if err := tx.InsertJob(ctx, job); !errors.Is(err, replication.ErrConflict) {
			t.Errorf("a second job of a server: error %v", err)
		}
		run := &replication.Row{Run: replication.Run{ID: "r3", Job: "j1", Phase: replication.Building}, Slot: -1}
		if err := tx.InsertRun(ctx, run); !errors.Is(err, replication.ErrConflict) {
			t.Errorf("a second active run of a job: error %v", err)
		}
		run.Phase = replication.Missed
		return tx.InsertRun(ctx, run)
	}))
	take := func(run string, slot int) error {
		return db.once(ctx, func(tx *sql.Tx) error {
			rows := &replicationTx{tx: tx, now: db.clock()}
			row, _, err := rows.Run(ctx, run)
			must(t, err)
			row.Owner, row.Slot = "c-1", slot
			return rows.SaveRun(ctx, row)
		})
	}
	must(t, take("r1", 0))
	if err := take("r2", 0); !errors.Is(err, errStale) {
		t.Errorf("a slot twice: error %v", err)
	}
	must(t, take("r2", 1))
	must(t, take("r1", -1))
	must(t, take("r2", -1))
}

func TestRunComesBackAsItWasStored(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "skylift.db"))
	ctx := t.Context()
	at := time.UnixMilli(1_700_000_000_123).UTC()
	want := replication.Row{
		Run: replication.Run{
			ID: "r", Job: "j", Trigger: replication.OnDemand, Phase: replication.Settling, State: replication.RunActive, Stage: "Uploading", Progress: 7,
			Message: "m", Scheduled: at, Completed: at, Description: "d", Encrypted: true, KMSKeyID: "k", Image: "i", Consistency: "crash",
			Disks: []replication.RunDisk{{ID: "d1", Digest: []byte{1}}},
		},
		Created: at, Source: "s", VM: "v", Slot: 3, Attempts: 1, Expiries: 2, Trouble: "t",
		Hold:     replication.Hold{Due: at, Owner: "o", LeaseUntil: at, Epoch: 5},
		Snapshot: &replication.Snapshot{Server: "v", Run: "r", ID: "snap", Created: at, Consistency: "crash", Note: "n"},
		Seal: []replication.SealedDisk{{Disk: "d1", Key: "k1", Name: "n", Position: 2, Size: 3, ManifestSHA256: []byte{4}, Digest: []byte{5},
			BaseRun: "b", BaseDigest: []byte{6}, ChangeID: "c"}},
		Anchor:  &replication.Anchor{Server: "v", Run: "r", ID: "a"},
		Earlier: []replication.RunDisk{{ID: "d1", Read: 9}},
	}
	must(t, db.Replicate(ctx, func(tx replication.Tx) error { return tx.InsertRun(ctx, &want) }))
	must(t, db.Replicate(ctx, func(tx replication.Tx) error {
		got, ok, err := tx.Run(ctx, "r")
		if !ok || err != nil {
			t.Fatal(err)
		}
		a, _ := encode(got)
		b, _ := encode(want)
		if a != b {
			t.Errorf("got  %s\nwant %s", a, b)
		}
		return nil
	}))
}

func TestWritersAtOnceWaitForEachOther(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "skylift.db"))
	seed(t, db, "j1", "r1")
	const writers, each = 8, 5
	var work sync.WaitGroup
	for range writers {
		work.Go(func() {
			for range each {
				err := db.Replicate(t.Context(), func(tx replication.Tx) error {
					row, _, err := tx.Run(t.Context(), "r1")
					if err != nil {
						return err
					}
					row.Epoch++
					return tx.SaveRun(t.Context(), row)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	must(t, db.Replicate(t.Context(), func(tx replication.Tx) error {
		if row, _, _ := tx.Run(t.Context(), "r1"); row.Epoch != writers*each {
			t.Errorf("epoch %d", row.Epoch)
		}
		return nil
	}))
}
