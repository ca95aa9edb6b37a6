package vsphere

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"skylift/internal/secret"
)

// esx is a host with a certificate of its own.
func esx(t *testing.T) (host string, cert *x509.Certificate) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "given", Value: "by the host"})
		_, _ = fmt.Fprint(w, r.Header.Get("Cookie"))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), server.Certificate()
}

// trusting is a source that asks nobody.
func trusting(t *testing.T, change func(*Config)) *Source {
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	c := Config{URL: "https://vcenter.example.com/sdk", User: "u", Password: secret.New("p"), Installation: "x", Log: silent}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.hosts.close)
	return s
}

func colons(sum []byte) string { return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":") }

func visit(s *Source, host, thumbprint string) (string, error) {
	client, err := s.hostClient(host, thumbprint)
	if err != nil {
		return "", err
	}
	res, err := client.Get("https://" + host + "/nfc/1/disk-0.vmdk")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

func TestHostsAreTrustedByThumbprintOrAuthority(t *testing.T) {
	host, cert := esx(t)
	short, long := sha1.Sum(cert.Raw), sha256.Sum256(cert.Raw)
	other := sha256.Sum256([]byte("another certificate"))
	vouched := x509.NewCertPool()
	vouched.AddCert(cert)
	pinned := &tls.Config{VerifyConnection: func(tls.ConnectionState) error { return errors.New("not vCenter's certificate") }}
	for _, c := range []struct {
		name       string
		host       string
		thumbprint string
		change     func(*Config)
		trusted    bool
	}{
		{"its SHA-1", host, colons(short[:]), nil, true},
		{"its SHA-256", host, colons(long[:]), nil, true},
		{"its SHA-256 without colons in lower case", host, fmt.Sprintf("%x", long), nil, true},
		{"vCenter's certificate is pinned", host, colons(long[:]), func(c *Config) { c.TLS = pinned }, true},
		{"another's thumbprint", host, colons(other[:]), nil, false},
		{"no thumbprint", host, "", nil, false},
		{"no thumbprint, but an authority", host, "", func(c *Config) { c.TLS = &tls.Config{RootCAs: vouched} }, true},
		{"another's thumbprint, but an authority", host, colons(other[:]), func(c *Config) { c.TLS = &tls.Config{RootCAs: vouched} }, true},
		{"an authority of the hosts' own", host, colons(other[:]), func(c *Config) {
			c.CustomizeHost = func(t *http.Transport) { t.TLSClientConfig = &tls.Config{RootCAs: vouched} }
		}, true},
		{"an authority for another name", strings.Replace(host, "127.0.0.1", "localhost", 1), colons(other[:]), func(c *Config) {
			c.TLS = &tls.Config{RootCAs: vouched}
		}, false},
		{"its SHA-1, but a check of the operator's says no", host, colons(short[:]), func(c *Config) {
			c.CustomizeHost = func(t *http.Transport) { t.TLSClientConfig = pinned }
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := visit(trusting(t, c.change), c.host, c.thumbprint)
			if (err == nil) != c.trusted {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestARefusedHostIsNotAskedAgain(t *testing.T) {
	host, _ := esx(t)
	other := sha1.Sum([]byte("another certificate"))
	if _, err := visit(trusting(t, nil), host, colons(other[:])); !isUntrusted(err) {
		t.Errorf("got %v, want an error of trust", err)
	}
}

func TestThumbprintsThatCannotBeReadAreRefused(t *testing.T) {
	for _, text := range []string{"69:21:3F", "zz", strings.Repeat("00", 21), "none"} {
		if _, err := trusting(t, nil).hostClient("esx-1", text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestAHostsClientIsKeptUntilItsCertificateChanges(t *testing.T) {
	host, cert := esx(t)
	sum := sha1.Sum(cert.Raw)
	s := trusting(t, nil)
	first, err := s.hostClient("ESX-1", colons(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.hostClient("esx-1:443", colons(sum[:])); err != nil || again != first {
		t.Errorf("got another client, %v", err)
	}
	if changed, err := s.hostClient("esx-1", ""); err != nil || changed == first {
		t.Errorf("got the client for the old certificate, %v", err)
	}
	// A host's cookies go back to it.
	if _, err := visit(s, host, colons(sum[:])); err != nil {
		t.Fatal(err)
	}
	if cookies, err := visit(s, host, colons(sum[:])); err != nil || !strings.Contains(cookies, "by the host") {
		t.Errorf("the host was sent %q, %v", cookies, err)
	}
}

func TestTheHostOfTheSessionIsReachedWithTheSession(t *testing.T) {
	s := trusting(t, nil)
	for _, host := range []string{"vcenter.example.com", "VCENTER.example.com:443"} {
		if c, err := s.hostClient(host, strings.Repeat("00", 20)); err != nil || c != s.session.web {
			t.Errorf("%s: got another client, %v", host, err)
		}
	}
	if c, err := s.hostClient("vcenter.example.com:8443", ""); err != nil || c == s.session.web {
		t.Errorf("another port of it is reached with the session, %v", err)
	}
}
