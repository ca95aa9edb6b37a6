package vcenter

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The methods of VirtualMachine and VirtualMachineSnapshot, under the names
// that govmomi's simulator looks for: Foo_Task is FooTask.

// CreateSnapshotTask is CreateSnapshot_Task.
func (m *machine) CreateSnapshotTask(_ *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	ref := m.vm.run("CreateSnapshot_Task", func() (any, error) {
		return m.vm.createSnapshot(req.Name, req.Description, req.Memory, req.Quiesce)
	})
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: ref}}
}

// CreateSnapshotExTask is CreateSnapshotEx_Task.
func (m *machine) CreateSnapshotExTask(_ *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	ref := m.vm.run("CreateSnapshotEx_Task", func() (any, error) {
		return m.vm.createSnapshot(req.Name, req.Description, req.Memory, req.QuiesceSpec != nil)
	})
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: ref}}
}

// RemoveAllSnapshotsTask is RemoveAllSnapshots_Task.
func (m *machine) RemoveAllSnapshotsTask(_ *simulator.Context, _ *types.RemoveAllSnapshots_Task) soap.HasFault {
	ref := m.vm.run("RemoveAllSnapshots_Task", func() (any, error) {
		return nil, m.vm.removeSnapshots(m.vm.snapshots)
	})
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}}
}

// RevertToCurrentSnapshotTask is RevertToCurrentSnapshot_Task.
func (m *machine) RevertToCurrentSnapshotTask(_ *simulator.Context, _ *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	ref := m.vm.run("RevertToCurrentSnapshot_Task", func() (any, error) {
		if m.vm.current == nil {
			return nil, SOAPFault{&types.NotFound{}, "The server has no current snapshot."}
		}
		return nil, m.vm.revert(m.vm.current)
	})
	return &methods.RevertToCurrentSnapshot_TaskBody{Res: &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}}
}

// ConsolidateVMDisksTask is ConsolidateVMDisks_Task.
func (m *machine) ConsolidateVMDisksTask(_ *simulator.Context, _ *types.ConsolidateVMDisks_Task) soap.HasFault {
	ref := m.vm.run("ConsolidateVMDisks_Task", func() (any, error) { return nil, m.vm.consolidateDisks() })
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}}
}

// RemoveSnapshotTask is RemoveSnapshot_Task.
func (o *snapshotObject) RemoveSnapshotTask(_ *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	ref := o.vm.run("RemoveSnapshot_Task", func() (any, error) {
		list := []*snapshot{o.snap}
		if req.RemoveChildren {
			list = o.vm.below(o.snap)
		}
		return nil, o.vm.removeSnapshots(list)
	})
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: ref}}
}

// RevertToSnapshotTask is RevertToSnapshot_Task.
func (o *snapshotObject) RevertToSnapshotTask(_ *simulator.Context, _ *types.RevertToSnapshot_Task) soap.HasFault {
	ref := o.vm.run("RevertToSnapshot_Task", func() (any, error) { return nil, o.vm.revert(o.snap) })
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: ref}}
}

// ReconfigVMTask is ReconfigVM_Task for changeTrackingEnabled and extraConfig.
func (m *machine) ReconfigVMTask(_ *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	if err := m.vm.mayReconfigure(req.Spec); err != nil {
		f := asSOAP(err)
		return &methods.ReconfigVM_TaskBody{Fault_: simulator.Fault(f.Message, f.Fault)}
	}
	ref := m.vm.run("ReconfigVM_Task", func() (any, error) { return nil, m.vm.reconfigure(req.Spec) })
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: ref}}
}

func (vm *VM) reconfigure(spec types.VirtualMachineConfigSpec) error {
	if err := vm.gone(); err != nil {
		return err
	}
	rest := spec
	rest.ChangeTrackingEnabled, rest.ExtraConfig = nil, nil
	if !reflect.DeepEqual(rest, types.VirtualMachineConfigSpec{}) {
		msg := vm.s.refuse("ReconfigVM_Task on %s: only changeTrackingEnabled and extraConfig are modeled", vm.obj.Self)
		return SOAPFault{&types.NotSupported{}, msg}
	}
	want := vm.tracked
	if spec.ChangeTrackingEnabled != nil {
		want = *spec.ChangeTrackingEnabled
	}
	if want && vm.spec.HardwareVersion < 7 {
		return SOAPFault{&types.InvalidVmConfig{Property: "changeTrackingEnabled"}, "Change tracking needs hardware version 7."}
	}
	vm.publish(func() {
		if want && !vm.tracked {
			vm.trackedLate = len(vm.snapshots) > 0
		}
		vm.tracked = want
		for _, o := range spec.ExtraConfig {
			vm.setExtra(o.GetOptionValue())
		}
	})
	return nil
}

// setExtra sets an ExtraConfig value; an empty one removes it.
func (vm *VM) setExtra(o *types.OptionValue) {
	values := map[string]string{}
	for k, v := range vm.spec.ExtraConfig {
		if !strings.EqualFold(k, o.Key) {
			values[k] = v
		}
	}
	if v, _ := o.Value.(string); v != "" {
		values[o.Key] = v
	}
	vm.spec.ExtraConfig = values
}

// PowerOnVMTask is PowerOnVM_Task.
func (m *machine) PowerOnVMTask(_ *simulator.Context, _ *types.PowerOnVM_Task) soap.HasFault {
	ref := m.vm.run("PowerOnVM_Task", func() (any, error) {
		return nil, m.vm.switchPower(types.VirtualMachinePowerStatePoweredOn)
	})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}

// PowerOffVMTask is PowerOffVM_Task.
func (m *machine) PowerOffVMTask(_ *simulator.Context, _ *types.PowerOffVM_Task) soap.HasFault {
	ref := m.vm.run("PowerOffVM_Task", func() (any, error) {
		return nil, m.vm.switchPower(types.VirtualMachinePowerStatePoweredOff)
	})
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: ref}}
}

func (vm *VM) switchPower(state types.VirtualMachinePowerState) error {
	if err := vm.gone(); err != nil {
		return err
	}
	if vm.spec.Power == state {
		return SOAPFault{&types.InvalidPowerState{RequestedState: state, ExistingState: state},
			"The attempted operation cannot be performed in the current state."}
	}
	vm.publish(func() { vm.setPower(state) })
	return nil
}

// ShutdownGuest asks the guest to power off, which it does at once.
func (m *machine) ShutdownGuest(_ *simulator.Context, _ *types.ShutdownGuest) soap.HasFault {
	body := &methods.ShutdownGuestBody{}
	if m.vm.spec.Power != types.VirtualMachinePowerStatePoweredOn {
		body.Fault_ = simulator.Fault("The server is not running.", &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: m.vm.spec.Power,
		})
		return body
	}
	var err error
	m.vm.s.outside(func() { err = m.vm.SetPower(types.VirtualMachinePowerStatePoweredOff) })
	if err != nil {
		body.Fault_ = simulator.Fault(err.Error(), &types.ManagedObjectNotFound{Obj: m.Self})
		return body
	}
	body.Res = &types.ShutdownGuestResponse{}
	return body
}
