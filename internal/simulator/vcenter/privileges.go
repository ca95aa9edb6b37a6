package vcenter

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// denial takes a privilege away, on an object and what is below it.
type denial struct{ privilege, object string }

// parseDenials reads "VApp.Export" and "VApp.Export@web".
func parseDenials(list []string) []denial {
	var parsed []denial
	for _, text := range list {
		privilege, object, _ := strings.Cut(text, "@")
		parsed = append(parsed, denial{privilege, object})
	}
	return parsed
}

// Deny replaces Config.Denied from now on.
func (s *Server) Deny(privileges ...string) {
	s.world.Lock()
	defer s.world.Unlock()
	s.denied = parseDenials(privileges)
}

// allowed says whether the user has a privilege on an object. The caller holds
// world.
func (s *Server) allowed(object types.ManagedObjectReference, privilege string) bool {
	for _, d := range s.denied {
		if d.privilege == privilege && (d.object == "" || s.within(object, d.object)) {
			return false
		}
	}
	return true
}

// within says whether an object or one above it in the inventory has the name
// or the reference that is given.
func (s *Server) within(object types.ManagedObjectReference, wanted string) bool {
	for at := &object; at != nil; {
		if wanted == at.Value || wanted == at.String() {
			return true
		}
		e, ok := s.model.Map().Get(*at).(mo.Entity)
		if !ok {
			return false
		}
		if e.Entity().Name == wanted {
			return true
		}
		at = e.Entity().Parent
	}
	return false
}

// needed is the privilege that a method takes on its object, as VMware's API
// reference has it; those of ReconfigVM_Task depend on its argument.
func needed(method string) string {
	switch method {
	case "CreateSnapshot_Task", "CreateSnapshotEx_Task":
		return "VirtualMachine.State.CreateSnapshot"
	case "RemoveSnapshot_Task", "RemoveAllSnapshots_Task", "ConsolidateVMDisks_Task":
		return "VirtualMachine.State.RemoveSnapshot"
	case "RevertToSnapshot_Task", "RevertToCurrentSnapshot_Task":
		return "VirtualMachine.State.RevertToSnapshot"
	case "QueryChangedDiskAreas":
		return "VirtualMachine.Provisioning.DiskRandomRead"
	case "ExportSnapshot", "ExportVm":
		return "VApp.Export"
	case "PowerOnVM_Task":
		return "VirtualMachine.Interact.PowerOn"
	case "PowerOffVM_Task", "ShutdownGuest":
		return "VirtualMachine.Interact.PowerOff"
	case "AcquireGenericServiceTicket":
		return "System.View"
	}
	return ""
}

// permit is the fault of a call that the user may not make. A snapshot's
// privileges are those of its server.
func (s *Server) permit(object types.ManagedObjectReference, method string) error {
	privilege := needed(method)
	if privilege == "" {
		return nil
	}
	s.world.RLock()
	defer s.world.RUnlock()
	if snap, ok := s.model.Map().Get(object).(*snapshotObject); ok {
		object = snap.vm.obj.Self
	}
	if s.allowed(object, privilege) {
		return nil
	}
	return noPermission(object, privilege)
}

func noPermission(object types.ManagedObjectReference, privilege string) SOAPFault {
	return SOAPFault{&types.NoPermission{
		Object: &object, PrivilegeId: privilege,
		MissingPrivileges: []types.NoPermissionEntityPrivileges{{Entity: object, PrivilegeIds: []string{privilege}}},
	}, "Permission to perform this operation was denied."}
}

// mayReconfigure is the fault of a ReconfigVM_Task that the user may not make.
// The caller holds world.
func (vm *VM) mayReconfigure(spec types.VirtualMachineConfigSpec) error {
	object := vm.obj.Self
	if p := "VirtualMachine.Config.ChangeTracking"; spec.ChangeTrackingEnabled != nil && !vm.s.allowed(object, p) {
		return noPermission(object, p)
	}
	if p := "VirtualMachine.Config.AdvancedConfig"; len(spec.ExtraConfig) > 0 && !vm.s.allowed(object, p) {
		return noPermission(object, p)
	}
	return nil
}

// mayRead says why the user may not read files of a datastore; empty if they
// may. VMware's programming guide asks for both privileges.
func (s *Server) mayRead(store string) string {
	s.world.RLock()
	defer s.world.RUnlock()
	ds, ok := s.places.datastores[store]
	for _, p := range []string{"Datastore.Browse", "Datastore.FileManagement"} {
		if ok && !s.allowed(ds.Self, p) {
			return fmt.Sprintf("the privilege %s on the datastore %s is missing", p, store)
		}
	}
	return ""
}

// authorization knows which privileges the user lacks.
type authorization struct {
	*simulator.AuthorizationManager
	s *Server
}

// HasPrivilegeOnEntities answers for each entity and privilege.
func (a *authorization) HasPrivilegeOnEntities(req *types.HasPrivilegeOnEntities) soap.HasFault {
	body := &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{}}
	for _, entity := range req.Entity {
		p := types.EntityPrivilege{Entity: entity}
		for _, id := range req.PrivId {
			p.PrivAvailability = append(p.PrivAvailability, types.PrivilegeAvailability{PrivId: id, IsGranted: a.s.allowed(entity, id)})
		}
		body.Res.Returnval = append(body.Res.Returnval, p)
	}
	return body
}
