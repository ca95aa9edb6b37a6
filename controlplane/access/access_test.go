package access_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	"skylift/controlplane/store"
	"skylift/internal/problem"
	"skylift/internal/secret"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// open opens a database; its clock is *now.
func open(t *testing.T, now *time.Time) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "skylift.db"), store.WithClock(func() time.Time { return *now }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func key(n byte) []byte { return bytes.Repeat([]byte{n}, ed25519.PublicKeySize) }

func TestActivationCodeEnrolsOneConnectorOnce(t *testing.T) {
	now := noon
	db := open(t, &now)
	e := access.NewEnrolment(db)
	ctx := t.Context()
	code, expires, err := e.Issue(ctx, time.Hour)
	if err != nil || !expires.Equal(noon.Add(time.Hour)) {
		t.Fatalf("expires %s, error %v", expires, err)
	}
	id, err := e.Enrol(ctx, code, key(1), "appliance", "1.0")
	if err != nil || !strings.HasPrefix(id, "c-") {
		t.Fatalf("connector %q, error %v", id, err)
	}
	typed := secret.New(" " + strings.ToLower(strings.ReplaceAll(code.Reveal(), "-", " ")) + " ")
	if again, err := e.Enrol(ctx, typed, key(1), "appliance", "1.0"); again != id || err != nil {
		t.Errorf("the same code and key: %q, error %v", again, err)
	}
	if other, err := e.Enrol(ctx, code, key(2), "appliance", "1.0"); !problem.Has(err, access.CodeRefused) {
		t.Errorf("the same code and another key: %q, error %v", other, err)
	}
	if got, err := e.PublicKey(ctx, id); err != nil || !bytes.Equal(got, key(1)) {
		t.Errorf("key %x, error %v", got, err)
	}
	servers := catalog.NewService(db, nil)
	list, _, err := servers.Connectors(ctx, catalog.Page{})
	if err != nil || len(list) != 1 || list[0].Name != "appliance" || !list[0].AssociatedOn.Equal(noon) {
		t.Errorf("connectors %+v, error %v", list, err)
	}
	if err := servers.Disassociate(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := e.PublicKey(ctx, id); !problem.Has(err, access.ConnectorRevoked) {
		t.Errorf("the key of a disassociated connector: error %v", err)
	}
	if again, err := e.Enrol(ctx, code, key(1), "appliance", "1.0"); !problem.Has(err, access.CodeRefused) {
		t.Errorf("a disassociated connector comes back with its old code: %q, error %v", again, err)
	}
}

func TestActivationCodeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(code string) string
		later  time.Duration
		key    []byte
		want   *problem.Kind
	}{
		"when it has expired":     {nil, time.Hour, key(1), access.CodeRefused},
		"when it is another":      {func(string) string { return "AAAAAAAA-AAAAAAAA-AAAAAAAA" }, 0, key(1), access.CodeRefused},
		"when it is cut short":    {func(c string) string { return c[:10] }, 0, key(1), access.CodeRefused},
		"when it is empty":        {func(string) string { return "" }, 0, key(1), access.CodeRefused},
		"when it has other signs": {func(c string) string { return "é" + c[2:] }, 0, key(1), access.CodeRefused},
		"with a key of no use":    {nil, 0, []byte("short"), access.PublicKeyInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			now := noon
			e := access.NewEnrolment(open(t, &now))
			code, _, err := e.Issue(t.Context(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			text := code.Reveal()
			if c.change != nil {
				text = c.change(text)
			}
			now = now.Add(c.later)
			if id, err := e.Enrol(t.Context(), secret.New(text), c.key, "x", "1"); !problem.Has(err, c.want) {
				t.Errorf("connector %q, error %v", id, err)
			}
		})
	}
}

func TestActivationCodeTakesFewTries(t *testing.T) {
	for wrong, works := range map[int]bool{4: true, 5: false} {
		now := noon
		e := access.NewEnrolment(open(t, &now))
		code, _, err := e.Issue(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for range wrong {
			if _, err := e.Enrol(t.Context(), secret.New(code.Reveal()[:9]+"AAAAAAAA-AAAAAAAA"), key(1), "x", "1"); !problem.Has(err, access.CodeRefused) {
				t.Fatal(err)
			}
		}
		if _, err := e.Enrol(t.Context(), code, key(1), "x", "1"); (err == nil) != works {
			t.Errorf("after %d wrong tries: error %v", wrong, err)
		}
	}
}

func TestManyWhoUseACodeAtOnceEnrolOneConnector(t *testing.T) {
	now := noon
	db := open(t, &now)
	e := access.NewEnrolment(db)
	code, _, err := e.Issue(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var enrolments sync.WaitGroup
	for n := range byte(8) {
		enrolments.Go(func() { _, _ = e.Enrol(t.Context(), code, key(n), "x", "1") })
	}
	enrolments.Wait()
	if list, _, err := catalog.NewService(db, nil).Connectors(t.Context(), catalog.Page{}); len(list) != 1 || err != nil {
		t.Errorf("%d connectors, error %v", len(list), err)
	}
}

func keysOn(t *testing.T, db *store.DB) *access.Keys {
	t.Helper()
	seal, err := access.LoadSealingKey(filepath.Join(t.TempDir(), "sealing.key"))
	if err != nil {
		t.Fatal(err)
	}
	return access.NewKeys(db, seal)
}

func TestAccessKeyIsFoundWithItsSecretUntilItIsRevoked(t *testing.T) {
	now := noon
	db := open(t, &now)
	keys := keysOn(t, db)
	ctx := t.Context()
	made, err := keys.Create(ctx, access.Operator, "pipeline")
	if err != nil || len(made.ID) != 20 || !strings.HasPrefix(made.ID, "AKIA") || len(made.Secret.Reveal()) != 40 {
		t.Fatalf("key %+v, error %v", made, err)
	}
	found, err := keys.Lookup(ctx, made.ID)
	if err != nil || !found.Secret.Equal(made.Secret) || found.Role != access.Operator || found.Description != "pipeline" || !found.Created.Equal(noon) {
		t.Errorf("key %+v, error %v", found, err)
	}
	if list, err := keys.List(ctx); err != nil || len(list) != 1 || !list[0].Secret.Empty() {
		t.Errorf("keys %+v, error %v", list, err)
	}
	if _, err := keysOn(t, db).Lookup(ctx, made.ID); !problem.Has(err, access.SealingKeyUnusable) {
		t.Errorf("under another sealing key: error %v", err)
	}
	if err := keys.Revoke(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{made.ID, "AKIAAAAAAAAAAAAAAAAA", ""} {
		if _, err := keys.Lookup(ctx, id); !problem.Has(err, access.KeyNotFound) {
			t.Errorf("key %q: error %v", id, err)
		}
	}
	if err := keys.Revoke(ctx, "AKIAAAAAAAAAAAAAAAAA"); !problem.Has(err, access.KeyNotFound) {
		t.Errorf("error %v", err)
	}
	if _, err := keys.Create(ctx, "root", ""); !problem.Has(err, access.RoleUnknown) {
		t.Errorf("error %v", err)
	}
}

func TestDatabaseHoldsNoSecretInTheClear(t *testing.T) {
	now := noon
	dir := t.TempDir()
	db, err := store.Open(t.Context(), filepath.Join(dir, "skylift.db"), store.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	code, _, err := access.NewEnrolment(db).Issue(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	made, err := keysOn(t, db).Create(t.Context(), access.Admin, "first")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "skylift.db"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(made.ID)) {
		t.Fatal("the key is not in the file at all")
	}
	hidden := strings.ReplaceAll(code.Reveal(), "-", "")[8:]
	for _, clear := range []string{made.Secret.Reveal(), fmt.Sprintf("%x", made.Secret.Reveal()), hidden} {
		if bytes.Contains(content, []byte(clear)) {
			t.Error("a secret is in the database as it is")
		}
	}
}

func TestSealedSecretOpensForItsSubjectOnly(t *testing.T) {
	seal, err := access.LoadSealingKey(filepath.Join(t.TempDir(), "sealing.key"))
	if err != nil {
		t.Fatal(err)
	}
	sealed := seal.Seal([]byte("secret"), "a")
	if plain, err := seal.Open(sealed, "a"); string(plain) != "secret" || err != nil {
		t.Errorf("plain %q, error %v", plain, err)
	}
	if _, err := seal.Open(sealed, "b"); !problem.Has(err, access.SealingKeyUnusable) {
		t.Errorf("another subject: error %v", err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := seal.Open(sealed, "a"); !problem.Has(err, access.SealingKeyUnusable) {
		t.Errorf("a changed one: error %v", err)
	}
	if _, err := seal.Open(nil, "a"); err == nil {
		t.Error("nothing was opened")
	}
}

func TestSealingKeyFileIsMadeOnceAndOnlyForItsOwner(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sealing.key")
	first, err := access.LoadSealingKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
	again, err := access.LoadSealingKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Open(first.Seal([]byte("x"), "a"), "a"); err != nil {
		t.Errorf("the second load gives another key: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := access.LoadSealingKey(path); !problem.Has(err, access.SealingKeyUnusable) {
		t.Errorf("a file that others can read: error %v", err)
	}
	for name, text := range map[string]string{"short": "00ff", "empty": "", "not hexadecimal": strings.Repeat("z", 64)} {
		bad := filepath.Join(dir, "bad")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := access.LoadSealingKey(bad); !problem.Has(err, access.SealingKeyUnusable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := access.LoadSealingKey(filepath.Join(dir, "none", "key")); !problem.Has(err, access.SealingKeyUnusable) {
		t.Errorf("no such directory: error %v", err)
	}
}

func TestRolesAllowWhatIsBelowThem(t *testing.T) {
	for _, c := range []struct {
		has, needs access.Role
		want       bool
	}{
		{access.Viewer, access.Viewer, true}, {access.Viewer, access.Operator, false}, {access.Operator, access.Viewer, true},
		{access.Operator, access.Admin, false}, {access.Admin, access.Admin, true}, {"", access.Viewer, false},
		{"root", access.Viewer, false}, {access.Admin, "", false}, {"", "", false},
	} {
		if got := c.has.Allows(c.needs); got != c.want {
			t.Errorf("%q allows %q: %t", c.has, c.needs, got)
		}
	}
}

func TestInstallationHasOneID(t *testing.T) {
	now := noon
	db := open(t, &now)
	first, err := access.Installation(t.Context(), db)
	if err != nil || first == "" {
		t.Fatal(err)
	}
	if again, err := access.Installation(t.Context(), db); again != first || err != nil {
		t.Errorf("%q after %q, error %v", again, first, err)
	}
}
