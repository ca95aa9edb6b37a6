package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"skylift/internal/problem"
)

// classify makes a problem of an error met while talking to peer. Problems
// stay as they are; so does what the caller's own context brought about, and
// what has no kind here.
func classify(ctx context.Context, err error, peer string) error {
	if err == nil || ctx.Err() != nil || problem.Of(err) != nil {
		return err
	}
	if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
		return badCertificate(bad, err, peer)
	}
	kind := handshakeKind(err)
	switch {
	case kind != nil:
		return kind.New(err, "TLS with %s", peer)
	case timedOut(err):
		return Stalled.New(err, "wait for %s", peer)
	case isLost(err):
		return Lost.New(err, "talk to %s", peer)
	}
	return err
}

// badCertificate shows whose certificate was seen: the issuer gives a
// TLS-inspecting proxy away.
func badCertificate(bad *tls.CertificateVerificationError, err error, peer string) error {
	kind := Untrusted
	invalid := x509.CertificateInvalidError{}
	switch {
	case errors.Is(bad.Err, errPin):
		kind = FingerprintMismatch
	case errors.As(bad.Err, new(x509.HostnameError)):
		kind = WrongName
	case errors.As(bad.Err, &invalid) && invalid.Reason == x509.Expired:
		kind = Expired
	}
	seen := "no certificate"
	if len(bad.UnverifiedCertificates) > 0 {
		leaf := bad.UnverifiedCertificates[0]
		seen = fmt.Sprintf("its certificate is of %.200q, issued by %.200q, SHA-256 %s", leaf.Subject, leaf.Issuer, Fingerprint(leaf))
	}
	return kind.New(err, "TLS with %s (%s)", peer, seen)
}

// handshakeKind recognizes other failures of TLS, or returns nil. crypto/tls
// has no types for alerts and versions; the texts are tested against it.
func handshakeKind(err error) *problem.Kind {
	text := err.Error()
	switch {
	case strings.Contains(text, "tls: protocol version not supported"),
		strings.Contains(text, "tls: server selected unsupported protocol version"):
		return OldTLS
	case errors.Is(err, http.ErrSchemeMismatch),
		errors.As(err, new(tls.RecordHeaderError)),
		strings.Contains(text, "tls: ") && !timedOut(err):
		return HandshakeFailed
	}
	return nil
}

// isLost recognizes a connection cut by the other side or on the way.
func isLost(err error) bool {
	for _, cut := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, cut) {
			return true
		}
	}
	// An HTTP/2 connection whose ping was not answered; it has no exported type.
	return strings.Contains(err.Error(), "http2: client connection lost")
}
