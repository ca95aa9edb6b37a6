package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	"skylift/internal/secret"
)

// Config is what a source needs to know.
type Config struct {
	// URL is the address of the vCenter or ESXi host; "https" and "/sdk" may
	// be left out.
	URL      string
	User     string
	Password secret.Text
	// Installation is carried in the names of snapshots: 1 to 32 letters and digits.
	Installation string
	// TLS decides whom to trust; pinning belongs in its VerifyConnection.
	// Nil trusts the system's certificate authorities.
	TLS *tls.Config
	// Proxy tells the proxy of a request; nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Customize, when set, has the last word on the HTTP transports: how they dial, say.
	Customize func(*http.Transport)
	// CustomizeHost does the same for connections to ESXi hosts that vCenter
	// sends us to. The authorities of the transport's TLSClientConfig are
	// trusted besides what vCenter tells of a host; a pin of vCenter's
	// certificate does not belong there.
	CustomizeHost func(*http.Transport)
	// NBD is the customer's own NBD server, for disks that cannot be had otherwise.
	NBD    NBD
	Log    logrus.FieldLogger
	Limits Limits
	// Now is the clock for what is remembered; nil for the system's.
	Now func() time.Time
}

// Limits bound what the source asks of vSphere. Zero values get the defaults
// that the comments name.
type Limits struct {
	Snapshots int // 15 snapshots in the making or removal at once
	Disks     int // 32 disks read at once
	HostDisks int // 8 disks read at once of one host: its network file copy buffers hold no more
	// DatastoreDisks is how many disks are read at once of one datastore: 16.
	DatastoreDisks int
	// DatastoreSnapshots is how many snapshots of ours one datastore holds at once: 15.
	DatastoreSnapshots int
	Connections        int           // 16 HTTPS connections to the datastore files of vCenter, and of each host: they have few HTTP sessions
	Quiesce            time.Duration // 60 s for the guest to come to rest, when that is preferred; five times as long when it is required
	Task               time.Duration // 15 min for a task to end; consolidation gets four times as long
	Older              time.Duration // 15 min for an earlier snapshot of ours to be removed before a new one
	Undo               time.Duration // 60 s to remove what a failed or canceled creation left
	Idle               time.Duration // 60 s without a byte end a connection
	// ExportIdle is how long an exported disk's stream may pause: 15 min. A host
	// sends nothing while it reads zeros, and reads hundreds of GiB in that time.
	ExportIdle time.Duration
	// ExportPatience is how long the stream may wait for us: 2 min. VMware says
	// nothing of how long a host bears that; a lease lasts 5 min without a sign.
	ExportPatience time.Duration
	// Latency is how much later than at its best a datastore may answer before
	// it is asked for less at a time: 20 ms; below 0: no matter.
	Latency     time.Duration
	KeepAlive   time.Duration // 5 min between signs of life: vSphere ends sessions that idle for 30
	FreePercent int           // 5 % of a datastore must be free before a snapshot is taken; below 0: no matter
}

func (l Limits) withDefaults() Limits {
	set := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	count := func(v *int, n int) {
		if *v <= 0 {
			*v = n
		}
	}
	count(&l.Snapshots, 15)
	count(&l.Disks, 32)
	count(&l.HostDisks, 8)
	count(&l.DatastoreDisks, 16)
	count(&l.DatastoreSnapshots, 15)
	count(&l.Connections, 16)
	if l.FreePercent == 0 {
		l.FreePercent = 5
	}
	set(&l.Quiesce, time.Minute)
	set(&l.Task, 15*time.Minute)
	set(&l.Older, 15*time.Minute)
	set(&l.Undo, time.Minute)
	set(&l.Idle, time.Minute)
	set(&l.ExportIdle, 15*time.Minute)
	set(&l.ExportPatience, 2*time.Minute)
	if l.Latency == 0 {
		l.Latency = 20 * time.Millisecond
	}
	set(&l.KeepAlive, 5*time.Minute)
	return l
}

// Source is a vCenter or a standalone ESXi host.
type Source struct {
	prefix  string // of our snapshots' names
	limits  Limits
	log     logrus.FieldLogger
	session *session
	hosts   *hostClients
	exports *exports      // nil without an NBD server
	slots   chan struct{} // requests at once for datastore files through vCenter
	blocks  sync.Pool     // of *[hypervisor.BlockSize]byte
	plans   sync.Pool     // of *plan

	mu     sync.Mutex
	pacers map[ref]*pacer // by datastore
	esx    map[ref]*host
}

var (
	_ hypervisor.Source          = (*Source)(nil)
	_ hypervisor.TrackingEnabler = (*Source)(nil)
)

// installationForm keeps one installation's prefix from being another's beginning.
var installationForm = regexp.MustCompile(`^[A-Za-z0-9]{1,32}$`)

// New checks the configuration and makes a source. It asks nobody: the first
// call logs in. Close ends it.
func New(c Config) (*Source, error) {
	if !installationForm.MatchString(c.Installation) {
		return nil, fmt.Errorf("installation %q: its ID must be 1 to 32 letters and digits", c.Installation)
	}
	if c.Log == nil {
		return nil, errors.New("a vSphere source needs a log")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	limits := c.Limits.withDefaults()
	exports, err := newExports(c.NBD, limits)
	if err != nil {
		return nil, err
	}
	session, err := newSession(c, limits)
	if err != nil {
		return nil, err
	}
	s := &Source{
		prefix:  "skylift-" + c.Installation + "-",
		limits:  limits,
		log:     c.Log,
		session: session,
		hosts:   newHostClients(c, limits.Connections),
		exports: exports,
		slots:   make(chan struct{}, limits.Connections),
		pacers:  map[ref]*pacer{},
		esx:     map[ref]*host{},
	}
	s.blocks.New = func() any { return new([hypervisor.BlockSize]byte) }
	s.plans.New = func() any { return &plan{window: make([]byte, windowSize)} }
	return s, nil
}

// Close logs out and ends what runs in the background. Calls that are under
// way fail.
func (s *Source) Close(ctx context.Context) error {
	defer s.hosts.close()
	return s.session.close(ctx)
}

// Properties tells how to treat a vSphere source.
func (s *Source) Properties() hypervisor.Properties {
	return hypervisor.Properties{
		Platform:      "vsphere",
		SnapshotLimit: s.limits.Snapshots,
		DiskLimit:     s.limits.Disks,
		Tracking:      true,
	}
}

// Release has nothing to do: change tracking needs nothing to stay.
func (s *Source) Release(context.Context, hypervisor.Anchor) error { return nil }
