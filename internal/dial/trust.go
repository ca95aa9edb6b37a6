package dial

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Fingerprint returns the certificate's SHA-256 as people compare it: upper
// case hex, a colon between bytes. Settings.Fingerprint takes this form.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// tlsConfig is what verifies destinations. It is cloned by whoever uses it.
func (s Settings) tlsConfig() (*tls.Config, error) {
	roots, err := rootsOf(s.CA, s.OnlyCA)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if s.Fingerprint == "" {
		return cfg, nil
	}
	pin, err := parseFingerprint(s.Fingerprint)
	if err != nil {
		return nil, err
	}
	// The pin takes the place of the chain's verification, which is switched
	// off here and nowhere else.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(state tls.ConnectionState) error { return checkPin(pin, state) }
	return cfg, nil
}

// errPin is a pinned fingerprint that does not match.
var errPin = errors.New("the fingerprint differs from the pinned one")

// checkPin runs on resumed sessions too, unlike VerifyPeerCertificate.
func checkPin(pin [sha256.Size]byte, state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errPin
	}
	if sha256.Sum256(state.PeerCertificates[0].Raw) == pin {
		return nil
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: errPin}
}

// parseFingerprint reads a SHA-256 in hex as the usual tools print it.
func parseFingerprint(text string) (pin [sha256.Size]byte, err error) {
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune(": -", r) {
			return -1
		}
		return r
	}, strings.TrimSpace(text))
	raw, err := hex.DecodeString(digits)
	switch {
	case err != nil:
		return pin, FingerprintInvalid.New(err, "certificate fingerprint")
	case len(raw) == 20:
		return pin, FingerprintInvalid.New(errors.New("it is a SHA-1 fingerprint"), "certificate fingerprint")
	case len(raw) != len(pin):
		return pin, FingerprintInvalid.New(fmt.Errorf("it has %d bytes, not %d", len(raw), len(pin)), "certificate fingerprint")
	}
	copy(pin[:], raw)
	return pin, nil
}

// rootsOf returns the pool of trusted roots; nil stands for the system's.
func rootsOf(ca []byte, only bool) (*x509.CertPool, error) {
	if len(bytes.TrimSpace(ca)) == 0 {
		if only {
			return nil, CAInvalid.New(nil, "only the operator's CA is to be trusted, and there is none")
		}
		return nil, nil
	}
	certs, err := parseCA(ca)
	if err != nil {
		return nil, CAInvalid.New(err, "CA certificates")
	}
	pool := x509.NewCertPool()
	if !only {
		if pool, err = x509.SystemCertPool(); err != nil {
			return nil, CAInvalid.New(err, "read the system's certificates")
		}
	}
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

// parseCA insists on every block: a certificate that is silently left out is
// found missing much later, as an untrusted server.
func parseCA(text []byte) ([]*x509.Certificate, error) {
	begun := bytes.Count(text, []byte("-----BEGIN "))
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a %q among them", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no PEM certificate")
	}
	if len(certs) != begun {
		return nil, fmt.Errorf("%d certificates begin, but only %d are whole", begun, len(certs))
	}
	return certs, nil
}
