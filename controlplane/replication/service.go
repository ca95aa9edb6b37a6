package replication

import (
	"context"
	"time"

	"skylift/controlplane/catalog"
)

// Catalog is what jobs need to know of servers and connectors. Server answers
// catalog.ServerNotFound for one that is unknown.
type Catalog interface {
	Server(ctx context.Context, id string) (catalog.Server, error)
	Connectors(ctx context.Context, p catalog.Page) ([]catalog.Connector, string, error)
}

// Limits are what runs may cost. The zero value of a field stands for its default.
type Limits struct {
	// Lease is how long a lease lasts from each renewal. Default 1 minute.
	Lease time.Duration
	// Attempts is how many attempts of a run may fail in one phase without
	// its percent getting on. Default 5.
	Attempts int
	// Expiries is how many leases may end likewise without being given back:
	// holders that die. Default 10.
	Expiries int
	// Backoff is the pause after a first failed attempt; it doubles with
	// each further one up to 15 minutes. Default 30 seconds.
	Backoff time.Duration
	// OnDemandPerDay is how many on-demand runs of one job may start within 24
	// hours. Default 96. The SMS service allowed 2.
	OnDemandPerDay int
}

func (l Limits) withDefaults() Limits {
	l.Lease = or(l.Lease, time.Minute)
	l.Attempts = or(l.Attempts, 5)
	l.Expiries = or(l.Expiries, 10)
	l.Backoff = or(l.Backoff, 30*time.Second)
	l.OnDemandPerDay = or(l.OnDemandPerDay, 96)
	return l
}

func or[T comparable](v, otherwise T) T {
	if v == *new(T) {
		return otherwise
	}
	return v
}

const maxBackoff = 15 * time.Minute

// backoff is the pause after the attempt-th failure, counted from 1.
func (l Limits) backoff(attempt int) time.Duration {
	d := l.Backoff
	for ; attempt > 1 && d < maxBackoff; attempt-- {
		d *= 2
	}
	return min(d, maxBackoff)
}

// Service answers for jobs and runs.
type Service struct {
	store   Store
	catalog Catalog
	limits  Limits
	wake    func()
	newID   func(prefix string) string
}

// Options set a Service up.
type Options struct {
	Limits Limits
	// Wake is called, outside of transactions, when connectors or
	// reconcilers may have something to do. May be nil.
	Wake func()
	// NewID makes the IDs of jobs and runs; nil stands for random ones,
	// which is what the format of staging and snapshots' names rely on.
	NewID func(prefix string) string
}

// NewService returns the jobs and runs kept in store.
func NewService(store Store, servers Catalog, o Options) *Service {
	s := &Service{store: store, catalog: servers, limits: o.Limits.withDefaults(), wake: o.Wake, newID: o.NewID}
	if s.wake == nil {
		s.wake = func() {}
	}
	if s.newID == nil {
		s.newID = catalog.NewID
	}
	return s
}

// change runs f in a transaction and wakes those who wait for work when it was kept.
func (s *Service) change(ctx context.Context, f func(tx Tx) error) error {
	if err := s.store.Replicate(ctx, f); err != nil {
		return err
	}
	s.wake()
	return nil
}
