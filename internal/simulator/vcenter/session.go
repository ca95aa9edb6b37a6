package vcenter

import (
	"crypto/subtle"
	"net/http"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
)

// sessions are the cookies that Login gave out and that still count.
type sessions struct {
	now   func() time.Time
	idle  time.Duration // after which a session ends; 0: never
	limit int           // of sessions; 0: none

	mu   sync.Mutex
	live map[string]*sessionUse
}

// sessionUse is that of one session, which is idle while none of its requests runs.
type sessionUse struct {
	used    time.Time
	running int
}

func newSessions(c Config) sessions {
	return sessions{now: c.Now, idle: c.SessionTimeout, limit: c.Sessions, live: map[string]*sessionUse{}}
}

func (s *sessions) begin(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[id] = &sessionUse{used: s.now()}
}

// full says whether no more sessions can begin.
func (s *sessions) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.limit > 0 && len(s.live) >= s.limit
}

// expire ends the sessions that were idle too long. The caller holds mu.
func (s *sessions) expire() {
	for id, one := range s.live {
		if s.idle > 0 && one.running == 0 && s.now().Sub(one.used) > s.idle {
			delete(s.live, id)
		}
	}
}

func (s *sessions) alive(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.live[id] != nil
}

func (s *sessions) valid(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	return err == nil && s.alive(cookie.Value)
}

// use keeps the request's session from being idle until done.
func (s *sessions) use(r *http.Request) (done func()) {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	one, ok := s.live[cookie.Value]
	if !ok {
		return func() {}
	}
	one.running++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		one.running--
		one.used = s.now()
	}
}

func (s *sessions) end(r *http.Request) {
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.live, cookie.Value)
	}
}

// ExpireSessions ends all sessions: the next SOAP call of each gets
// NotAuthenticated, the next file request 401. Calls that wait for updates fail
// at once.
func (s *Server) ExpireSessions() {
	s.sessions.mu.Lock()
	clear(s.sessions.live)
	s.sessions.mu.Unlock()
	s.revisions.wake()
}

// cookie is the session that govmomi's simulator is told of: none where it no
// longer counts.
func (s *Server) cookie(ctx *simulator.Context) string {
	if id := simulator.HTTPCookie(ctx); s.sessions.alive(id) {
		return id
	}
	return ""
}

// authorized says whether a file request brings a session or the password.
func (s *Server) authorized(r *http.Request) bool {
	if s.sessions.valid(r) {
		return true
	}
	user, password, ok := r.BasicAuth()
	return ok && user == s.User && subtle.ConstantTimeCompare([]byte(password), []byte(s.Password)) == 1
}

// loginWriter notes the session of an answer to Login before the client sees it.
type loginWriter struct {
	http.ResponseWriter
	sessions *sessions
}

// WriteHeader implements http.ResponseWriter.
func (w *loginWriter) WriteHeader(status int) {
	for _, c := range (&http.Response{Header: w.Header()}).Cookies() {
		if c.Name == soap.SessionCookieName {
			w.sessions.begin(c.Value)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}
