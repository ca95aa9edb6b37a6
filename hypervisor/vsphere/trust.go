package vsphere

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
)

// hostClients are HTTP clients for ESXi hosts that vSphere sends us to.
type hostClients struct {
	config      Config
	connections int

	mu    sync.Mutex
	known map[told]*http.Client
}

// told is what vSphere says of a host: which of its certificate's hashes
// depends on the call.
type told struct{ host, thumbprint string }

func newHostClients(c Config, connections int) *hostClients {
	return &hostClients{config: c, connections: connections, known: map[told]*http.Client{}}
}

// hostClient returns the HTTP client for a host ("name" or "name:port") that
// vSphere itself has named. The host's certificate is trusted when its SHA-1
// or SHA-256 is the thumbprint that vSphere told with the name, over a session
// whose other side was verified, or when the certificate authorities verify
// it. A pin of vCenter's certificate says nothing about its hosts. Where the
// host is the one that the session is with, the client is the session's own.
//
// The client belongs to the source, keeps the host's cookies for the host, and
// follows no redirect.
func (s *Source) hostClient(host string, thumbprint string) (*http.Client, error) {
	if withPort(host) == withPort(s.session.soap.URL().Host) {
		return s.session.web, nil
	}
	return s.hosts.client(withPort(host), thumbprint)
}

// withPort completes a host with the port of HTTPS.
func withPort(host string) string {
	u := url.URL{Host: host}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), cmp.Or(u.Port(), "443"))
}

func (h *hostClients) client(host, thumbprint string) (*http.Client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.known[told{host, thumbprint}]; c != nil {
		return c, nil
	}
	transport, err := h.transport(host, thumbprint)
	if err != nil {
		return nil, err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	c := &http.Client{Transport: transport, Jar: jar, CheckRedirect: noRedirect}
	h.known[told{host, thumbprint}] = c
	return c, nil
}

func (h *hostClients) transport(host, thumbprint string) (*http.Transport, error) {
	c := h.config
	c.TLS, c.Customize = &tls.Config{MinVersion: tls.VersionTLS12}, c.CustomizeHost
	if h.config.TLS != nil {
		c.TLS.RootCAs = h.config.TLS.RootCAs
	}
	t := newTransport(c, h.connections)
	if thumbprint == "" {
		return t, nil
	}
	sum, err := parseThumbprint(thumbprint)
	if err != nil {
		return nil, fmt.Errorf("the thumbprint of host %s: %w", host, err)
	}
	trust := t.TLSClientConfig.Clone()
	if trust == nil {
		trust = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	check := hostCheck{sum: sum, roots: trust.RootCAs, name: (&url.URL{Host: host}).Hostname(), further: trust.VerifyConnection}
	// VerifyConnection, unlike VerifyPeerCertificate, runs on resumed
	// connections too. It takes the place of what is switched off here.
	trust.InsecureSkipVerify, trust.VerifyConnection = true, check.verify
	t.TLSClientConfig = trust
	return t, nil
}

// close ends connections that nobody uses.
func (h *hostClients) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.known {
		c.CloseIdleConnections()
	}
}

// hostCheck verifies a host by what vSphere told, or by the authorities.
type hostCheck struct {
	sum     []byte // SHA-1 or SHA-256 of the certificate
	roots   *x509.CertPool
	name    string                          // of the host; tls.ConnectionState has none for an address
	further func(tls.ConnectionState) error // may be nil
}

func (c hostCheck) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the host shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	if !isThumbprint(c.sum, leaf) {
		options := x509.VerifyOptions{Roots: c.roots, DNSName: c.name, Intermediates: x509.NewCertPool()}
		for _, further := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(further)
		}
		if _, err := leaf.Verify(options); err != nil {
			return &tls.CertificateVerificationError{
				UnverifiedCertificates: state.PeerCertificates,
				Err:                    fmt.Errorf("its thumbprint is not the one that vSphere told, and no trusted authority vouches for it: %w", err),
			}
		}
	}
	if c.further != nil {
		return c.further(state)
	}
	return nil
}

// isThumbprint compares with the hash that has the thumbprint's length. SHA-1
// is what vSphere tells up to version 8; nobody can make a certificate for a
// given SHA-1, which is all that is asked of it here.
func isThumbprint(sum []byte, cert *x509.Certificate) bool {
	if len(sum) == sha1.Size {
		return [sha1.Size]byte(sum) == sha1.Sum(cert.Raw)
	}
	return [sha256.Size]byte(sum) == sha256.Sum256(cert.Raw)
}

// parseThumbprint reads what vSphere writes as "69:21:3F:...".
func parseThumbprint(text string) ([]byte, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), ":", ""))
	if err != nil || len(raw) != sha1.Size && len(raw) != sha256.Size {
		return nil, fmt.Errorf("%q is neither a SHA-1 nor a SHA-256", text)
	}
	return raw, nil
}
