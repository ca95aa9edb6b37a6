package vcenter

import (
	"context"
	"fmt"

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
	t := &task{}
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
		s.keep(t.Self)
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
		result, err = f()
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
func (s *Server) keep(ref types.ManagedObjectReference) {
	s.recent = append(s.recent, ref)
	if len(s.recent) <= keepTasks {
		return
	}
	s.model.Map().Remove(s.context(), s.recent[0])
	s.recent = s.recent[1:]
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
