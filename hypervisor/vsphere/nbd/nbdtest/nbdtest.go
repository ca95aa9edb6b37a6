// Package nbdtest runs real NBD servers for tests, nbdkit and qemu-nbd, with
// certificates where they are wanted.
package nbdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/internal/need"
)

// Server is a running NBD server.
type Server struct {
	// Address is host:port of the loopback interface.
	Address string
	kill    func()
}

// Kill ends the server at once, as a crash would. It may be called again.
func (s *Server) Kill() { s.kill() }

// Serve runs nbdkit with the arguments, read-only, until the test ends.
func Serve(t testing.TB, args ...string) *Server {
	t.Helper()
	return serve(t, need.Program(t, "nbdkit"), append([]string{"-f", "-r"}, args...))
}

// ServeQEMU does the same with qemu-nbd.
func ServeQEMU(t testing.TB, args ...string) *Server {
	t.Helper()
	return serve(t, need.Program(t, "qemu-nbd"), append([]string{"-r", "-t", "-e", "16"}, args...))
}

// serve gives the program its listening socket as systemd would, so that
// connections succeed from the start.
func serve(t testing.TB, program string, args []string) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// LISTEN_PID has to be the server's own number, which only its shell knows.
	script := `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, program}, args...)...)
	cmd.ExtraFiles = []*os.File{socket}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Logf("%s %s: %s", program, strings.Join(args, " "), said.String())
		}
	})
	return &Server{Address: listener.Addr().String(), kill: kill}
}

// Authority signs certificates.
type Authority struct {
	Pool *x509.CertPool
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one that nobody else trusts.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{Pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key, a.PEM = sign(t, template, template, nil)
	a.Pool.AddCert(a.cert)
	return a
}

// Directory writes what nbdkit's --tls-certificates wants: the authority, and a
// certificate for 127.0.0.1.
func (a *Authority) Directory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	_, key, cert := sign(t, leaf(x509.ExtKeyUsageServerAuth), a.cert, a.key)
	for name, p := range map[string][]byte{"ca-cert.pem": a.PEM, "server-cert.pem": cert, "server-key.pem": keyPEM(t, key)} {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Client returns a client's certificate.
func (a *Authority) Client(t testing.TB) tls.Certificate {
	t.Helper()
	cert, key := a.ClientPEM(t)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// ClientPEM returns a client's certificate and its key.
func (a *Authority) ClientPEM(t testing.TB) (cert, key []byte) {
	t.Helper()
	_, private, cert := sign(t, leaf(x509.ExtKeyUsageClientAuth), a.cert, a.key)
	return cert, keyPEM(t, private)
}

func leaf(usage x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
}

// sign makes a key and a certificate for it; without signer it signs itself.
func sign(t testing.TB, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
