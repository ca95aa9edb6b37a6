package vcenter

import (
	"context"
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

// task is a Task object: what clients wait for.
type task struct {
	mo.Task
	worldLocked
	vm *VM
}

// CancelTask refuses: the tasks that are modeled cannot be canceled.
func (t *task) CancelTask(*types.CancelTask) soap.HasFault {
	return &methods.CancelTaskBody{Fault_: simulator.Fault("The task cannot be canceled.", &types.NotSupported{})}
}

// worldLocked marks the managed objects that world guards, and that must not be
// locked one by one as well: the order of the locks could not be kept.
type worldLocked struct{}

func (worldLocked) Lock()   {}
func (worldLocked) Unlock() {}

const keepTasks = 500 // finished ones; vCenter keeps them for ten minutes

// run starts a task on vm and returns its reference. f runs on a goroutine of
// its own, holding vm.op and nothing else. The caller is a SOAP call, which
// holds world for reading.
func (vm *VM) run(method string, f func() (result any, err error)) types.ManagedObjectReference {
	s := vm.s
	t := &task{vm: vm}
	t.Self = s.reference("Task", "task")
	entity, name, start := vm.obj.Self, vm.spec.Name, now()
	t.Info = types.TaskInfo{
		Key: t.Self.Value, Task: t.Self, Name: method, DescriptionId: "VirtualMachine." + method,
		Entity: &entity, EntityName: name, State: types.TaskInfoStateRunning,
		QueueTime: *start, StartTime: start, Reason: &types.TaskReasonUser{UserName: s.User},
	}
	s.outside(func() {
		s.world.Lock()
		defer s.world.Unlock()
		s.model.Map().Put(t)
		vm.recent = append(slices.Clone(vm.recent), t.Self)
		vm.obj.RecentTask = vm.recent
		s.revisions.touch(vm.obj.Self)
		s.keep(t)
	})
	s.running.Add(1) // the SOAP call is counted too, so that Close is not past its waiting
	go func() {
		defer s.running.Done()
		vm.work(t, method, f)
	}()
	return t.Self
}

func (vm *VM) work(t *task, method string, f func() (any, error)) {
	vm.op.Lock()
	defer vm.op.Unlock()
	err := vm.s.arrive(context.Background(), Call{Method: method, Object: vm.obj.Self, Task: true})
	if err == nil {
		err = vm.leased()
	}
	var result any
	if err == nil {
		vm.task = t
		result, err = f()
		vm.task = nil
	}
	vm.s.world.Lock()
	defer vm.s.world.Unlock()
	info := t.Info
	info.CompleteTime, info.State, info.Result = now(), types.TaskInfoStateSuccess, result
	if err != nil {
		fault := asSOAP(err)
		info.State, info.Result = types.TaskInfoStateError, nil
		info.Error = &types.LocalizedMethodFault{Fault: fault.Fault, LocalizedMessage: fault.Message}
	}
	t.Info = info
	vm.s.revisions.touch(t.Self)
}

// keep forgets the oldest task when there are many. The caller holds world.
func (s *Server) keep(t *task) {
	s.recent = append(s.recent, t)
	if len(s.recent) <= keepTasks {
		return
	}
	old := s.recent[0]
	s.recent = s.recent[1:]
	s.model.Map().Remove(s.context(), old.Self)
	old.vm.recent = slices.DeleteFunc(slices.Clone(old.vm.recent), func(r types.ManagedObjectReference) bool { return r == old.Self })
	old.vm.obj.RecentTask = old.vm.recent
	s.revisions.touch(old.vm.obj.Self)
}

// progressSteps is how often a slow task tells how far it is.
const progressSteps = 20

// takes lets time pass while a task runs, which shows its progress. What the
// server's owner does takes none. The caller holds op, and nothing else.
func (vm *VM) takes(d time.Duration) error {
	t := vm.task
	if d <= 0 || t == nil {
		return nil
	}
	hurry := vm.waits.begin()
	defer vm.waits.end()
	for step := range progressSteps {
		vm.s.world.Lock()
		info := t.Info
		info.Progress = int32(1 + step*100/progressSteps)
		t.Info = info
		vm.s.revisions.touch(t.Self)
		vm.s.world.Unlock()
		if vm.s.pause(hurry, d/progressSteps) {
			continue
		}
		if hurry.Err() != nil {
			return nil
		}
		return SOAPFault{&types.RequestCanceled{}, "The simulator is being closed."}
	}
	return nil
}

// Hurry lets what the server is busy with, by Quirks.SnapshotTakes or
// ConsolidationTakes, end at once. Without such a task it does nothing.
func (vm *VM) Hurry() { vm.waits.end() }

// waits is the wait of a server's task: there is one at a time.
type waits struct {
	mu     sync.Mutex
	cancel context.CancelFunc // nil while there is none
}

// begin starts a wait, which is over when the context is done.
func (w *waits) begin() context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	return ctx
}

func (w *waits) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
		w.cancel = nil
	}
}

// publish runs f under world and shows the VM's new state to clients.
func (vm *VM) publish(f func()) {
	vm.s.world.Lock()
	defer vm.s.world.Unlock()
	f()
	vm.render()
	vm.s.revisions.touch(vm.obj.Self)
}

// gone is the error of an operation on a VM that was removed meanwhile.
func (vm *VM) gone() error {
	vm.s.world.RLock()
	defer vm.s.world.RUnlock()
	if vm.s.vms[vm.obj.Self] == vm {
		return nil
	}
	return SOAPFault{&types.ManagedObjectNotFound{Obj: vm.obj.Self}, fmt.Sprintf("The server %s is gone.", vm.spec.Name)}
}
