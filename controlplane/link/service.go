// Package link is the connectors' service: it enrols them, hands out runs and
// takes back snapshots, seals, results and inventory. It only translates; the
// rules are in the packages catalog, replication and access.
package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/sirupsen/logrus"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/problem"
	"skylift/internal/secret"
	"skylift/link"
	"skylift/link/linkv1/linkv1connect"
)

// Heartbeat is how often a command stream says that it lives.
const Heartbeat = 20 * time.Second

// look is how often a waiting stream looks for work that nobody announced:
// leases and pauses that have ended.
const look = 5 * time.Second

// stagingVersion is the version of the staging format that runs are written in.
const stagingVersion = 1

// VersionRefused is a connector that writes no staging format we read.
var VersionRefused = &problem.Kind{
	Code:  "link-version-refused",
	Title: "the connector and the control plane have no version of the staging format in common",
	Hint:  "Update the older one of the two.",
}

// RequestRefused is a call that makes no sense.
var RequestRefused = &problem.Kind{
	Code:  "link-request-refused",
	Title: "the connector's request is not valid",
	Hint:  "Update the connector; if it is up to date, report this with a support bundle.",
}

// Catalog is what the service needs of the catalog.
type Catalog interface {
	Announce(ctx context.Context, connector string, a catalog.Announcement) error
	Touch(ctx context.Context, connector string) error
	RefreshWanted(ctx context.Context, connector string) (bool, error)
	RefreshFailed(ctx context.Context, connector string) error
	Report(ctx context.Context, connector string, r catalog.Report) error
	TakeAsk(ctx context.Context, connector string) (catalog.Ask, bool, error)
	ReturnAsk(ctx context.Context, a catalog.Ask) error
	Answer(ctx context.Context, connector, id string, r *catalog.Readiness, f *catalog.Failure) error
}

// Runs is what the service needs of the replication runs.
type Runs interface {
	Claim(ctx context.Context, connector string, slots int) (replication.Assignment, bool, error)
	Renew(ctx context.Context, l replication.Lease, p replication.Progress) (replication.Renewal, error)
	Release(ctx context.Context, l replication.Lease) error
	RecordSnapshot(ctx context.Context, l replication.Lease, s replication.Snapshot) error
	Seal(ctx context.Context, l replication.Lease, disks []replication.SealedDisk) error
	Settled(ctx context.Context, l replication.Lease, a *replication.Anchor) error
	Fail(ctx context.Context, l replication.Lease, f replication.Failure) error
	Judge(ctx context.Context, s []replication.Snapshot, a []replication.Anchor) ([]replication.Snapshot, []replication.Anchor, error)
}

// Enrolment takes connectors in and knows their keys.
type Enrolment interface {
	Enrol(ctx context.Context, code secret.Text, key []byte, name, version string) (string, error)
	PublicKey(ctx context.Context, connector string) (ed25519.PublicKey, error)
}

// Options set a Service up.
type Options struct {
	Installation string // the control plane's ID
	Staging      Staging
	// Credentials gives the holders of leases access to staging; nil where
	// connectors have credentials of their own.
	Credentials CredentialSource
	Compression string // auto (the default), zstd or off
	Now         func() time.Time
	Log         logrus.FieldLogger
}

// Service implements EnrolmentService and LinkService.
type Service struct {
	catalog   Catalog
	runs      Runs
	enrolment Enrolment
	options   Options
	given     issued

	mu     sync.Mutex
	bell   chan struct{} // closed and replaced by Wake
	closed chan struct{}
	close  sync.Once
}

var (
	_ linkv1connect.EnrolmentServiceHandler = (*Service)(nil)
	_ linkv1connect.LinkServiceHandler      = (*Service)(nil)
)

// New returns the connectors' service.
func New(servers Catalog, runs Runs, enrolment Enrolment, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Compression == "" {
		o.Compression = "auto"
	}
	return &Service{
		catalog: servers, runs: runs, enrolment: enrolment, options: o,
		bell: make(chan struct{}), closed: make(chan struct{}),
	}
}

// Handler returns the HTTP handler of both services.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(linkv1connect.NewEnrolmentServiceHandler(s, connect.WithReadMaxBytes(64<<10)))
	mux.Handle(linkv1connect.NewLinkServiceHandler(s, connect.WithReadMaxBytes(16<<20),
		connect.WithInterceptors(link.NewVerifier(s.options.Installation, s.enrolment, s.options.Now))))
	return mux
}

// Wake lets waiting streams and polls look for work at once.
func (s *Service) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.bell)
	s.bell = make(chan struct{})
}

// woken returns a channel that the next Wake closes.
func (s *Service) woken() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bell
}

// Close ends all streams and polls, so that the HTTP server can shut down.
func (s *Service) Close() { s.close.Do(func() { close(s.closed) }) }

// answer makes of err what the connector is to see. Errors that are no
// problems are logged here and not shown.
func (s *Service) answer(ctx context.Context, err error) error {
	k := problem.Of(err)
	made := (*connect.Error)(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &made):
		return made
	case ctx.Err() != nil:
		return connect.NewError(connect.CodeCanceled, ctx.Err())
	case k == nil:
		s.options.Log.WithError(err).WithField("connector", link.Connector(ctx)).Error("a connector's call failed")
		return connect.NewError(connect.CodeUnavailable, errors.New("the control plane could not do it now; its log says why"))
	case k == replication.StaleLease:
		return link.Error(connect.CodeAborted, err)
	case slices.Contains([]*problem.Kind{RequestRefused, VersionRefused}, k):
		return link.Error(connect.CodeInvalidArgument, err)
	}
	return link.Error(connect.CodeFailedPrecondition, err)
}

// touch notes that the caller was heard of.
func (s *Service) touch(ctx context.Context) {
	if err := s.catalog.Touch(ctx, link.Connector(ctx)); err != nil && ctx.Err() == nil {
		s.options.Log.WithError(err).WithField("connector", link.Connector(ctx)).Warn("cannot note that a connector was heard of")
	}
}
