package link

import (
	"context"
	"sync"
	"time"

	"skylift/controlplane/replication"
	"skylift/internal/problem"
	"skylift/internal/secret"
	"skylift/link/linkv1"
)

// Staging is where connectors put what they read.
type Staging struct {
	Bucket, Prefix string
	Region         string
	Endpoint       string // empty: AWS's own
	PathStyle      bool
	CAPEM          string // additional roots for the endpoint
	// ConditionalWrites says that the store was found to honor If-None-Match.
	ConditionalWrites bool
}

// Credentials give access to staging.
type Credentials struct {
	AccessKeyID  string
	SecretKey    secret.Text
	SessionToken secret.Text
	Expires      time.Time // zero: never
}

// CredentialSource makes credentials for the holder of a run's lease. They
// can write the run's two prefixes and read the job's state, and no more,
// where the object store can limit them so.
type CredentialSource interface {
	Credentials(ctx context.Context, job, run string) (Credentials, error)
}

// CredentialsFailed is a run that waits for access to staging.
var CredentialsFailed = &problem.Kind{
	Code:  "link-staging-credentials",
	Title: "no credentials for staging could be had",
	Hint:  "Check the control plane's own credentials and the role that it assumes for connectors.",
	Retry: true,
}

// renewBefore is how long before their end credentials are replaced.
const renewBefore = 20 * time.Minute

// issued remembers which credentials the holders of leases have.
type issued struct {
	mu     sync.Mutex
	leases map[string]issue
}

type issue struct {
	epoch   int64
	expires time.Time
	asked   time.Time
}

// due reports whether the holder is to be given credentials.
func (i *issued) due(l replication.Lease, now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	have, ok := i.leases[l.Run]
	if !ok || have.epoch != l.Epoch {
		return true
	}
	have.asked = now
	i.leases[l.Run] = have
	return !have.expires.IsZero() && have.expires.Sub(now) < renewBefore
}

// note remembers what the holder got, and forgets those not heard of for an hour.
func (i *issued) note(l replication.Lease, expires, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.leases == nil {
		i.leases = map[string]issue{}
	}
	for run, have := range i.leases {
		if now.Sub(have.asked) > time.Hour {
			delete(i.leases, run)
		}
	}
	i.leases[l.Run] = issue{l.Epoch, expires, now}
}

// credentials returns what the holder of the lease is to be given, nil for nothing.
func (s *Service) credentials(ctx context.Context, l replication.Lease) (*linkv1.Credentials, error) {
	if s.options.Credentials == nil || !s.given.due(l, s.options.Now()) {
		return nil, nil
	}
	c, err := s.options.Credentials.Credentials(ctx, l.Job, l.Run)
	if err != nil {
		return nil, CredentialsFailed.New(err, "hand out run %s", l.Run)
	}
	s.given.note(l, c.Expires, s.options.Now())
	out := &linkv1.Credentials{
		AccessKeyId: c.AccessKeyID, SecretAccessKey: c.SecretKey.Reveal(), SessionToken: c.SessionToken.Reveal(),
	}
	if !c.Expires.IsZero() {
		out.Expires = c.Expires.UnixMilli()
	}
	return out, nil
}

// replicate makes the command for an assignment.
func (s *Service) replicate(ctx context.Context, a replication.Assignment) (*linkv1.Replicate, error) {
	credentials, err := s.credentials(ctx, a.Lease)
	if err != nil {
		return nil, err
	}
	at := s.options.Staging
	r := &linkv1.Replicate{
		Lease: leaseOf(a.Lease), Job: a.Job, Source: a.Source, Server: a.VM, Quiesce: a.Quiesce, Compression: s.options.Compression,
		Staging: &linkv1.Staging{
			Bucket: at.Bucket, Prefix: at.Prefix, Region: at.Region, Endpoint: at.Endpoint, PathStyle: at.PathStyle,
			CaPem: at.CAPEM, Credentials: credentials, ConditionalWrites: at.ConditionalWrites,
		},
		SkipDisks: a.SkipDisks, Sealed: a.Sealed, StagingVersion: stagingVersion,
	}
	if a.Snapshot != nil {
		r.Snapshot = snapshotOf(*a.Snapshot)
	}
	for _, b := range a.Bases {
		r.Bases = append(r.Bases, &linkv1.Base{
			Disk: b.Disk, Run: b.Run, ManifestSha256: b.ManifestSHA256, Digest: b.Digest, ChangeId: b.ChangeID, Size: b.Size,
		})
	}
	return r, nil
}

func leaseOf(l replication.Lease) *linkv1.Lease {
	return &linkv1.Lease{Run: l.Run, Epoch: l.Epoch, TtlMs: uint32(max(l.TTL, 0).Milliseconds())}
}
