package connector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	"skylift/internal/secret"
	"skylift/link/linkv1/linkv1connect"
	"skylift/staging"
	"skylift/transfer"
)

// Source is a place that servers live in, as the connector reaches it.
type Source struct {
	// ID is stable and derived from the manager's own identity, so that two
	// connectors of one manager report the same source.
	ID   string
	Name string // the manager's address, for people
	hypervisor.Source
}

// OpenStaging gives access to the place that a run is staged in. credentials
// returns the newest that the control plane sent, false if it sent none; the
// store may call it at any time.
type OpenStaging func(ctx context.Context, place StagingPlace, credentials func() (Credentials, bool)) (staging.Store, error)

// StagingPlace is where a run is staged.
type StagingPlace struct {
	Bucket, Prefix, Region string
	Endpoint               string // empty: AWS's own
	PathStyle              bool
	CAPEM                  string // additional roots for the endpoint; may be empty
	ConditionalWrites      bool   // the store was found to honor If-None-Match
}

// Credentials give access to staging.
type Credentials struct {
	AccessKeyID             string
	SecretKey, SessionToken secret.Text
	Expires                 time.Time // zero: never
}

// Config sets up a Connector. The zero value of a duration or count takes its
// default.
type Config struct {
	Identity Identity
	URL      string // of the control plane
	HTTP     *http.Client
	Sources  []Source
	Mover    *transfer.Mover
	Staging  OpenStaging
	Version  string
	// Slots is how many runs are under way at once: 8.
	Slots int
	// ReportEvery is how often a run's progress is reported and its lease
	// renewed, at least: 5 s.
	ReportEvery time.Duration
	// SweepEvery is how often sources are searched for dead snapshots: 1 min.
	SweepEvery time.Duration
	// AbandonedAfter is the age past which a snapshot of ours is removed when
	// the control plane cannot be asked: 7 days.
	AbandonedAfter time.Duration
	// IPAddress and MACAddress are shown to people.
	IPAddress, MACAddress string
	Now                   func() time.Time
	Log                   logrus.FieldLogger
}

// Connector is the running daemon.
type Connector struct {
	Config
	link    linkv1connect.LinkServiceClient
	runs    *runSet
	asks    *asks
	watches map[string]*watch
	// known is closed when the control plane knows the sources; greeted closes it.
	known   chan struct{}
	greeted func()
}

// New makes a Connector; Run starts it.
func New(c Config) (*Connector, error) {
	setDefault(&c.Slots, 8)
	setDefault(&c.ReportEvery, 5*time.Second)
	setDefault(&c.SweepEvery, time.Minute)
	setDefault(&c.AbandonedAfter, 7*24*time.Hour)
	if c.Now == nil {
		c.Now = time.Now
	}
	if len(c.Sources) == 0 {
		return nil, errors.New("the connector has no source; name a vCenter or an ESXi host in its settings")
	}
	n := &Connector{Config: c, link: c.Identity.client(c.HTTP, c.URL, c.Now), runs: newRunSet(), watches: map[string]*watch{}, known: make(chan struct{})}
	n.asks = newAsks(n)
	n.greeted = sync.OnceFunc(func() { close(n.known) })
	for _, s := range c.Sources {
		if n.watches[s.ID] != nil {
			return nil, fmt.Errorf("source %s (%s) is configured twice", s.Name, s.ID)
		}
		n.watches[s.ID] = newWatch(n, s)
	}
	return n, nil
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Run works until ctx ends; then it hands its runs back and returns. Whatever
// fails before is tried again.
func (c *Connector) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { c.takeCommands(ctx) })
	for _, w := range c.watches {
		work.Go(func() { w.run(ctx) })
		work.Go(func() { w.keepClean(ctx) })
	}
	work.Wait()
	c.runs.wait()
	c.asks.wait()
	return nil
}
