package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"

	"skylift/hypervisor/vsphere/nbd"
)

// NBD says where an NBD server of the customer's (nbdkit with its vddk plugin)
// has the frozen disks. The zero value is none.
type NBD struct {
	// URL is nbds://host:port/export, or nbd:// for plain text. The export's
	// name takes these placeholders:
	//
	//	{vm}        managed object ID of the virtual machine: vm-42
	//	{snapshot}  managed object ID of the snapshot: snapshot-57
	//	{file}      path of the frozen disk: [datastore1] web/web.vmdk
	//	{disk}      UUID of the disk
	//	{host}      name of the host that the virtual machine is on
	//
	// {snapshot} and one of {file} and {disk} have to be there: a name without
	// them cannot stand for one frozen disk, and what is read of a live one
	// is worthless.
	URL string
	// TLS decides whom to trust and which certificate to show; nil trusts the
	// system's certificate authorities. It is for nbds:// only.
	TLS *tls.Config
	// Dial opens connections; nil dials directly.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// exports is an NBD server and how its exports are called.
type exports struct {
	nbd.Config // without the export
	name       string
}

var (
	placeholder       = regexp.MustCompile(`\{[^{}]*\}`)
	knownPlaceholders = []string{"{vm}", "{snapshot}", "{file}", "{disk}", "{host}"}
)

// newExports checks the configuration; nil for none.
func newExports(c NBD, limits Limits) (*exports, error) {
	if c.URL == "" {
		return nil, nil
	}
	fail := func(format string, args ...any) (*exports, error) {
		return nil, fmt.Errorf("address of the NBD server: "+format, args...)
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return fail("it is no URL")
	}
	e := &exports{Config: nbd.Config{TLS: c.TLS, Dial: c.Dial, Idle: limits.Idle}, name: strings.TrimPrefix(u.Path, "/")}
	switch {
	case u.Scheme != "nbds" && u.Scheme != "nbd" || u.Hostname() == "":
		return fail("it must begin with nbds:// (or nbd://) and name a host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fail("there is more in it than a host, a port and an export")
	case u.Scheme == "nbd" && c.TLS != nil:
		return fail("nbd:// is plain text, and there are settings for TLS")
	case !strings.Contains(e.name, "{snapshot}") || !strings.Contains(e.name, "{file}") && !strings.Contains(e.name, "{disk}"):
		return fail("its export must name the snapshot and the disk, by {snapshot} and by {file} or {disk}")
	}
	for _, p := range placeholder.FindAllString(e.name, -1) {
		if !strings.Contains(strings.Join(knownPlaceholders, " "), p) {
			return fail("%s is not among the placeholders %s", p, strings.Join(knownPlaceholders, " "))
		}
	}
	if u.Scheme == "nbds" && e.TLS == nil {
		e.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	port := u.Port()
	if port == "" {
		port = "10809"
	}
	e.Address = net.JoinHostPort(u.Hostname(), port)
	return e, nil
}

// of returns how the export of a frozen disk is reached.
func (e *exports) of(ctx context.Context, d *disk) (nbd.Config, error) {
	var host string
	if strings.Contains(e.name, "{host}") {
		var found []mo.HostSystem
		if d.snapshot.host.Value == "" {
			return nbd.Config{}, errors.New("vSphere does not tell on which host the virtual machine is")
		}
		if err := d.snapshot.source.session.retrieve(ctx, []ref{d.snapshot.host}, []string{"name"}, &found); err != nil {
			return nbd.Config{}, fmt.Errorf("find the host's name: %w", explain(err, d.snapshot.host.Value))
		}
		for _, h := range found {
			host = h.Name
		}
	}
	c := e.Config
	c.Export = strings.NewReplacer(
		"{vm}", d.snapshot.machine.Value, "{snapshot}", d.snapshot.ref.Value,
		"{file}", d.file, "{disk}", string(d.id), "{host}", host,
	).Replace(e.name)
	return c, nil
}
