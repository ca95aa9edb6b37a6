package dial

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"skylift/internal/problem"
)

func certAndKey(t testing.TB, cert tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return append(encode(cert.Leaf), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
}

func TestADestinationIsTrustedByCAOrFingerprint(t *testing.T) {
	d := newDestination(t, nil, nil)
	stranger := newAuthority(t, "a stranger")
	pin := Fingerprint(d.leaf())
	for name, c := range map[string]struct {
		settings Settings
		want     *problem.Kind // nil: trusted
	}{
		"its CA is added":                 {Settings{CA: d.ca.pem}, nil},
		"its CA is the only one":          {Settings{CA: d.ca.pem, OnlyCA: true}, nil},
		"its CA is one of two":            {Settings{CA: append(stranger.pem, d.ca.pem...)}, nil},
		"only the system's roots":         {Settings{}, Untrusted},
		"another CA":                      {Settings{CA: stranger.pem}, Untrusted},
		"its fingerprint":                 {Settings{Fingerprint: pin}, nil},
		"its fingerprint without colons":  {Settings{Fingerprint: strings.ToLower(strings.ReplaceAll(pin, ":", ""))}, nil},
		"its fingerprint over HTTP/2":     {Settings{Fingerprint: pin, HTTP2: true}, nil},
		"another fingerprint":             {Settings{Fingerprint: Fingerprint(stranger.cert)}, FingerprintMismatch},
		"another fingerprint, but its CA": {Settings{Fingerprint: Fingerprint(stranger.cert), CA: d.ca.pem}, FingerprintMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := get(t, c.settings, d.url)
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantProblem(t, err, c.want, hostOf(t, d.url), "the server", "the CA", pin)
			var bad *tls.CertificateVerificationError
			if !errors.As(err, &bad) || !bad.UnverifiedCertificates[0].Equal(d.leaf()) {
				t.Error("the certificate seen is not in the error's chain")
			}
		})
	}
}

func TestWhatKeepsTLSFromTrustIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*x509.Certificate)
		config func(*tls.Config)
		want   *problem.Kind
		words  []string
	}{
		"a certificate for another name": {
			spoil: func(cert *x509.Certificate) { cert.DNSNames, cert.IPAddresses = []string{"other.test"}, nil },
			want:  WrongName,
		},
		"an expired certificate": {
			spoil: func(cert *x509.Certificate) {
				cert.NotBefore, cert.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			},
			want:  Expired,
			words: []string{"is after"},
		},
		"a certificate of tomorrow": {
			spoil: func(cert *x509.Certificate) {
				cert.NotBefore, cert.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
			},
			want:  Expired,
			words: []string{"is before"},
		},
		"TLS 1.1": {
			config: func(cfg *tls.Config) { cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			want:   OldTLS,
		},
		"a demanded client certificate": {
			config: func(cfg *tls.Config) { cfg.ClientAuth, cfg.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 },
			want:   HandshakeFailed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDestination(t, c.spoil, c.config)
			_, err := get(t, Settings{CA: d.ca.pem}, d.url)
			wantProblem(t, err, c.want, append(c.words, hostOf(t, d.url))...)
		})
	}
}

// TestAServerThatPicksAnOldVersionIsNamed answers with a TLS 1.0 ServerHello
// as old servers do, which know no alert for it.
func TestAServerThatPicksAnOldVersionIsNamed(t *testing.T) {
	addr := serve(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		hello := append([]byte{2, 0, 0, 38, 3, 1}, make([]byte, 36)...)
		hello[len(hello)-2] = 0x2f // TLS_RSA_WITH_AES_128_CBC_SHA
		_, _ = conn.Write(append([]byte{22, 3, 1, 0, byte(len(hello))}, hello...))
		_, _ = conn.Read(make([]byte, 4096))
	})
	_, err := get(t, Settings{}, "https://"+addr)
	wantProblem(t, err, OldTLS, addr)
}

func TestAServerWithoutTLSIsNamed(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	_, err := get(t, Settings{}, strings.Replace(plain.URL, "http:", "https:", 1))
	wantProblem(t, err, HandshakeFailed, hostOf(t, plain.URL))

	banner := serve(t, func(conn net.Conn) { _, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")) })
	_, err = get(t, Settings{}, "https://"+banner)
	wantProblem(t, err, HandshakeFailed, banner)
}

// serve handles each connection to the returned address with talk, then closes it.
func serve(t testing.TB, talk func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			talk(conn)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestCAFilesAreTakenWholeOrRefused(t *testing.T) {
	ca := newAuthority(t, "the CA")
	key := certAndKey(t, ca.leaf(t, nil))
	for name, c := range map[string]struct {
		text []byte
		only bool
		want string // in the error; "" is accepted
	}{
		"nothing":                         {nil, false, ""},
		"one certificate":                 {ca.pem, false, ""},
		"two with text between":           {bytes.Join([][]byte{ca.pem, ca.pem}, []byte("subject: somebody\r\n")), false, ""},
		"nothing, though nothing else is": {nil, true, "only the operator's CA"},
		"binary":                          {ca.cert.Raw, false, "no PEM certificate"},
		"a private key besides":           {key, false, `"PRIVATE KEY"`},
		"the second one truncated":        {append(bytes.Clone(ca.pem), ca.pem[:100]...), false, "2 certificates begin, but only 1"},
		"a damaged certificate":           {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw[:50]}), false, "certificate 1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Settings{CA: c.text, OnlyCA: c.only}.Validate()
			if c.want != "" {
				wantProblem(t, err, CAInvalid, c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheSystemsRootsAreKeptUnlessRefused(t *testing.T) {
	ca := newAuthority(t, "the CA")
	alone := x509.NewCertPool()
	besides, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	for only, want := range map[bool]*x509.CertPool{true: alone, false: besides} {
		want.AddCert(ca.cert)
		got, err := rootsOf(ca.pem, only)
		if err != nil || !got.Equal(want) {
			t.Errorf("only the operator's CA %t: the pool is another one, %v", only, err)
		}
	}
}

func TestFingerprintsAreReadAsToolsPrintThem(t *testing.T) {
	const digits = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF"
	for text, want := range map[string]string{
		digits:                     "",
		" " + digits + "\n":        "",
		"01:23-45 67" + digits[8:]: "",
		digits[2:]:                 "31 bytes",
		digits[24:]:                "SHA-1",
		"xy" + digits[2:]:          "invalid byte",
	} {
		pin, err := parseFingerprint(text)
		if want != "" {
			wantProblem(t, err, FingerprintInvalid, want)
		} else if err != nil || pin[0] != 0x01 || pin[31] != 0xef {
			t.Errorf("%q: %x, %v", text, pin, err)
		}
	}
}

func FuzzCA(f *testing.F) {
	f.Add(newAuthority(f, "the CA").pem)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if certs, err := parseCA(text); (err == nil) != (len(certs) > 0) {
			t.Errorf("%d certificates and %v", len(certs), err)
		}
	})
}

func FuzzFingerprint(f *testing.F) {
	f.Add("01:23")
	f.Fuzz(func(t *testing.T, text string) {
		if pin, err := parseFingerprint(text); err == nil {
			again, err := parseFingerprint(strings.ToUpper(text))
			if err != nil || again != pin {
				t.Errorf("%q is read in one case only", text)
			}
		}
	})
}
