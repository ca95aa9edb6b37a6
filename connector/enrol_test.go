package connector_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skylift/connector"
	"skylift/controlplane/replication"
	"skylift/internal/dial"
	"skylift/internal/problem"
	"skylift/internal/proxytest"
	"skylift/internal/secret"
)

func TestAConnectorEnrolsOnce(t *testing.T) {
	t.Parallel()
	p := newPlane(t, replication.Limits{})
	issue := func() secret.Text {
		t.Helper()
		code, _, err := p.enrolment.Issue(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	w := &wire{base: p.server.Client().Transport}
	e := connector.Enrolment{Dir: filepath.Join(t.TempDir(), "state"), URL: p.server.URL, HTTP: &http.Client{Transport: w}, Name: "appliance", Version: "1"}

	if _, err := connector.Enrol(t.Context(), e); !problem.Has(err, connector.NotEnrolled) {
		t.Errorf("without a code: %v", err)
	}
	e.Code = secret.New("AAAAAAAA-AAAAAAAA-AAAAAAAA")
	if _, err := connector.Enrol(t.Context(), e); !problem.Has(err, connector.EnrolmentRefused) {
		t.Errorf("with a wrong code: %v", err)
	}
	e.Code = issue()
	w.spoil(func(*http.Request, string) (bool, bool) { return false, true })
	if _, err := connector.Enrol(t.Context(), e); !errors.Is(err, errWire) || problem.Of(err) != nil {
		t.Errorf("the answer is lost: %v", err)
	}
	w.spoil(nil)
	id, err := connector.Enrol(t.Context(), e) // the code was used, by this key
	if err != nil || id.Connector == "" {
		t.Fatalf("again with the same key: %v", err)
	}
	if _, err := p.enrolment.PublicKey(t.Context(), id.Connector); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(e.Dir, "identity.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the identity's file: %v, error %v", info.Mode(), err)
	}

	other := e
	other.Dir = t.TempDir()
	if _, err := connector.Enrol(t.Context(), other); !problem.Has(err, connector.EnrolmentRefused) {
		t.Errorf("the used code with another key: %v", err)
	}
	w.spoil(cut)
	e.Code = secret.Text{}
	if again, err := connector.Enrol(t.Context(), e); err != nil || again.Connector != id.Connector || !again.Key.Equal(id.Key) {
		t.Errorf("an enrolled connector without a code or a link: %v", err)
	}
}

func TestADamagedIdentityIsRefusedAndKept(t *testing.T) {
	t.Parallel()
	p := newPlane(t, replication.Limits{})
	e := connector.Enrolment{Dir: t.TempDir(), URL: p.server.URL, HTTP: p.server.Client()}
	var err error
	if e.Code, _, err = p.enrolment.Issue(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	id, err := connector.Enrol(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.Dir, "identity.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*connector.Identity)) string {
		other := id
		other.Key = append(other.Key[:0:0], id.Key...)
		change(&other)
		p, err := json.Marshal(other)
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	for name, content := range map[string]string{
		"empty":                   "",
		"cut":                     string(good[:len(good)/2]),
		"no JSON":                 "connector",
		"without a key":           with(func(i *connector.Identity) { i.Key = nil }),
		"a short key":             with(func(i *connector.Identity) { i.Key = i.Key[:20] }),
		"a key with a wrong half": with(func(i *connector.Identity) { i.Key[40] ^= 1 }),
		"without an installation": with(func(i *connector.Identity) { i.Installation = "" }),
		"without a connector":     with(func(i *connector.Identity) { i.Connector = "" }),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := connector.Enrol(t.Context(), e); !problem.Has(err, connector.IdentityDamaged) || !strings.Contains(problem.Describe(err), path) {
			t.Errorf("%s: %v", name, err)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestARunThroughAProxyWithAPassword(t *testing.T) {
	t.Parallel()
	squid := proxytest.Squid(t, proxytest.Basic(map[string]string{"skylift": "p@ss:w/rd"}))
	p, v := newPlane(t, replication.Limits{}), newVCenter()
	g := v.add("web-01", 3*mib)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	through := func(password string) *http.Client {
		t.Helper()
		transport, err := dial.NewTransport(dial.Settings{CA: cert, HTTP2: true,
			Proxy: dial.Proxy{URL: squid, User: "skylift", Password: secret.New(password)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(transport.CloseIdleConnections)
		return transport.Client()
	}
	e := connector.Enrolment{Dir: t.TempDir(), URL: p.server.URL, HTTP: through("wrong"), Code: secret.New("x")}
	if _, err := connector.Enrol(t.Context(), e); !problem.Has(err, dial.ProxyAuthRejected) {
		t.Errorf("with a wrong password: %v", err)
	}
	client := through("p@ss:w/rd")
	id := p.enrol(t, client)
	p.start(t, v, func(c *connector.Config) { c.Identity, c.HTTP = id, client })
	p.completed(t, v, p.job(t, g).ID, 1)
	p.clean(t, v)
}
