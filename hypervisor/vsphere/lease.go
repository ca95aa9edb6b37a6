package vsphere

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

const (
	// leaseReady is how long vSphere may take to prepare an export.
	leaseReady = 2 * time.Minute
	// leaseGrace is for calls that are not broken off when the caller leaves:
	// a lease whose answer nobody heard cannot be ended.
	leaseGrace = 10 * time.Second
	// leaseBeat is the most time between two signs of life. Leases usually
	// last 300 s; ESXi hosts tell far more, in whatever unit.
	leaseBeat = 30 * time.Second
)

// lease is vSphere's permission to download the disks of a snapshot. While it
// is held, vSphere refuses to start, move or delete the virtual machine; and it
// ends the lease itself when it hears no sign of life (vSphere API,
// HttpNfcLease).
type lease struct {
	snapshot *snapshot
	session  *session
	log      logrus.FieldLogger
	ref      ref
	info     types.HttpNfcLeaseInfo
	percent  atomic.Int32 // downloaded; never goes back
	whole    bool         // everything was downloaded
}

// leaseLost says that a lease ended before its use.
type leaseLost struct{ cause error }

func (e *leaseLost) Error() string {
	if e.cause == nil {
		return "vSphere has ended the export"
	}
	return "vSphere has ended the export: " + e.cause.Error()
}

func (e *leaseLost) Unwrap() error { return e.cause }

// withLease exports the snapshot, and keeps the lease alive while use runs.
// The context that use gets ends with the lease; the lease ends with use. busy
// is how long other tasks of the virtual machine are waited for.
func (sn *snapshot) withLease(ctx context.Context, busy time.Duration, use func(context.Context, *lease) error) error {
	l, err := sn.export(ctx, busy)
	if err != nil {
		return err
	}
	defer l.end(ctx)
	if err := l.wait(ctx); err != nil {
		return err
	}
	held, lost := context.WithCancelCause(ctx)
	var renewal sync.WaitGroup
	defer renewal.Wait()
	defer lost(nil)
	renewal.Go(func() {
		if err := l.renew(held); err != nil {
			lost(err)
		}
	})
	err = use(held, l)
	if gone := (*leaseLost)(nil); err != nil && ctx.Err() == nil && errors.As(context.Cause(held), &gone) {
		return gone
	}
	return err
}

// export asks for a lease. The snapshot is the object of the call itself, so
// the lease's disks are those of that frozen state and of no other. Where
// vSphere gives a virtual machine one lease at a time, the reads of its disks
// come one after the other.
func (sn *snapshot) export(ctx context.Context, busy time.Duration) (*lease, error) {
	s := sn.source
	since := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		r, err := s.exportOnce(ctx, sn.ref)
		if err == nil {
			sn.leases.Add(1)
			return &lease{snapshot: sn, session: s.session, log: s.log, ref: r}, nil
		}
		if sn.leases.Load() > 0 {
			since = time.Now()
		}
		if ctx.Err() != nil {
			return nil, s.session.ended(ctx)
		}
		if !isBusy(err) {
			return nil, exportFault(err, sn.ref)
		}
		if time.Since(since) > busy {
			return nil, ReadFailed.New(err, "export snapshot %s: its virtual machine was busy for %s", sn.what.ID, busy)
		}
		over := hypervisor.Waiting(ctx, "another task of the virtual machine is under way, and its disks cannot be exported meanwhile")
		err = sleep(ctx, pause)
		over()
		if err != nil {
			return nil, s.session.ended(ctx)
		}
	}
}

func (s *Source) exportOnce(ctx context.Context, snapshot ref) (ref, error) {
	if ctx.Err() != nil {
		return ref{}, ctx.Err()
	}
	answered, cancel := lingering(ctx, leaseGrace)
	defer cancel()
	res, err := methods.ExportSnapshot(answered, s.session, &types.ExportSnapshot{This: snapshot})
	if err != nil {
		return ref{}, err
	}
	return res.Returnval, nil
}

// exportFault tells which faults are vSphere's last word on an export.
func exportFault(err error, snapshot ref) error {
	switch {
	case isGone(err):
		return hypervisor.SnapshotGone.New(err, "snapshot %s", snapshot.Value)
	case fault.Is(err, &types.NotSupported{}), fault.Is(err, &types.RestrictedVersion{}), fault.Is(err, &types.InvalidPowerState{}):
		return ExportRefused.New(err, "snapshot %s", snapshot.Value)
	}
	return explain(err, "exporting snapshot "+snapshot.Value)
}

// wait returns when the disks can be downloaded. It asks instead of waiting for
// updates, as await does.
func (l *lease) wait(ctx context.Context) error {
	late, cancel := context.WithTimeoutCause(ctx, leaseReady, errLate)
	defer cancel()
	defer hypervisor.Waiting(ctx, "vSphere prepares the export of the snapshot")()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		var found []mo.HttpNfcLease
		err := l.session.retrieve(late, []ref{l.ref}, []string{"state", "info", "error"}, &found)
		switch {
		case err == nil && len(found) == 1 && found[0].State == types.HttpNfcLeaseStateInitializing:
			err = sleep(late, pause)
		case err == nil && len(found) == 1:
			return l.begin(found[0])
		case err == nil:
			err = fmt.Errorf("vSphere gave %d objects for an export lease", len(found))
		case isGone(err): // with the session that it belonged to
			return &leaseLost{err}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return l.session.ended(ctx)
		case late.Err() != nil:
			return fmt.Errorf("vSphere has not prepared the export of the snapshot within %s", leaseReady)
		default:
			return fmt.Errorf("ask for an export lease: %w", err)
		}
	}
}

// begin takes what a lease says that is not being prepared any more.
func (l *lease) begin(found mo.HttpNfcLease) error {
	switch {
	case found.State == types.HttpNfcLeaseStateReady && found.Info != nil:
		l.info = *found.Info
		return nil
	case found.Error != nil:
		return exportFault(task.Error{LocalizedMethodFault: found.Error}, l.snapshot.ref)
	}
	return &leaseLost{fmt.Errorf("its state is %q", found.State)}
}

// renew gives signs of life until ctx ends, or until vSphere says that the
// lease is over. One that is not answered is not the lease's end: the next
// may be.
func (l *lease) renew(ctx context.Context) error {
	lasts := time.Duration(max(1, l.info.LeaseTimeout)) * time.Second
	every := min(lasts/4, leaseBeat)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		late, cancel := context.WithTimeout(ctx, 2*every)
		_, err := methods.HttpNfcLeaseProgress(late, l.session, &types.HttpNfcLeaseProgress{This: l.ref, Percent: l.percent.Load()})
		cancel()
		if ctx.Err() == nil && isFault(err) {
			return &leaseLost{err}
		}
	}
}

// end gives the lease back, also when the caller has left. vSphere notes an
// export as failed that was aborted, so one that was downloaded to its end is
// completed. What cannot be ended ends by itself.
func (l *lease) end(ctx context.Context) {
	defer l.snapshot.leases.Add(-1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseGrace)
	defer cancel()
	var err error
	if l.whole {
		_, err = methods.HttpNfcLeaseComplete(ctx, l.session, &types.HttpNfcLeaseComplete{This: l.ref})
	} else {
		_, err = methods.HttpNfcLeaseAbort(ctx, l.session, &types.HttpNfcLeaseAbort{This: l.ref})
	}
	if err != nil && !isGone(err) && !fault.Is(err, &types.InvalidState{}) {
		l.log.WithError(err).Warn("an export lease could not be ended; vSphere ends it when it gets no sign of life")
	}
}

// lingering returns a context that ends when ctx has been over for d.
func lingering(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if sleep(longer, d) == nil {
			cancel()
		}
	})
	return longer, func() { stop(); cancel() }
}
