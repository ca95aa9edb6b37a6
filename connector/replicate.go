package connector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"skylift/hypervisor"
	"skylift/internal/problem"
	"skylift/link"
	linkv1 "skylift/link/linkv1"
	"skylift/staging"
	"skylift/transfer"
)

const (
	// finishWithin bounds the last call of a run, which is made although its
	// context may have ended.
	finishWithin = 10 * time.Second
	// recordWithin bounds how long the control plane is asked to record a
	// snapshot or a seal, while it goes on to renew the lease.
	recordWithin = 5 * time.Minute
)

// attempt is one lease's worth of work on a run.
type attempt struct {
	*Connector
	command *linkv1.Replicate
	watch   *watch // over the run's source; nil if there is none
	lease   *lease
	log     logrus.FieldLogger

	mu      sync.Mutex
	stage   string
	waiting []string // what is waited for, once per wait
	disks   []*diskWork
}

// diskWork is one disk of the run.
type diskWork struct {
	hypervisor.Disk
	progress transfer.Progress
	sealed   transfer.Sealed
}

// replicate does what is left of a run and reports how it ended.
func (c *Connector) replicate(ctx context.Context, command *linkv1.Replicate) {
	a := &attempt{Connector: c, command: command, stage: "preparing",
		log: c.Log.WithFields(logrus.Fields{"run": command.Lease.Run, "server": command.Server, "epoch": command.Lease.Epoch})}
	a.lease = &lease{calls: c.link, run: command.Lease.Run, epoch: command.Lease.Epoch, every: c.ReportEvery, report: a.report}
	a.lease.credentials.Store(command.Staging.GetCredentials())
	held, release, err := a.lease.hold(ctx, command.Lease)
	if err != nil {
		a.finish(hypervisor.Anchor{}, err, err)
		return
	}
	anchor, err := a.run(held)
	cause := context.Cause(held)
	// Renewing goes on until the outcome is known, and is over before it is
	// told, so that nothing is reported behind it.
	release()
	a.finish(anchor, err, cause)
}

// run goes through the steps of the format's write order.
func (a *attempt) run(ctx context.Context) (hypervisor.Anchor, error) {
	if ctx.Err() != nil {
		return hypervisor.Anchor{}, context.Cause(ctx)
	}
	if a.watch = a.watches[a.command.Source]; a.watch == nil {
		return hypervisor.Anchor{}, UnknownSource.New(nil, "source %s", a.command.Source)
	}
	ctx = hypervisor.WithWaits(ctx, a.waitFor)
	leave, err := a.makeRoom(ctx)
	if err != nil {
		return hypervisor.Anchor{}, err
	}
	defer leave()
	ref := fromSnapshot(a.command.Snapshot)
	if !a.command.Sealed {
		if ref, err = a.snapshot(ctx); err != nil {
			return hypervisor.Anchor{}, err
		}
		if err := a.transfer(ctx, ref); err != nil {
			return hypervisor.Anchor{}, err
		}
	}
	a.enter("settling")
	return a.settle(ctx, ref)
}

// makeRoom waits until the server's datastores, or whatever else the platform
// keeps snapshots on, may hold one more. A snapshot that is there already is
// counted, and waits for nobody.
func (a *attempt) makeRoom(ctx context.Context) (leave func(), err error) {
	on, err := a.watch.source.Shares(ctx, hypervisor.ServerID(a.command.Server))
	switch {
	case a.command.Snapshot == nil && err != nil:
		return nil, fmt.Errorf("see where a snapshot would be kept: %w", err)
	case a.command.Snapshot == nil:
		return a.watch.shares.take(ctx, on...)
	case err != nil:
		// What there is to say about the server comes from the snapshot itself.
		a.log.WithError(err).Warn("it is not known where the run's snapshot is kept, so it is not counted there")
	}
	return a.watch.shares.join(on...), nil
}

// snapshot returns the run's one snapshot, which the control plane has on
// record. One that it does not record is left to the janitor.
func (a *attempt) snapshot(ctx context.Context) (hypervisor.SnapshotRef, error) {
	if a.command.Snapshot != nil {
		return fromSnapshot(a.command.Snapshot), nil
	}
	ref, err := a.takeSnapshot(ctx)
	if err != nil {
		return hypervisor.SnapshotRef{}, fmt.Errorf("take a snapshot: %w", err)
	}
	err = a.record(ctx, func(ctx context.Context) error {
		_, err := a.link.RecordSnapshot(ctx, connect.NewRequest(&linkv1.RecordSnapshotRequest{
			Run: a.command.Lease.Run, Epoch: a.command.Lease.Epoch, Snapshot: toSnapshot(ref),
		}))
		return err
	})
	if err != nil {
		return hypervisor.SnapshotRef{}, fmt.Errorf("record the snapshot: %w", err)
	}
	return ref, nil
}

// takeSnapshot waits for its turn, and for a time when the snapshot's bytes may
// be sent: it grows from its first moment.
func (a *attempt) takeSnapshot(ctx context.Context) (hypervisor.SnapshotRef, error) {
	if err := a.Mover.Open(ctx); err != nil {
		return hypervisor.SnapshotRef{}, err
	}
	leave, err := a.watch.shares.take(ctx, a.watch.tasks)
	if err != nil {
		return hypervisor.SnapshotRef{}, err
	}
	defer leave()
	refs, err := a.watch.source.Snapshot(ctx, hypervisor.RunID(a.command.Lease.Run),
		[]hypervisor.ServerID{hypervisor.ServerID(a.command.Server)}, hypervisor.Quiesce(a.command.Quiesce))
	if err != nil {
		return hypervisor.SnapshotRef{}, err
	}
	if len(refs) != 1 {
		return hypervisor.SnapshotRef{}, fmt.Errorf("the source names %d snapshots of one server", len(refs))
	}
	return refs[0], nil
}

func (a *attempt) settle(ctx context.Context, ref hypervisor.SnapshotRef) (hypervisor.Anchor, error) {
	leave, err := a.watch.shares.take(ctx, a.watch.tasks)
	if err != nil {
		return hypervisor.Anchor{}, err
	}
	defer leave()
	anchor, err := a.watch.source.Settle(ctx, ref)
	if err != nil {
		return hypervisor.Anchor{}, fmt.Errorf("settle the snapshot: %w", err)
	}
	return anchor, nil
}

// record makes a call whose repetition the control plane takes for the first.
func (a *attempt) record(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	return persist(ctx, call)
}

// transfer moves all disks into staging and has their manifests recorded.
func (a *attempt) transfer(ctx context.Context, ref hypervisor.SnapshotRef) (err error) {
	store, err := a.Staging(ctx, fromStaging(a.command.Staging), func() (Credentials, bool) {
		return fromCredentials(a.lease.credentials.Load())
	})
	if err != nil {
		return fmt.Errorf("open staging: %w", err)
	}
	snapshot, err := a.watch.source.Open(ctx, ref)
	if err != nil {
		return fmt.Errorf("open the snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	if err := a.chooseDisks(snapshot); err != nil {
		return err
	}
	a.enter("uploading")
	group, groupCtx := errgroup.WithContext(ctx)
	for _, d := range a.disks {
		group.Go(func() error {
			leave, err := a.watch.shares.take(groupCtx, append(d.Info().Shares, a.watch.disks)...)
			if err != nil {
				return err
			}
			defer leave()
			d.sealed, err = a.Mover.Move(groupCtx, transfer.Task{
				Job: a.command.Job, Run: a.command.Lease.Run, Snapshot: snapshot, Ref: ref, Disk: d.Disk,
				Base: a.base(d.Info().ID), Store: store, Compression: transfer.Compression(a.command.Compression), Progress: &d.progress,
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return a.seal(ctx)
}

// chooseDisks takes the snapshot's disks but those that the user left out.
func (a *attempt) chooseDisks(snapshot hypervisor.Snapshot) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range snapshot.Disks() {
		if !slices.Contains(a.command.SkipDisks, string(d.Info().ID)) {
			a.disks = append(a.disks, &diskWork{Disk: d})
		}
	}
	if len(a.disks) == 0 {
		return NoDisks.New(nil, "server %s", a.command.Server)
	}
	return nil
}

// base returns the last landed run of a disk, or nil.
func (a *attempt) base(disk hypervisor.DiskID) *staging.Base {
	for _, b := range a.command.Bases {
		if b.Disk == string(disk) && len(b.ManifestSha256) == len(staging.Hash{}) && len(b.Digest) == len(staging.Hash{}) {
			return &staging.Base{Run: b.Run, Manifest: staging.Hash(b.ManifestSha256), Digest: staging.Hash(b.Digest), ChangeID: b.ChangeId, Size: b.Size}
		}
	}
	return nil
}

// seal records all manifests at once: from here on the run can be built.
func (a *attempt) seal(ctx context.Context) error {
	req := &linkv1.SealRequest{Run: a.command.Lease.Run, Epoch: a.command.Lease.Epoch}
	for _, d := range a.disks {
		m := d.sealed.Manifest
		sealed := &linkv1.SealedDisk{
			Disk: m.Disk.ID, DiskKey: staging.DiskKey(m.Disk.ID), Name: m.Disk.Name, Position: int32(m.Disk.Position), Size: m.Disk.Size,
			ManifestSha256: d.sealed.Sum[:], Digest: m.Digest[:], ChangeId: m.ChangeID, Counters: d.report(),
		}
		if m.Base != nil {
			sealed.BaseRun, sealed.BaseDigest = m.Base.Run, m.Base.Digest[:]
		}
		req.Disks = append(req.Disks, sealed)
	}
	err := a.record(ctx, func(ctx context.Context) error {
		_, err := a.link.Seal(ctx, connect.NewRequest(req))
		return err
	})
	if err != nil {
		return fmt.Errorf("have the run sealed: %w", err)
	}
	return nil
}

// finish tells how the attempt ended, unless the right to tell is gone.
func (a *attempt) finish(anchor hypervisor.Anchor, err, cause error) {
	req := &linkv1.FinishRequest{Run: a.command.Lease.Run, Epoch: a.command.Lease.Epoch, Progress: a.report()}
	switch {
	case errors.Is(cause, errLeaseLost) || errors.Is(cause, errLeaseExpired) || link.Stale(err):
		a.log.WithError(errors.Join(cause, err)).Warn("the run is left to whoever holds its lease")
		return
	case err == nil:
		a.log.Info("the run is sealed and its snapshot settled")
		req.Outcome = &linkv1.FinishRequest_Settled{Settled: &linkv1.Settled{Anchor: toAnchor(anchor)}}
	case errors.Is(cause, errCancelled):
		a.log.Info("the run was cancelled")
		req.Outcome = &linkv1.FinishRequest_Failure{Failure: &linkv1.Failure{Code: "cancelled", Message: errCancelled.Error()}}
	case problem.Has(cause, SnapshotUrgent):
		a.log.WithError(cause).Error("the run's snapshot is given up")
		req.Outcome = &linkv1.FinishRequest_Failure{Failure: failure(cause)}
	case cause != nil:
		a.log.WithError(cause).Info("the connector shuts down and hands the run back")
		req.Outcome = &linkv1.FinishRequest_Failure{Failure: &linkv1.Failure{Release: true, Retry: true, Message: "the connector was shut down"}}
	default:
		a.log.WithError(err).Error("the run failed here")
		req.Outcome = &linkv1.FinishRequest_Failure{Failure: failure(err)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), finishWithin)
	defer cancel()
	err = persist(ctx, func(ctx context.Context) error {
		_, err := a.link.Finish(ctx, connect.NewRequest(req))
		return err
	})
	// Stale: the first try arrived and its answer did not, or the lease is gone.
	if err != nil && !link.Stale(err) {
		a.log.WithError(err).Warn("the end of the run could not be reported; its lease will run out")
	}
	if a.watch != nil {
		a.watch.sweepSoon()
	}
}

// failure describes err to the control plane. What is no problem with a known
// answer is worth another try.
func failure(err error) *linkv1.Failure {
	f := &linkv1.Failure{Code: "internal", Message: err.Error(), Retry: true,
		Hint: "The run is tried again by itself; if it keeps failing, look at the connector's log"}
	if k := problem.Of(err); k != nil {
		f.Code, f.Hint, f.Retry = k.Code, k.Hint, k.Retry
	} else if code, hint := link.Problem(err); code != "" {
		// The control plane refused the run's seal or snapshot, with a reason.
		f.Code, f.Hint, f.Retry = code, hint, false
	}
	return f
}

func (a *attempt) enter(stage string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stage = stage
}

// waitFor shows that something is waited for, until over is called. Several
// disks may wait at once.
func (a *attempt) waitFor(what string) (over func()) {
	what = "waiting: " + what
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, what)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		i := slices.Index(a.waiting, what)
		a.waiting = slices.Delete(a.waiting, i, i+1)
	}
}

// report tells how far the attempt is.
func (a *attempt) report() *linkv1.Progress {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &linkv1.Progress{Stage: a.stage}
	if len(a.waiting) > 0 {
		p.WaitingFor = a.waiting[0]
	}
	for _, d := range a.disks {
		p.Disks = append(p.Disks, d.report())
	}
	return p
}

func (d *diskWork) report() *linkv1.DiskProgress {
	info, p := d.Info(), &d.progress
	mode, reason := p.Mode()
	return &linkv1.DiskProgress{
		Disk: string(info.ID), Name: info.Name, Kind: string(mode), Reason: reason, Size: info.Size,
		Planned: p.Planned.Load(), Done: p.Done.Load(), Read: p.Read.Load(), Changed: p.Changed.Load(),
		Sent: p.Sent.Load(), Stored: p.Stored.Load(), Resumed: p.Resumed.Load(),
		Transport: info.Transport, TransportWhy: info.Why,
	}
}
