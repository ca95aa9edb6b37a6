package vsphere

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/internal/secret"
)

const (
	callLimit   = 5 * time.Minute // for one SOAP call to be answered
	loginLimit  = time.Minute
	logoutLimit = 10 * time.Second
	// refusedFor is how long a refused password is not tried again, so that
	// calls coming one after the other do not lock the account.
	refusedFor = time.Minute
)

// session is one login that all calls share. It is a soap.RoundTripper.
type session struct {
	user     string
	password secret.Text
	log      logrus.FieldLogger
	now      func() time.Time
	soap     *soap.Client
	web      *http.Client // for datastore files; shares the cookies of soap
	closing  context.Context
	shut     context.CancelFunc
	pulse    time.Duration  // between signs of life
	idle     sync.WaitGroup // the keep-alive

	turn chan struct{} // who holds it may log in

	mu         sync.Mutex
	generation int  // counts logins
	in         bool // logged in, as far as is known
	content    types.ServiceContent
	key        string // vSphere's name for the session
	refused    error
	refusedAt  time.Time
}

func newSession(c Config, limits Limits) (*session, error) {
	u, err := soap.ParseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("address of vSphere: %w", err)
	}
	if u == nil || u.Host == "" {
		return nil, errors.New("address of vSphere: no host in it")
	}
	u.User = nil
	client := soap.NewClient(u, false)
	client.Namespace, client.Version = "urn:"+vim25.Namespace, vim25.Version
	client.UserAgent = "skylift"
	// govmomi's own transport dials without a context and asks the environment
	// for proxies: both are decided here instead.
	client.Client.Transport = newTransport(c, 16)
	closing, cancel := context.WithCancel(context.Background())
	return &session{
		user:     c.User,
		password: c.Password,
		log:      c.Log,
		now:      c.Now,
		soap:     client,
		web: &http.Client{
			Transport:     newTransport(c, limits.Connections),
			Jar:           client.Client.Jar,
			CheckRedirect: noRedirect,
		},
		pulse:   limits.KeepAlive,
		closing: closing,
		shut:    cancel,
		turn:    make(chan struct{}, 1),
	}, nil
}

// RoundTrip makes a call. A call that meets an expired session is made once
// more after a new login; one that only reads is also repeated when the
// network fails, within one budget.
func (s *session) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	ctx, cancel := s.alive(ctx)
	defer cancel()
	budget := newBudget(5, time.Minute)
	renewed := false
	for {
		generation, err := s.ready(ctx)
		if err != nil {
			return err
		}
		err = s.call(ctx, req, res)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return s.ended(ctx)
		case notAuthenticated(err) && !renewed:
			renewed = true
			s.expire(generation)
		case isFault(err) || !onlyReads(req) || isUntrusted(err):
			return err
		case !budget.spend(ctx):
			return Unreachable.New(err, "call %s", callName(req))
		}
		reflect.ValueOf(res).Elem().SetZero() // a repeated call must not see the first answer
	}
}

func (s *session) call(ctx context.Context, req, res soap.HasFault) error {
	limit := callLimit
	if _, waits := req.(*methods.WaitForUpdatesExBody); waits {
		limit = waitFor*time.Second + loginLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := s.soap.RoundTrip(ctx, req, res); err != nil {
		return err
	}
	return unauthenticatedProperties(res)
}

// alive returns a context that also ends with the source.
func (s *session) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.closing, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// ended tells why ctx is over: the caller's reason, or the source was closed.
func (s *session) ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errClosed) {
		return cause
	}
	return ctx.Err()
}

// ready logs in unless that was done, and returns the login's number.
func (s *session) ready(ctx context.Context) (int, error) {
	s.mu.Lock()
	generation, in := s.generation, s.in
	s.mu.Unlock()
	if in {
		return generation, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return 0, s.ended(ctx)
	}
	s.mu.Lock()
	generation, in = s.generation, s.in
	refused := s.refused
	if refused != nil && s.now().Sub(s.refusedAt) >= refusedFor {
		refused = nil
	}
	s.mu.Unlock()
	switch {
	case in: // by whoever had the turn before
		return generation, nil
	case refused != nil:
		return 0, refused
	}
	if err := s.login(ctx); err != nil {
		if ctx.Err() != nil {
			return 0, s.ended(ctx)
		}
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation, nil
}

// login is made by the holder of the turn.
func (s *session) login(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loginLimit)
	defer cancel()
	var content types.ServiceContent
	var current types.UserSession
	for budget := newBudget(4, loginLimit); ; {
		err := func() (err error) {
			if content, err = methods.GetServiceContent(ctx, s.soap); err != nil {
				return err
			}
			if content.SessionManager == nil {
				return errors.New("the server has no session manager")
			}
			res, err := methods.Login(ctx, s.soap, &types.Login{
				This: *content.SessionManager, UserName: s.user, Password: s.password.Reveal(), Locale: "en_US",
			})
			if err == nil {
				current = res.Returnval
			}
			return err
		}()
		switch {
		case err == nil:
		case fault.Is(err, &types.InvalidLogin{}):
			refused := LoginRefused.New(err, "log in to %s as %s", s.soap.URL().Host, s.user)
			s.mu.Lock()
			s.refused, s.refusedAt = refused, s.now()
			s.mu.Unlock()
			return refused
		case isFault(err):
			return explain(err, "logging in to "+s.soap.URL().Host)
		case !isUntrusted(err) && budget.spend(ctx):
			continue
		default:
			return Unreachable.New(err, "log in to %s", s.soap.URL().Host)
		}
		break
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		return errors.Join(errClosed, s.logout(ctx, content))
	}
	s.generation++
	s.in, s.content, s.key, s.refused = true, content, current.Key, nil
	if s.generation == 1 {
		s.idle.Go(s.keepAlive)
	}
	return nil
}

// expire notes that the login of this number is not valid any more.
func (s *session) expire(generation int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in && s.generation == generation {
		s.in = false
		s.log.WithField("source", s.soap.URL().Host).Debug("vSphere session expired, logging in again")
	}
}

// steadily repeats steps that share something which goes with a session (a
// view, a page's token) when a new login came between them.
func (s *session) steadily(steps func() error) error {
	for try := 1; ; try++ {
		before := s.logins()
		err := steps()
		if after := s.logins(); err == nil || before == 0 || before == after || !isFault(err) || try == 3 {
			return err
		}
	}
}

func (s *session) logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// keepAlive asks the time now and then, so that the session does not idle away
// while bytes flow that vSphere does not count as its use.
func (s *session) keepAlive() {
	ticker := time.NewTicker(s.pulse)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := methods.GetCurrentTime(s.closing, s); err != nil && s.closing.Err() == nil {
				s.log.WithError(err).Warn("keeping the vSphere session alive failed")
			}
		case <-s.closing.Done():
			return
		}
	}
}

// services returns vSphere's service content; it logs in first if need be.
func (s *session) services(ctx context.Context) (types.ServiceContent, error) {
	content, _, err := s.identity(ctx)
	return content, err
}

// identity returns the service content and vSphere's name for the session.
func (s *session) identity(ctx context.Context) (types.ServiceContent, string, error) {
	ctx, cancel := s.alive(ctx)
	defer cancel()
	if _, err := s.ready(ctx); err != nil {
		return types.ServiceContent{}, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content, s.key, nil
}

func (s *session) close(ctx context.Context) error {
	s.mu.Lock()
	if s.closing.Err() != nil {
		s.mu.Unlock()
		return nil
	}
	s.shut()
	in, content := s.in, s.content
	s.mu.Unlock()
	s.idle.Wait()
	defer s.soap.Client.CloseIdleConnections()
	defer s.web.CloseIdleConnections()
	if !in {
		return nil
	}
	return s.logout(ctx, content)
}

func (s *session) logout(ctx context.Context, content types.ServiceContent) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	_, err := methods.Logout(ctx, s.soap, &types.Logout{This: *content.SessionManager})
	if err != nil && !notAuthenticated(err) {
		return fmt.Errorf("log out of %s: %w", s.soap.URL().Host, err)
	}
	return nil
}

// base is the address of files next to the API.
func (s *session) base() url.URL {
	u := *s.soap.URL()
	return url.URL{Scheme: u.Scheme, Host: u.Host}
}
