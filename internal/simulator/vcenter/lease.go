package vcenter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// lease is an HttpNfcLease: the right to download disks, until the client ends
// it or forgets to report progress. As vSphere's reference has it, it blocks
// what would alter the server meanwhile.
type lease struct {
	mo.HttpNfcLease
	worldLocked
	vm     *VM
	snap   *snapshot // nil: the server as it is
	ticket string    // the secret in its URLs
	host   *Host     // that serves it, once it is ready

	renewed  chan struct{} // takes a token at each report of progress
	stop     chan struct{} // closed at its end
	released chan struct{} // closed when nothing is kept for it any more

	mu        sync.Mutex
	ended     bool
	disks     []*exportedDisk
	downloads sync.WaitGroup
}

// startLease makes a lease that gets ready on a goroutine of its own. The
// caller is a SOAP call.
func (vm *VM) startLease(method string, snap *snapshot) *lease {
	s := vm.s
	l := &lease{
		vm: vm, snap: snap, ticket: newUUID("52"),
		renewed: make(chan struct{}, 1), stop: make(chan struct{}), released: make(chan struct{}),
	}
	l.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: fmt.Sprintf("session[%s]%s", newUUID("52"), newUUID("52"))}
	l.State, l.Mode = types.HttpNfcLeaseStateInitializing, string(types.HttpNfcLeaseModePushOrGet)
	s.outside(func() {
		s.world.Lock()
		defer s.world.Unlock()
		s.model.Map().Put(l)
		s.leases[l.ticket] = l
		vm.leases = append(slices.Clone(vm.leases), l)
	})
	s.running.Add(1) // the SOAP call is counted too, so that Close is not past its waiting
	go func() {
		defer s.running.Done()
		l.live(method)
	}()
	return l
}

// live is a lease from its beginning to its end.
func (l *lease) live(method string) {
	s := l.vm.s
	defer close(l.released)
	defer l.release()
	if !l.getReady(l.ask(method)) {
		return
	}
	timer := time.NewTimer(s.cfg.LeaseTimeout)
	defer timer.Stop()
	for {
		select {
		case <-l.renewed:
			timer.Reset(s.cfg.LeaseTimeout)
		case <-timer.C:
			l.end(types.HttpNfcLeaseStateError, &types.LocalizedMethodFault{
				Fault: &types.Timedout{}, LocalizedMessage: "The lease timed out: no progress was reported.",
			})
		case <-s.closing:
			l.end(types.HttpNfcLeaseStateDone, nil)
		case <-l.stop:
			return
		}
	}
}

// ask has Config.Fault say whether the lease gets ready, at the latest when it
// has ended.
func (l *lease) ask(method string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-l.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return l.vm.s.arrive(ctx, Call{Method: method, Object: l.vm.obj.Self, Task: true})
}

// getReady holds the disks still and publishes their URLs.
func (l *lease) getReady(err error) bool {
	l.vm.op.Lock()
	defer l.vm.op.Unlock()
	if err == nil {
		err = l.vm.gone()
	}
	if err == nil {
		err = l.pin()
	}
	l.vm.s.world.Lock()
	defer l.vm.s.world.Unlock()
	if err != nil {
		f := asSOAP(err)
		l.finish(types.HttpNfcLeaseStateError, &types.LocalizedMethodFault{Fault: f.Fault, LocalizedMessage: f.Message})
	}
	if l.ended {
		return false
	}
	l.Info, l.InitializeProgress, l.State = l.info(), 100, types.HttpNfcLeaseStateReady
	l.vm.s.revisions.touch(l.Self)
	return true
}

// end finishes the lease, if it has not ended before.
func (l *lease) end(state types.HttpNfcLeaseState, fault *types.LocalizedMethodFault) {
	l.vm.s.world.Lock()
	defer l.vm.s.world.Unlock()
	l.finish(state, fault)
}

// finish is end for callers that hold world.
func (l *lease) finish(state types.HttpNfcLeaseState, fault *types.LocalizedMethodFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.stop)
	l.State, l.Error, l.Info = state, fault, nil
	l.vm.leases = slices.DeleteFunc(slices.Clone(l.vm.leases), func(o *lease) bool { return o == l })
	l.vm.s.revisions.touch(l.Self)
	l.vm.s.keepLease(l)
}

// keepLease forgets the lease that ended first when there are many. The caller
// holds world.
func (s *Server) keepLease(l *lease) {
	s.ended = append(s.ended, l)
	if len(s.ended) <= keepTasks {
		return
	}
	old := s.ended[0]
	s.ended = s.ended[1:]
	delete(s.leases, old.ticket)
	s.model.Map().Remove(s.context(), old.Self)
}

// release lets go of the disks as soon as no download reads them.
func (l *lease) release() {
	l.downloads.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, d := range l.disks {
		errs = append(errs, d.view.release())
	}
	l.disks = nil
	if err := errors.Join(errs...); err != nil {
		l.vm.s.log.WithError(err).Warn("vCenter simulator: ending an export")
	}
}

// download begins a transfer of the disk with the given file name; done must
// be called at its end. There is none in a lease that has ended.
func (l *lease) download(name string) (d *exportedDisk, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.disks, func(d *exportedDisk) bool { return d.name == name })
	if l.ended || i < 0 {
		return nil, nil
	}
	l.downloads.Add(1)
	return l.disks[i], l.downloads.Done
}

// leased is the error of an operation on a server that is being exported.
func (vm *VM) leased() error {
	vm.s.world.RLock()
	defer vm.s.world.RUnlock()
	if len(vm.leases) == 0 {
		return nil
	}
	return SOAPFault{&types.TaskInProgress{}, "The operation is blocked: an export of the server is in progress."}
}

// breakLeases ends leases whose object goes away all the same: what the owner
// does is not blocked. The caller holds world.
func (vm *VM) breakLeases(which func(*lease) bool, why string) {
	for _, l := range vm.leases {
		if which(l) {
			l.finish(types.HttpNfcLeaseStateError, &types.LocalizedMethodFault{
				Fault: &types.ManagedObjectNotFound{Obj: l.vm.obj.Self}, LocalizedMessage: why,
			})
		}
	}
}

// HttpNfcLeaseProgress keeps the lease alive.
func (l *lease) HttpNfcLeaseProgress(_ *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	body := &methods.HttpNfcLeaseProgressBody{}
	if req.Percent < 0 || req.Percent > 100 {
		body.Fault_ = simulator.Fault(fmt.Sprintf("Progress of %d %%.", req.Percent), &types.InvalidArgument{InvalidProperty: "percent"})
		return body
	}
	err := l.whileHeld(func() {
		l.TransferProgress = req.Percent
		l.vm.s.revisions.touch(l.Self)
		select {
		case l.renewed <- struct{}{}:
		default: // one is under way
		}
	}, types.HttpNfcLeaseStateReady)
	if err != nil {
		body.Fault_ = simulator.Fault(err.Message, err.Fault)
		return body
	}
	body.Res = &types.HttpNfcLeaseProgressResponse{}
	return body
}

// HttpNfcLeaseComplete ends the lease well. The answer comes when nothing is
// kept for it any more.
func (l *lease) HttpNfcLeaseComplete(_ *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	body := &methods.HttpNfcLeaseCompleteBody{}
	err := l.whileHeld(func() { l.finish(types.HttpNfcLeaseStateDone, nil) }, types.HttpNfcLeaseStateReady)
	if err != nil {
		body.Fault_ = simulator.Fault(err.Message, err.Fault)
		return body
	}
	l.vm.s.outside(func() { <-l.released })
	body.Res = &types.HttpNfcLeaseCompleteResponse{}
	return body
}

// HttpNfcLeaseAbort ends the lease with the client's fault; otherwise it is as
// HttpNfcLeaseComplete.
func (l *lease) HttpNfcLeaseAbort(_ *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	body := &methods.HttpNfcLeaseAbortBody{}
	fault := req.Fault
	if fault == nil {
		fault = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "The lease was aborted."}
	}
	err := l.whileHeld(func() { l.finish(types.HttpNfcLeaseStateError, fault) },
		types.HttpNfcLeaseStateReady, types.HttpNfcLeaseStateInitializing)
	if err != nil {
		body.Fault_ = simulator.Fault(err.Message, err.Fault)
		return body
	}
	l.vm.s.outside(func() { <-l.released })
	body.Res = &types.HttpNfcLeaseAbortResponse{}
	return body
}

// whileHeld runs f under world in one of the given states. Otherwise the fault
// is the one that vSphere's reference names. The caller is a SOAP call.
func (l *lease) whileHeld(f func(), states ...types.HttpNfcLeaseState) (failed *SOAPFault) {
	l.vm.s.outside(func() {
		l.vm.s.world.Lock()
		defer l.vm.s.world.Unlock()
		switch {
		case slices.Contains(states, l.State):
			f()
		case l.Error != nil && isTimeout(l.Error.Fault):
			failed = &SOAPFault{&types.Timedout{}, "The lease timed out."}
		default:
			failed = &SOAPFault{&types.InvalidState{}, fmt.Sprintf("The lease is in state %s.", l.State)}
		}
	})
	return failed
}

func isTimeout(fault types.BaseMethodFault) bool {
	_, ok := fault.(*types.Timedout)
	return ok
}

// OpenLeases lists the leases for which something is still kept, as
// "server/snapshot", or "server" for one of the server itself, sorted: what a
// test that looks for leaks compares. A lease that a client ended is gone when
// it has its answer; one that timed out, soon after its state tells so.
func (s *Server) OpenLeases() []string {
	s.world.RLock()
	defer s.world.RUnlock()
	var list []string
	for _, l := range s.leases {
		select {
		case <-l.released:
			continue
		default:
		}
		name := l.vm.spec.Name
		if l.snap != nil {
			name += "/" + l.snap.name
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}
