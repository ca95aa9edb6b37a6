package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/sirupsen/logrus"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/secret"
	"skylift/link/linkv1"
)

// fakes stands for catalog, runs and enrolment.
type fakes struct {
	Catalog
	Runs
	Enrolment
	mu       sync.Mutex
	refresh  bool
	due      []replication.Assignment
	asks     []catalog.Ask
	released []string
	failed   []replication.Failure
	touched  int
	revoked  bool
}

func (f *fakes) Touch(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.touched++
	return nil
}

func (f *fakes) RefreshWanted(context.Context, string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := f.refresh
	f.refresh = false
	return wanted, nil
}

func (f *fakes) RefreshFailed(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh = true
	return nil
}

func (f *fakes) TakeAsk(context.Context, string) (catalog.Ask, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asks) == 0 {
		return catalog.Ask{}, false, nil
	}
	a := f.asks[0]
	f.asks = f.asks[1:]
	return a, true, nil
}

func (f *fakes) ReturnAsk(_ context.Context, a catalog.Ask) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks = append(f.asks, a)
	return nil
}

func (f *fakes) Claim(context.Context, string, int) (replication.Assignment, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.due) == 0 {
		return replication.Assignment{}, false, nil
	}
	a := f.due[0]
	f.due = f.due[1:]
	return a, true, nil
}

func (f *fakes) Release(ctx context.Context, l replication.Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.released = append(f.released, l.Run)
	return nil
}

func (f *fakes) Fail(_ context.Context, _ replication.Lease, failure replication.Failure) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = append(f.failed, failure)
	return nil
}

func (f *fakes) PublicKey(context.Context, string) (ed25519.PublicKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.revoked {
		return nil, access.ConnectorRevoked.New(nil, "look up")
	}
	return nil, nil
}

func (f *fakes) set(change func(f *fakes)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func assignment(run string) replication.Assignment {
	return replication.Assignment{Lease: replication.Lease{Job: "j", Run: run, Owner: "c-1", Epoch: 1, TTL: time.Minute}}
}

func serviceOn(t *testing.T, f *fakes, credentials CredentialSource) *Service {
	log := logrus.New()
	log.SetOutput(t.Output())
	return New(f, f, f, Options{Installation: "i1", Credentials: credentials, Log: log})
}

// stream is a command stream under way.
type stream struct {
	mu     sync.Mutex
	kinds  []string
	at     []time.Duration
	broken bool
	ended  chan error
}

func open(ctx context.Context, s *Service) *stream {
	st := &stream{ended: make(chan error, 1)}
	begun := time.Now()
	go func() {
		st.ended <- s.serve(ctx, "c-1", 2, func(c *linkv1.Command) error {
			st.mu.Lock()
			defer st.mu.Unlock()
			if st.broken {
				return errors.New("broken pipe")
			}
			kind := "heartbeat"
			switch {
			case c.GetReplicate() != nil:
				kind = c.GetReplicate().Lease.Run
			case c.GetRefreshInventory() != nil:
				kind = "refresh"
			case c.GetAsk() != nil:
				kind = c.GetAsk().Id
			}
			st.kinds, st.at = append(st.kinds, kind), append(st.at, time.Since(begun))
			return nil
		})
	}()
	return st
}

func (st *stream) sent() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.kinds)
}

func TestIdleStreamBeatsEveryTwentySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fakes{}
		st := open(ctx, serviceOn(t, f, nil))
		time.Sleep(61 * time.Second)
		cancel()
		if err := <-st.ended; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if want := []time.Duration{0, Heartbeat, 2 * Heartbeat, 3 * Heartbeat}; !slices.Equal(st.at, want) {
			t.Errorf("heartbeats at %v", st.at)
		}
		if f.touched != 4 {
			t.Errorf("the connector was noted as alive %d times", f.touched)
		}
	})
}

func TestStreamHandsOutWorkWhenWokenAndWhenNobodyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fakes{}
		s := serviceOn(t, f, nil)
		st := open(ctx, s)
		synctest.Wait()
		f.set(func(f *fakes) {
			f.due, f.refresh = []replication.Assignment{assignment("r-1"), assignment("r-2")}, true
			f.asks = []catalog.Ask{{ID: "ask-1"}}
		})
		s.Wake()
		synctest.Wait()
		if got := st.sent(); !slices.Equal(got, []string{"heartbeat", "refresh", "ask-1", "r-1", "r-2"}) {
			t.Errorf("at once: %v", got)
		}
		f.set(func(f *fakes) { f.due = []replication.Assignment{assignment("r-3")} })
		time.Sleep(look)
		synctest.Wait()
		if got := st.sent(); got[len(got)-1] != "r-3" {
			t.Errorf("after %s: %v", look, got)
		}
		cancel()
		<-st.ended
	})
}

func TestRunThatCannotBeDeliveredIsGivenBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fakes{}
		s := serviceOn(t, f, nil)
		st := open(ctx, s)
		synctest.Wait()
		st.mu.Lock()
		st.broken = true
		st.mu.Unlock()
		cancel() // a connector that went: its context has ended too
		f.set(func(f *fakes) { f.due = []replication.Assignment{assignment("r-1")} })
		s.Wake()
		<-st.ended
		if len(f.due) == 0 && !slices.Equal(f.released, []string{"r-1"}) {
			t.Errorf("released: %v", f.released)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{due: []replication.Assignment{assignment("r-1")}}
		s := serviceOn(t, f, nil)
		beats := 0
		err := s.serve(t.Context(), "c-1", 1, func(*linkv1.Command) error {
			if beats++; beats == 1 {
				return nil
			}
			return errors.New("broken pipe")
		})
		if err == nil || !slices.Equal(f.released, []string{"r-1"}) {
			t.Errorf("error %v, released %v", err, f.released)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{refresh: true}
		s := serviceOn(t, f, nil)
		beats := 0
		_ = s.serve(t.Context(), "c-1", 1, func(*linkv1.Command) error {
			if beats++; beats == 1 {
				return nil
			}
			return errors.New("broken pipe")
		})
		if !f.refresh {
			t.Error("a refresh that was not delivered is forgotten")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{asks: []catalog.Ask{{ID: "ask-1"}}}
		s := serviceOn(t, f, nil)
		beats := 0
		_ = s.serve(t.Context(), "c-1", 1, func(*linkv1.Command) error {
			if beats++; beats == 1 {
				return nil
			}
			return errors.New("broken pipe")
		})
		if len(f.asks) != 1 {
			t.Error("an ask that was not delivered is forgotten")
		}
	})
}

func TestRevokedConnectorsStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		st := open(t.Context(), serviceOn(t, f, nil))
		synctest.Wait()
		f.set(func(f *fakes) { f.revoked = true })
		if err := <-st.ended; connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("error %v", err)
		}
	})
}

func TestCloseEndsStreamsAndPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serviceOn(t, &fakes{}, nil)
		st := open(t.Context(), s)
		polled := make(chan error, 1)
		go func() {
			_, err := s.poll(t.Context(), "c-1", 1, time.Minute)
			polled <- err
		}()
		synctest.Wait()
		s.Close()
		s.Close()
		if err := errors.Join(<-st.ended, <-polled); err != nil {
			t.Error(err)
		}
	})
}

func TestPollAnswersWithOneCommandOrNoneInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		s := serviceOn(t, f, nil)
		begun := time.Now()
		if c, err := s.poll(t.Context(), "c-1", 1, 30*time.Second); c != nil || err != nil || time.Since(begun) != 30*time.Second {
			t.Errorf("command %v, error %v after %s", c, err, time.Since(begun))
		}
		begun = time.Now()
		if _, err := s.poll(t.Context(), "c-1", 1, time.Hour); err != nil || time.Since(begun) != maxWait {
			t.Errorf("error %v after %s", err, time.Since(begun))
		}
		answer := make(chan *linkv1.Command, 1)
		go func() {
			c, _ := s.poll(t.Context(), "c-1", 1, time.Minute)
			answer <- c
		}()
		synctest.Wait()
		f.set(func(f *fakes) { f.due = []replication.Assignment{assignment("r-1"), assignment("r-2")} })
		s.Wake()
		if c := <-answer; c.GetReplicate().GetLease().GetRun() != "r-1" || len(f.due) != 1 {
			t.Errorf("command %v", c)
		}
	})
}

type credentialFunc func(job, run string) (Credentials, error)

func (f credentialFunc) Credentials(_ context.Context, job, run string) (Credentials, error) {
	return f(job, run)
}

func TestRunWithoutCredentialsWaitsAndTheNextOneGoes(t *testing.T) {
	f := &fakes{due: []replication.Assignment{assignment("r-1"), assignment("r-2")}}
	s := serviceOn(t, f, credentialFunc(func(_, run string) (Credentials, error) {
		if run == "r-1" {
			return Credentials{}, errors.New("access denied")
		}
		return Credentials{AccessKeyID: "ASIA", SecretKey: secret.New("s"), SessionToken: secret.New("t")}, nil
	}))
	c, _, err := s.next(t.Context(), "c-1", 1)
	if err != nil || c.GetReplicate().Lease.Run != "r-2" {
		t.Fatalf("command %v, error %v", c, err)
	}
	if got := c.GetReplicate().Staging.Credentials; got.SecretAccessKey != "s" || got.SessionToken != "t" || got.Expires != 0 {
		t.Errorf("credentials %v", got)
	}
	if len(f.failed) != 1 || !f.failed[0].Retry || f.failed[0].Code != CredentialsFailed.Code {
		t.Errorf("failed: %+v", f.failed)
	}
}

func TestCredentialsAreReplacedBeforeTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := serviceOn(t, &fakes{}, credentialFunc(func(job, run string) (Credentials, error) {
			asked++
			return Credentials{AccessKeyID: "ASIA", Expires: time.Now().Add(time.Hour)}, nil
		}))
		l := replication.Lease{Job: "j", Run: "r-1", Epoch: 1}
		given := func() bool {
			c, err := s.credentials(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			return c != nil
		}
		if !given() || given() {
			t.Error("not given once at first")
		}
		time.Sleep(40 * time.Minute)
		if given() {
			t.Error("given again too early")
		}
		time.Sleep(time.Second)
		if !given() {
			t.Error("not given again before their end")
		}
		l.Epoch++
		if !given() {
			t.Error("the next holder gets none")
		}
		time.Sleep(2 * time.Hour)
		s.given.note(replication.Lease{Run: "r-2"}, time.Time{}, time.Now())
		if len(s.given.leases) != 1 {
			t.Errorf("%d leases are remembered", len(s.given.leases))
		}
	})
}

var (
	_ Catalog   = (*catalog.Service)(nil)
	_ Runs      = (*replication.Service)(nil)
	_ Enrolment = (*access.Enrolment)(nil)
)
