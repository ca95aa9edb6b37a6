package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/internal/problem"
)

const (
	// ticketCookie brings a service ticket: VMware's API reference,
	// SessionManagerGenericServiceTicket.
	ticketCookie = "vmware_cgi_ticket"
	// hostTrial is how long a host may take to answer for the first time.
	// Many networks let nobody but vCenter reach the hosts.
	hostTrial = 5 * time.Second
	// shunFor is how long a host that could not be read from is not tried again.
	shunFor = 5 * time.Minute
	// ticketWorth is how many bytes are worth a ticket. Acquiring one takes a
	// call to vCenter, which could give as many bytes itself.
	ticketWorth = 256 << 10
	// hostDatacenter is the one datacenter of every ESXi host.
	hostDatacenter = "ha-datacenter"
)

// host is an ESXi host that may give files itself, which spares the way
// through vCenter.
type host struct {
	source *Source
	name   string        // by which vCenter knows it
	slots  chan struct{} // requests at once

	mu       sync.Mutex
	address  string // "name:port" that answers
	client   *http.Client
	answered bool // since it was shunned last
	proved   bool // a session opened by a ticket has let a request through
	ticketed bool // sessions do not: each request needs a ticket
	shunned  time.Time
	why      string // it was shunned
}

// host returns what is known of a host; nil where vCenter does not show it.
func (s *Source) host(ctx context.Context, r ref) (*host, error) {
	s.mu.Lock()
	known := s.esx[r]
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	var found []mo.HostSystem
	err := s.session.retrieve(ctx, []ref{r}, []string{"name"}, &found)
	switch {
	case isGone(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the name of host %s: %w", r.Value, explain(err, "host "+r.Value))
	case len(found) == 0 || found[0].Name == "":
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.esx[r] == nil {
		s.esx[r] = &host{source: s, name: found[0].Name, slots: make(chan struct{}, s.limits.Connections)}
	}
	return s.esx[r], nil
}

// direct is one snapshot's way around vCenter. Once given up, it stays so.
type direct struct {
	host   *host
	why    atomic.Pointer[string] // it was given up
	always atomic.Bool            // vCenter does not give the files
}

// directly opens the way to the host, unless it was shunned lately.
func (h *host) directly() *direct {
	d := &direct{host: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	if why := h.why; why != "" && h.source.session.now().Sub(h.shunned) < shunFor {
		d.why.Store(&why)
	}
	return d
}

func (d *direct) usable() bool { return d != nil && d.why.Load() == nil }

// worth reports whether the host should be asked for so many bytes.
func (d *direct) worth(length int64) bool {
	return d.usable() && (length >= ticketWorth || d.always.Load() || d.host.inSession())
}

// insist has everything asked of the host, where vCenter refuses it. It reports
// whether that makes a difference.
func (d *direct) insist() bool { return d.usable() && d.always.CompareAndSwap(false, true) }

// giveUp sends this snapshot's requests through vCenter from now on.
func (d *direct) giveUp(why string) {
	if !d.usable() || !d.why.CompareAndSwap(nil, &why) {
		return
	}
	if h := d.host; h.hasAnswered() {
		h.source.log.WithField("host", h.name).Warnf("disk files are read through vCenter from now on: %s", why)
	}
}

// shun gives it up for other snapshots, too.
func (d *direct) shun(why string) {
	if !d.usable() {
		return
	}
	d.giveUp(why)
	h := d.host
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shunned, h.why, h.answered, h.client = h.source.session.now(), why, false, nil
}

func (h *host) hasAnswered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answered
}

// get asks the host for a range of the file. errDetour tells to ask vCenter;
// other failures may pass.
func (d *direct) get(ctx context.Context, f *frozenFile, turn pass, ranges string, use func(*answer) error) error {
	h, s := d.host, f.source
	leave, err := takeSlot(ctx, h.slots)
	if err != nil {
		return s.session.ended(ctx)
	}
	defer leave()
	q := request{ranges: ranges, first: s.limits.Idle, idle: s.limits.Idle, turn: turn}
	for try, tickets := 1, 0; ; try++ {
		refused, inSession := "", try == 1 && h.session(&q, f.hostURL)
		answered := func(a *answer) error {
			h.heard(inSession, a.StatusCode)
			if refused = refusal(a, ranges); refused != "" {
				return nil
			}
			return use(a)
		}
		if inSession {
			err = q.do(ctx, answered)
		} else {
			tickets++
			err = d.withTicket(ctx, q, f.hostURL, answered)
		}
		var broken *networkError
		switch {
		case err == nil && refused == "":
			return nil
		case ctx.Err() != nil:
			return s.session.ended(ctx)
		case problem.Has(err, ReadRefused): // an answer that is not what was asked for
			d.giveUp(fmt.Sprintf("host %s does not give %s: %v", h.name, f.name, err))
			return errDetour
		case err == nil && (inSession || tickets == 1): // a new ticket may be welcome
			continue
		case err == nil:
			d.giveUp(fmt.Sprintf("host %s does not give %s: %s", h.name, f.name, refused))
			return errDetour
		case isUntrusted(err), errors.Is(err, errIdle), errors.As(err, &broken) && !broken.connected:
			d.shun(fmt.Sprintf("host %s cannot be reached: %v", h.name, err))
			return errDetour
		default:
			return err
		}
	}
}

// refusal is why an answer cannot be used and vCenter's may; empty for one
// that can, and for those that may pass when asked again.
func refusal(a *answer, ranges string) string {
	switch status := a.StatusCode; {
	case ranges == "" && status == http.StatusOK, ranges != "" && status == http.StatusPartialContent,
		status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(a, 300))
	return fmt.Sprintf("HTTP status %s: %q", a.Status, text)
}

// inSession reports that requests need no tickets.
func (h *host) inSession() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proved
}

// session completes the request for the host's address, if an earlier answer
// has opened a session there.
func (h *host) session(q *request, u *url.URL) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil || h.ticketed {
		return false
	}
	at := *u
	at.Host = h.address
	q.client, q.url = h.client, &at
	return len(h.client.Jar.Cookies(&at)) > 0
}

// heard notes what an answer tells of the host.
func (h *host) heard(session bool, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answered = true
	switch {
	case !session:
	case status != http.StatusUnauthorized && status != http.StatusForbidden:
		h.proved = true
	case !h.proved:
		h.ticketed = true
	}
}

// withTicket asks vCenter for a ticket for this request, and makes it.
func (d *direct) withTicket(ctx context.Context, q request, u *url.URL, use func(*answer) error) error {
	h, s := d.host, d.host.source
	spec := *u
	spec.Host = h.name
	ticket, err := s.ticket(ctx, &spec)
	switch {
	case isFault(err):
		d.shun(fmt.Sprintf("vCenter gives no ticket for host %s: %v", h.name, err))
		return errDetour
	case err != nil:
		return err
	}
	if !h.hasAnswered() {
		q.first = min(q.first, hostTrial)
	}
	q.ticket = ticket.Id
	for _, address := range h.addresses(ticket) {
		if withPort(address) == withPort(s.session.soap.URL().Host) {
			d.shun(fmt.Sprintf("vCenter names itself where host %s was asked for", h.name))
			return errDetour
		}
		if q.client, err = s.hostClient(address, thumbprint(ticket)); err != nil {
			d.shun(err.Error())
			return errDetour
		}
		at := *u
		at.Host = address
		q.url = &at
		err = q.do(ctx, func(a *answer) error {
			h.mu.Lock()
			h.address, h.client = address, q.client
			h.mu.Unlock()
			return use(a)
		})
		var broken *networkError
		if !errors.As(err, &broken) || broken.connected || errors.Is(err, errIdle) {
			return err
		}
	}
	return err
}

// ticket acquires the right to make one request to a host.
func (s *Source) ticket(ctx context.Context, u *url.URL) (*types.SessionManagerGenericServiceTicket, error) {
	services, err := s.session.services(ctx)
	if err != nil {
		return nil, err
	}
	res, err := methods.AcquireGenericServiceTicket(ctx, s.session, &types.AcquireGenericServiceTicket{
		This: *services.SessionManager,
		Spec: &types.SessionManagerHttpServiceRequestSpec{Url: u.String(), Method: string(types.SessionManagerHttpServiceRequestSpecMethodHttpGet)},
	})
	if err != nil {
		return nil, err
	}
	return &res.Returnval, nil
}

// addresses are where the host may be found: where it was, where the ticket
// says, and by vCenter's name for it. Hosts without a name of their own call
// themselves localhost.
func (h *host) addresses(t *types.SessionManagerGenericServiceTicket) (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client != nil {
		return []string{h.address}
	}
	if t.HostName != "" && !strings.HasPrefix(strings.ToLower(t.HostName), "localhost") {
		list = append(list, t.HostName)
	}
	if h.name != t.HostName {
		list = append(list, h.name)
	}
	return list
}

// thumbprint is the host's, by the better of the hashes that are told.
func thumbprint(t *types.SessionManagerGenericServiceTicket) string {
	for _, c := range t.CertThumbprintList {
		if strings.EqualFold(strings.ReplaceAll(c.HashAlgorithm, "-", ""), "sha256") {
			return c.Thumbprint
		}
	}
	return t.SslThumbprint
}
