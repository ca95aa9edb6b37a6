package connectord

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"skylift/config"
	"skylift/hypervisor/vsphere/nbd"
	"skylift/hypervisor/vsphere/nbd/nbdtest"
	"skylift/internal/dial"
)

func TestSettingsForAnNBDServerDecideWhomToTrust(t *testing.T) {
	authority, other := nbdtest.NewAuthority(t), nbdtest.NewAuthority(t)
	dir := authority.Directory(t)
	server := nbdtest.Serve(t, "--tls=require", "--tls-verify-peer", "--tls-certificates="+dir, "memory", "1M")
	file := func(name string, p []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, otherCA := filepath.Join(dir, "ca-cert.pem"), file("ca.pem", other.PEM)
	certPEM, keyPEM := authority.ClientPEM(t)
	cert, key := file("client.pem", certPEM), file("client.key", keyPEM)
	theirs, err := os.ReadFile(filepath.Join(dir, "server-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(theirs)
	sum := sha256.Sum256(block.Bytes)
	pin := hex.EncodeToString(sum[:])
	for name, c := range map[string]struct {
		settings config.NBD
		ok       bool
	}{
		"the authority":         {config.NBD{Trust: config.Trust{CAFile: ca}, CertificateFile: cert, KeyFile: key}, true},
		"the fingerprint":       {config.NBD{Trust: config.Trust{Fingerprint: pin}, CertificateFile: cert, KeyFile: key}, true},
		"another authority":     {config.NBD{Trust: config.Trust{CAFile: otherCA}, CertificateFile: cert, KeyFile: key}, false},
		"no certificate of our": {config.NBD{Trust: config.Trust{CAFile: ca}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.settings.URL = "nbds://" + server.Address + "/{snapshot}/{file}"
			n, err := nbdServer(c.settings, dial.Proxy{})
			if err != nil {
				t.Fatal(err)
			}
			client, err := nbd.Connect(t.Context(), nbd.Config{Address: server.Address, TLS: n.TLS, Dial: n.Dial})
			if (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
			if err == nil {
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if _, err := nbdServer(config.NBD{URL: "nbds://x/", CertificateFile: "missing", KeyFile: key}, dial.Proxy{}); err == nil {
		t.Error("a certificate that is missing was taken")
	}
	if n, err := nbdServer(config.NBD{URL: "nbd://x/", Plain: true}, dial.Proxy{}); err != nil || n.TLS != nil || n.Dial == nil {
		t.Errorf("got %+v, %v", n, err)
	}
}
