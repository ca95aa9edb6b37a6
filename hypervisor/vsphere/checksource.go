package vsphere

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

const (
	// renewalNotice is how long before its end a certificate is reported.
	renewalNotice = 30 * 24 * time.Hour
	// clockTolerance is how far vSphere's clock may be off ours.
	clockTolerance = time.Minute
)

// CheckSource looks at the vCenter or the standalone host itself: what it is
// and what its license permits, its certificate, its clock, what our user may
// do at the root of the inventory, and whether the hosts give files directly.
func (s *Source) CheckSource(ctx context.Context) (hypervisor.Report, error) {
	services, err := s.session.services(ctx)
	if err != nil {
		return hypervisor.Report{}, fmt.Errorf("check the source: %w", err)
	}
	in := &inspection{source: s}
	in.about(services.About)
	for _, look := range []func(context.Context, types.ServiceContent) error{
		in.license, in.certificate, in.clock, in.sessions, in.root, in.hosts,
	} {
		if err := look(ctx, services); err != nil {
			return hypervisor.Report{}, fmt.Errorf("check the source: %w", err)
		}
	}
	return in.Report, nil
}

// standalone reports that the session is with an ESXi host, not a vCenter.
func standalone(a types.AboutInfo) bool { return a.ApiType == "HostAgent" }

func (in *inspection) about(a types.AboutInfo) {
	kind := "vCenter"
	if standalone(a) {
		kind = "standalone ESXi host"
	}
	in.fact("", "kind", "%s", kind)
	in.fact("", "version", "%s", a.FullName)
	in.fact("", "API", "%s %s", a.ApiType, a.ApiVersion)
	in.fact("", "user", "%s", in.source.session.user)
}

// license finds the free edition of ESXi, whose API changes nothing. Who may
// not look at licenses meets the same when it takes a snapshot.
func (in *inspection) license(ctx context.Context, services types.ServiceContent) error {
	if !standalone(services.About) || services.LicenseManager == nil {
		return nil
	}
	var found []mo.LicenseManager
	err := in.source.session.retrieve(ctx, []ref{*services.LicenseManager}, []string{"licenses"}, &found)
	if err != nil || len(found) == 0 {
		return in.unless(ctx, err, "license")
	}
	for _, l := range found[0].Licenses {
		in.fact("", "license", "%s (%s)", l.Name, l.EditionKey)
		if strings.EqualFold(l.EditionKey, "esxBasic") {
			in.find(hypervisor.Finding{
				Code: LicenseRestricted.Code, Blocks: true, Subject: l.Name,
				What: "the host has the free license, with which its API takes no snapshots", Hint: LicenseRestricted.Hint,
			})
		}
	}
	return nil
}

// unless notes what our user may not see, and passes other errors on.
func (in *inspection) unless(ctx context.Context, err error, what string) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case problem.Has(explain(err, what), PermissionDenied) || isFault(err):
		in.fact("", what, "not shown to the user")
		return nil
	}
	return fmt.Errorf("read the %s: %w", what, err)
}

// certificate looks at what the other side shows, and how it came to be trusted.
func (in *inspection) certificate(ctx context.Context, _ types.ServiceContent) error {
	state, err := in.source.session.connection(ctx)
	if err != nil {
		return fmt.Errorf("look at the certificate: %w", err)
	}
	if state == nil || len(state.PeerCertificates) == 0 {
		in.fact("", "certificate", "none")
		return nil
	}
	cert := state.PeerCertificates[0]
	in.fact("", "certificate", "%s, issued by %s", cert.Subject, cert.Issuer)
	in.fact("", "certificate fingerprint", "SHA-256 %X", sha256.Sum256(cert.Raw))
	in.fact("", "certificate valid until", "%s", cert.NotAfter.UTC().Format(time.RFC3339))
	trust := "verified by a certificate authority"
	if len(state.VerifiedChains) == 0 {
		trust = "by its fingerprint, as configured"
	}
	in.fact("", "certificate trusted", "%s", trust)
	left := cert.NotAfter.Sub(in.source.session.now())
	f := hypervisor.Finding{
		Code: "vsphere-certificate-expires", Subject: cert.Subject.String(),
		What: fmt.Sprintf("the certificate expires in %d days", int(left/(24*time.Hour))),
		Hint: "Renew it; where its fingerprint is in the connector's settings, put the new one there",
	}
	if left <= 0 {
		f.What = fmt.Sprintf("the certificate has expired on %s", cert.NotAfter.UTC().Format(time.DateOnly))
	}
	if left < renewalNotice {
		in.find(f)
	}
	return nil
}

// connection makes a request that needs no login, and returns what its TLS
// connection knows of the other side. The path is one that vCenter and ESXi
// both serve, for clients to find out the versions of the API.
func (s *session) connection(ctx context.Context) (*tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, loginLimit)
	defer cancel()
	u := s.base()
	u.Path = "/sdk/vimServiceVersions.xml"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := s.web.Do(req)
	if err != nil {
		return nil, Unreachable.New(err, "ask %s for the versions of its API", u.Host)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	return res.TLS, errors.Join(err, res.Body.Close())
}

// clock compares vSphere's clock with ours, in the middle of the question.
func (in *inspection) clock(ctx context.Context, _ types.ServiceContent) error {
	s := in.source.session
	began := s.now()
	there, err := methods.GetCurrentTime(ctx, s)
	if err != nil {
		return fmt.Errorf("ask for the time: %w", err)
	}
	took := s.now().Sub(began)
	offset := there.Sub(began.Add(took / 2)).Round(time.Second)
	in.fact("", "clock", "%s off the connector's", offset)
	if offset.Abs() > clockTolerance {
		in.find(hypervisor.Finding{
			Code: "vsphere-clock-offset", Subject: s.soap.URL().Host,
			What: fmt.Sprintf("the clocks of vSphere and the connector are %s apart: certificates, tickets and the age of snapshots may be misjudged", offset.Abs()),
			Hint: "Give both the same time servers (NTP)",
		})
	}
	return nil
}

// sessions counts those of our user, of which vSphere allows only so many.
func (in *inspection) sessions(ctx context.Context, services types.ServiceContent) error {
	s := in.source.session
	var found []mo.SessionManager
	err := s.retrieve(ctx, []ref{*services.SessionManager}, []string{"sessionList"}, &found)
	if err != nil || len(found) == 0 {
		return in.unless(ctx, err, "sessions")
	}
	ours := 0
	for _, o := range found[0].SessionList {
		if strings.EqualFold(o.UserName, s.user) {
			ours++
		}
	}
	in.fact("", "sessions", "%d, of which %d of the user", len(found[0].SessionList), ours)
	return nil
}

func (in *inspection) root(ctx context.Context, services types.ServiceContent) error {
	return in.everywhere(ctx, services.RootFolder)
}

// hosts tells which hosts give files themselves.
func (in *inspection) hosts(ctx context.Context, services types.ServiceContent) error {
	if standalone(services.About) {
		in.fact("", "direct reads", "the session is with the host itself")
		return nil
	}
	tried, err := in.source.tryHosts(ctx)
	if err != nil {
		return in.unless(ctx, err, "hosts")
	}
	var closed []string
	for _, h := range tried {
		subject := "host " + h.name
		in.fact(subject, "connection", "%s", h.connection)
		in.fact(subject, "direct reads", "%s", h.verdict())
		if h.why != "" && h.connection == types.HostSystemConnectionStateConnected {
			closed = append(closed, h.name)
		}
	}
	if len(closed) > 0 {
		slices.Sort(closed)
		in.find(hypervisor.Finding{
			Code: "vsphere-hosts-not-reached", Subject: strings.Join(closed, ", "),
			What: fmt.Sprintf("%d of %d hosts cannot be read from directly: disk files on them are read through vCenter, which is slower", len(closed), len(tried)),
			Hint: "Let the connector reach the hosts' port 443 and resolve their names, if the disks should be read faster",
		})
	}
	return nil
}
