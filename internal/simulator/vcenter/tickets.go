package vcenter

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ticketCookie is the cookie that brings a ticket, from VMware's description of
// GenericServiceTicket.
const ticketCookie = "vmware_cgi_ticket"

// Tickets is what hosts and vCenter make of service tickets.
type Tickets int

// How service tickets are treated. VMware's API reference: a ticket is for one
// use, and only for the request that it was acquired for.
const (
	TicketsOnce         Tickets = iota // as documented
	TicketsOpenSessions                // and the host's answer sets a session cookie for further files of the host
	TicketsNotSupported                // AcquireGenericServiceTicket fails: NotSupported
	TicketsNoPermission                // AcquireGenericServiceTicket fails: NoPermission
)

// tickets are those that were given out and not yet used.
type tickets struct {
	mu       sync.Mutex
	how      Tickets
	open     map[string]ticket
	sessions map[string]*Host // opened by tickets
}

// ticket lets one request through. Hosts look at the path and the query only:
// they cannot know by what name and port they were reached.
type ticket struct {
	host    *Host
	method  string // GET, or empty for any
	uri     string
	expires time.Time
}

// SetTickets changes how service tickets are treated from now on.
func (s *Server) SetTickets(how Tickets) {
	s.tickets.mu.Lock()
	defer s.tickets.mu.Unlock()
	s.tickets.how = how
}

// sessionManager gives out service tickets, which govmomi's does not mean.
type sessionManager struct {
	*simulator.SessionManager
	s *Server
}

// AcquireGenericServiceTicket gives a ticket for one HTTP request to a host.
func (m *sessionManager) AcquireGenericServiceTicket(_ *simulator.Context, req *types.AcquireGenericServiceTicket) soap.HasFault {
	body := &methods.AcquireGenericServiceTicketBody{}
	t, err := m.s.issue(req)
	if err != nil {
		f := asSOAP(err)
		body.Fault_ = simulator.Fault(f.Message, f.Fault)
		return body
	}
	body.Res = &types.AcquireGenericServiceTicketResponse{Returnval: *t}
	return body
}

// issue makes a ticket. The caller holds world.
func (s *Server) issue(req *types.AcquireGenericServiceTicket) (*types.SessionManagerGenericServiceTicket, error) {
	spec, ok := req.Spec.(*types.SessionManagerHttpServiceRequestSpec)
	if !ok {
		return nil, SOAPFault{&types.NotSupported{}, s.refuse("AcquireGenericServiceTicket for %T: only HTTP requests are modeled", req.Spec)}
	}
	u, err := url.Parse(spec.Url)
	if err != nil || u.Hostname() == "" {
		return nil, invalid("spec.url", "The URL %q of a ticket names no host.", spec.Url)
	}
	method := ""
	if spec.Method != "" {
		name, known := strings.CutPrefix(spec.Method, "http")
		if method = strings.ToUpper(name); !known || (method != http.MethodGet && method != http.MethodHead) {
			return nil, invalid("spec.method", "The method %q is not httpGet or httpHead, which alone are modeled.", spec.Method)
		}
	}
	h := s.hostAt(u.Host)
	if h == nil {
		return nil, invalid("spec.url", "The URL %q names none of the hosts.", spec.Url)
	}
	if !h.connected() {
		return nil, SOAPFault{&types.HostNotConnected{}, "The host " + h.obj.Name + " is not connected."}
	}
	s.tickets.mu.Lock()
	defer s.tickets.mu.Unlock()
	switch s.tickets.how {
	case TicketsNotSupported:
		return nil, SOAPFault{&types.NotSupported{}, "Service tickets are not supported."}
	case TicketsNoPermission:
		return nil, noPermission(h.obj.Self, "System.View")
	}
	s.tickets.forget(s.cfg.Now())
	id := newUUID("52")
	s.tickets.open[id] = ticket{h, method, requestURI(u), s.cfg.Now().Add(s.cfg.TicketTimeout)}
	name := h.address
	if name == "" {
		name = h.obj.Name
	}
	return &types.SessionManagerGenericServiceTicket{
		Id: id, HostName: name, SslThumbprint: h.Thumbprint(),
		TicketType: string(types.SessionManagerGenericServiceTicketTicketTypeHostServiceTicket),
	}, nil
}

// hostAt finds a host by the address in a URL: its listener's, its management
// network's, or its name.
func (s *Server) hostAt(address string) *Host {
	name := (&url.URL{Host: address}).Hostname()
	for _, h := range s.places.hosts {
		if address == h.address || name == h.ip || name == h.obj.Name {
			return h
		}
	}
	return nil
}

// forget drops the tickets that have expired. The caller holds mu.
func (t *tickets) forget(now time.Time) {
	for id, o := range t.open {
		if now.After(o.expires) {
			delete(t.open, id)
		}
	}
}

// requestURI is a URL's path and query in one form, however they are escaped.
func requestURI(u *url.URL) string { return u.Path + "?" + u.Query().Encode() }

// ticketed says whether a request to the host brings a ticket that counts, and
// uses it up, or the session that an earlier one opened.
func (h *Host) ticketed(w http.ResponseWriter, r *http.Request) bool {
	t := &h.s.tickets
	t.mu.Lock()
	defer t.mu.Unlock()
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil && t.sessions[cookie.Value] == h {
		return true
	}
	cookie, err := r.Cookie(ticketCookie)
	if err != nil {
		return false
	}
	t.forget(h.s.cfg.Now())
	o, ok := t.open[cookie.Value]
	delete(t.open, cookie.Value) // also one that is brought to the wrong place
	if !ok || o.host != h || o.method != "" && o.method != r.Method || o.uri != requestURI(r.URL) {
		return false
	}
	if t.how == TicketsOpenSessions {
		id := newUUID("52")
		t.sessions[id] = h
		http.SetCookie(w, &http.Cookie{Name: soap.SessionCookieName, Value: id, Path: "/", Secure: true, HttpOnly: true})
	}
	return true
}

// ExpireTickets ends all tickets that were not used, and the sessions that used
// ones opened.
func (s *Server) ExpireTickets() {
	s.tickets.mu.Lock()
	defer s.tickets.mu.Unlock()
	clear(s.tickets.open)
	clear(s.tickets.sessions)
}
