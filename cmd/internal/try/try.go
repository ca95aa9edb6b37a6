// Package try shows the product doing what it exists for, on real bytes: a
// vCenter with a few servers, an S3 server, the control plane and the
// connector, all on loopback in one directory. It replicates everything in
// full, lets the guests write, replicates again, and compares every image byte
// for byte with what the source held at the snapshot.
package try

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"skylift/cmd/internal/daemon"
	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
)

// Options say what to try.
type Options struct {
	// Disks are raw images of the user's, each the disk of one more server.
	Disks []string
	// Keep is a directory that images and staging are left in; empty to
	// remove them.
	Keep string
	// JSON writes a summary for machines to Out, and nothing else.
	JSON bool
	// VCenter and Bucket replace the stand-ins by real ones.
	VCenter *VCenter
	Bucket  *Bucket
	// Executable and the arguments behind which it is the S3 server, the
	// control plane and the connector.
	Executable                   string
	AsS3, AsControlPlane, AsConn []string

	Out, Err io.Writer
}

// VCenter is a real vCenter, and which of its servers to replicate.
type VCenter struct {
	URL, User, PasswordFile, CAFile, Fingerprint string
	Servers                                      []string
}

// Bucket is a real bucket; credentials come from the usual AWS variables.
type Bucket struct {
	Name, Prefix, Region, Endpoint, CAFile string
	PathStyle                              bool
}

// ErrFailed says that the try ran and showed that something is wrong.
var ErrFailed error = differs("not everything arrived as it should")

// differs is an error whose exit code says that a verification found a difference.
type differs string

func (d differs) Error() string { return string(d) }

// ExitCode implements daemon.Coder.
func (differs) ExitCode() int { return daemon.ExitDiffer }

// serverTry is one server on its way.
type serverTry struct {
	name string
	id   string // the catalog's
	job  string
	runs []RunResult
}

// Run tries the product.
func Run(ctx context.Context, o Options) (err error) {
	began := time.Now()
	dir, cleanUp, err := workspace(o.Keep)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanUp()) }()
	show := newShow(o)
	defer show.close()

	source, err := openSource(o, dir, show)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	show.stage("The control plane and the connector start")
	stack := newStack(o, dir)
	if err := stack.start(ctx, source.vcenter); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stack.stop()) }()

	t := &tour{Options: o, ctx: ctx, dir: dir, show: show, source: source, stack: stack, api: stack.api}
	if err := t.run(); err != nil {
		return fmt.Errorf("%w; the logs of the daemons are in %s", stack.explain(err), stack.logs)
	}
	if err := stack.stop(); err != nil {
		return err
	}
	summary := t.summary(time.Since(began), source.leaks())
	if err := show.summary(summary, o); err != nil {
		return err
	}
	if !summary.OK {
		return ErrFailed
	}
	return nil
}

// workspace makes the directory that everything lies in.
func workspace(keep string) (dir string, cleanUp func() error, err error) {
	if keep != "" {
		if err := os.MkdirAll(keep, 0o700); err != nil {
			return "", nil, err
		}
		dir, err = filepath.Abs(keep)
		return dir, func() error { return nil }, err
	}
	dir, err = os.MkdirTemp("", "skylift-try-")
	return dir, func() error { return os.RemoveAll(dir) }, err
}

// tour is the way through one try.
type tour struct {
	Options
	ctx     context.Context // of the one Run that it lives for
	dir     string
	show    *show
	source  *source
	stack   *stack
	api     *smsclient.Client
	servers []*serverTry
}

func (t *tour) run() error {
	if err := t.findServers(); err != nil {
		return err
	}
	t.show.stage("First run: everything is replicated in full")
	if err := t.createJobs(); err != nil {
		return err
	}
	if err := t.follow(0); err != nil {
		return err
	}
	t.show.stage("The guests write, and a second run brings what changed")
	if err := t.source.write(uint64(time.Now().UnixNano())); err != nil {
		return err
	}
	for _, s := range t.servers {
		if _, err := t.api.StartOnDemandReplicationRun(t.ctx, s.job, "second run of the try"); err != nil {
			return fmt.Errorf("start a second run of %s: %w", s.name, err)
		}
	}
	if err := t.follow(1); err != nil {
		return err
	}
	if t.Bucket != nil && t.Keep == "" {
		return t.deleteJobs()
	}
	return nil
}

// deleteJobs clears the user's bucket of what the try staged there.
func (t *tour) deleteJobs() error {
	for _, s := range t.servers {
		if err := t.api.DeleteReplicationJob(t.ctx, s.job); err != nil {
			return fmt.Errorf("delete the job of %s: %w", s.name, err)
		}
	}
	return t.poll("the bucket to be cleared", 5*time.Minute, func() (bool, error) {
		for job, err := range t.api.ReplicationJobs(t.ctx) {
			if err != nil || job.State != "DELETED" {
				return false, err
			}
		}
		return true, nil
	})
}

// findServers has the catalog imported and waits for the servers to be in it.
func (t *tour) findServers() error {
	want := t.source.names()
	t.show.stage(fmt.Sprintf("The connector finds %d servers", len(want)))
	return t.poll("the servers to be in the catalog", 2*time.Minute, func() (bool, error) {
		err := t.api.ImportServerCatalog(t.ctx)
		if errors.Is(err, &smsclient.Error{Code: sms.NoConnectorsAvailable}) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		found := map[string]string{}
		for s, err := range t.api.Servers(t.ctx) {
			if err != nil {
				return false, err
			}
			found[s.VMServer.VMName] = s.ServerID
		}
		t.servers = nil
		for _, name := range want {
			if found[name] == "" {
				return false, nil
			}
			t.servers = append(t.servers, &serverTry{name: name, id: found[name]})
		}
		return true, nil
	})
}

func (t *tour) createJobs() error {
	daily := int32(24)
	for _, s := range t.servers {
		var err error
		keep := t.Keep != ""
		s.job, err = t.api.CreateReplicationJob(t.ctx, sms.CreateReplicationJobRequest{
			ServerID: s.id, SeedReplicationTime: sms.Time{Time: time.Now()}, Frequency: &daily,
			Description: "skylift try", KeepStaging: &keep,
		})
		if err != nil {
			return fmt.Errorf("create a replication job for %s: %w", s.name, err)
		}
	}
	return nil
}

// poll asks until done, and gives up after limit.
func (t *tour) poll(what string, limit time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", limit, what)
		}
		select {
		case <-t.ctx.Done():
			return t.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
