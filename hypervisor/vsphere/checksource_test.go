package vsphere_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

func certificate(t *testing.T, p *platform) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p.CertificatePEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}

// fact returns the value of a fact; "" when there is none.
func fact(r hypervisor.Report, subject, name string) string {
	i := slices.IndexFunc(r.Facts, func(f hypervisor.Fact) bool { return f.Subject == subject && f.Name == name })
	if i < 0 {
		return ""
	}
	return r.Facts[i].Value
}

func TestASourceInOrderIsDescribed(t *testing.T) {
	p := newPlatform(t)
	s, _ := p.source(t, p.config())
	r, err := s.CheckSource(t.Context())
	must(t, err)
	cert := certificate(t, p)
	for name, want := range map[string]string{
		"kind": "vCenter", "version": "VMware vCenter Server", "API": "VirtualCenter ", "user": p.User,
		"certificate": cert.Subject.String(), "certificate fingerprint": fmt.Sprintf("SHA-256 %X", sha256.Sum256(cert.Raw)),
		"certificate valid until": cert.NotAfter.UTC().Format(time.RFC3339), "certificate trusted": "verified by a certificate authority",
		"clock": "0s off", "privileges at the root": "9 of 9", "sessions": "1, of which 1 of the user",
	} {
		if got := fact(r, "", name); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, host := range []string{"host esx-1.example.com", "host esx-2.example.com"} {
		if got := fact(r, host, "direct reads"); got != "possible" || fact(r, host, "connection") != "connected" {
			t.Errorf("direct reads of %s: %q", host, got)
		}
	}
	if len(r.Findings) > 0 {
		t.Errorf("found %+v", r.Findings)
	}
}

func TestWhatIsWrongWithASourceIsFound(t *testing.T) {
	days := func(n time.Duration) time.Duration { return n * 24 * time.Hour }
	for name, c := range map[string]struct {
		config func(*vcenter.Config)
		source func(*testing.T, *platform, *vsphere.Config)
		code   string
		tells  string
		blocks bool
	}{
		"a certificate near its end": {source: func(t *testing.T, p *platform, c *vsphere.Config) {
			c.Now = func() time.Time { return certificate(t, p).NotAfter.Add(-days(10) - time.Hour) }
		}, code: "vsphere-certificate-expires", tells: "in 10 days"},
		"a certificate past its end": {source: func(t *testing.T, p *platform, c *vsphere.Config) {
			c.Now = func() time.Time { return certificate(t, p).NotAfter.Add(time.Hour) }
		}, code: "vsphere-certificate-expires", tells: "has expired"},
		"a clock that is off": {source: func(_ *testing.T, _ *platform, c *vsphere.Config) {
			c.Now = func() time.Time { return time.Now().Add(-5 * time.Minute) }
		}, code: "vsphere-clock-offset", tells: "5m0s apart"},
		"hosts that cannot be reached": {config: func(c *vcenter.Config) { c.NoHostListeners = true },
			code: "vsphere-hosts-not-reached", tells: "2 of 2 hosts cannot be read from directly"},
		"tickets that are refused": {config: func(c *vcenter.Config) { c.Tickets = vcenter.TicketsNotSupported },
			code: "vsphere-hosts-not-reached", tells: "2 of 2"},
		"privileges on parts only": {config: func(c *vcenter.Config) { c.Denied = []string{"VApp.Export"} },
			code: "vsphere-privileges-not-global", tells: "does not have VApp.Export on the whole inventory"},
		"the free license": {config: func(c *vcenter.Config) { c.Standalone, c.FreeLicense = true, true },
			code: vsphere.LicenseRestricted.Code, tells: "takes no snapshots", blocks: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlatform(t, func(v *vcenter.Config) {
				if c.config != nil {
					c.config(v)
				}
			})
			config := p.config()
			if c.source != nil {
				c.source(t, p, &config)
			}
			s, _ := p.source(t, config)
			r, err := s.CheckSource(t.Context())
			must(t, err)
			f := finding(r, c.code)
			if f == nil || f.Blocks != c.blocks || !strings.Contains(f.What, c.tells) || f.Subject == "" || f.Hint == "" {
				t.Errorf("found %+v", r.Findings)
			}
		})
	}
}

func TestAPinnedCertificateIsToldAsSuch(t *testing.T) {
	p := newPlatform(t)
	c := p.config()
	c.TLS = &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if sha256.Sum256(s.PeerCertificates[0].Raw) != sha256.Sum256(certificate(t, p).Raw) {
			return errors.New("another certificate")
		}
		return nil
	}}
	s, _ := p.source(t, c)
	r, err := s.CheckSource(t.Context())
	must(t, err)
	if got := fact(r, "", "certificate trusted"); got != "by its fingerprint, as configured" {
		t.Errorf("trusted %q", got)
	}
}
