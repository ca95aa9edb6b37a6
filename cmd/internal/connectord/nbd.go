package connectord

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"

	"skylift/config"
	"skylift/hypervisor/vsphere"
	"skylift/internal/dial"
)

// nbdServer says how an NBD server is reached and known. It is dialed like
// everything else; TLS begins later, inside of its protocol.
func nbdServer(n config.NBD, proxy dial.Proxy) (vsphere.NBD, error) {
	if n.URL == "" {
		return vsphere.NBD{}, nil
	}
	fail := func(err error) (vsphere.NBD, error) {
		return vsphere.NBD{}, fmt.Errorf("set up the NBD server: %w", err)
	}
	ca, err := n.CA()
	if err != nil {
		return fail(err)
	}
	var base http.Transport
	t, err := dial.Over(&base, dial.Settings{Proxy: proxy, CA: ca, Fingerprint: n.Fingerprint})
	if err != nil {
		return fail(err)
	}
	server := vsphere.NBD{URL: n.URL, Dial: t.DialContext}
	if strings.HasPrefix(n.URL, "nbd://") {
		return server, nil
	}
	server.TLS = base.TLSClientConfig.Clone()
	if n.CertificateFile != "" {
		pair, err := tls.LoadX509KeyPair(n.CertificateFile, n.KeyFile)
		if err != nil {
			return fail(config.Invalid.New(err, "read the certificate for the NBD server"))
		}
		server.TLS.Certificates = []tls.Certificate{pair}
	}
	return server, nil
}
