package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// snapshotDepth is how many snapshots may lie on top of each other.
const snapshotDepth = 31

// Check looks at one server: its disks, tracking, snapshots and state, and
// what our user may do with it.
func (s *Source) Check(ctx context.Context, id hypervisor.ServerID) (hypervisor.Report, error) {
	v, err := s.find(ctx, id)
	if err != nil {
		return hypervisor.Report{}, fmt.Errorf("check: %w", err)
	}
	var report hypervisor.Report
	for _, look := range []func(*vm) []hypervisor.Finding{checkState, checkDisks, checkTracking, s.checkSnapshots} {
		report.Findings = append(report.Findings, look(v)...)
	}
	full, err := s.fullDatastores(ctx, v.Datastore, float64(s.limits.FreePercent))
	if err != nil {
		return hypervisor.Report{}, fmt.Errorf("check %s: read the datastores' free space: %w", v.Name, explain(err, "the datastores of "+v.Name))
	}
	for _, what := range full {
		report.Findings = append(report.Findings, hypervisor.Finding{
			Code: DatastoreFull.Code, Blocks: true, Subject: v.Name, What: what, Hint: DatastoreFull.Hint,
		})
	}
	privileges, err := s.checkPrivileges(ctx, v)
	if err != nil {
		return hypervisor.Report{}, fmt.Errorf("check the privileges on %s: %w", v.Name, err)
	}
	report.Findings = append(report.Findings, privileges...)
	return report, nil
}

func checkState(v *vm) (found []hypervisor.Finding) {
	if c := v.Runtime.ConnectionState; c != "" && c != types.VirtualMachineConnectionStateConnected {
		found = append(found, hypervisor.Finding{
			Code: "vsphere-not-connected", Blocks: true, Subject: v.Name,
			What: fmt.Sprintf("vSphere's connection to the virtual machine is %q", c),
			Hint: "Bring its host and datastores back, or register it again",
		})
	}
	needed := []string{"CreateSnapshot_Task", "RemoveSnapshot_Task"}
	for _, method := range needed {
		if slices.Contains(v.DisabledMethod, method) && (method != "RemoveSnapshot_Task" || v.Snapshot != nil) {
			found = append(found, hypervisor.Finding{
				Code: MethodDisabled.Code, Blocks: true, Subject: v.Name,
				What: fmt.Sprintf("%s is disabled on the virtual machine: a backup or migration by another product is under way, or left it so", method),
				Hint: MethodDisabled.Hint,
			})
		}
	}
	if v.needsConsolidation() {
		found = append(found, hypervisor.Finding{
			Code: "vsphere-consolidation-needed", Subject: v.Name,
			What: "the disks need consolidation; it is done before the next snapshot is taken",
			Hint: "Nothing, unless it fails: then look for a product that holds the disk files",
		})
	}
	return found
}

func checkDisks(v *vm) (found []hypervisor.Finding) {
	if v.Config.KeyId != nil {
		found = append(found, hypervisor.Finding{
			Code: "vsphere-encrypted", Blocks: true, Subject: v.Name,
			What: "the virtual machine is encrypted by vSphere: its disk files cannot be read without the key",
			Hint: "Decrypt it in vSphere for the migration (its storage policy); encryption inside the guest is no hindrance",
		})
	}
	for _, device := range v.Config.Hardware.Device {
		if _, ok := device.(*types.VirtualTPM); ok {
			found = append(found, hypervisor.Finding{
				Code: "vsphere-virtual-tpm", Subject: v.Name,
				What: "the virtual machine has a virtual TPM, whose content stays behind",
				Hint: "Have the recovery key of a disk encryption that is bound to the TPM (BitLocker) at hand, or suspend it before cutover",
			})
		}
	}
	for _, d := range v.disks() {
		switch {
		case d.shared:
			found = append(found, hypervisor.Finding{
				Code: "vsphere-disk-shared", Blocks: true, Subject: d.label,
				What: "the disk cannot be replicated: " + d.skip + "; vSphere takes no snapshot of the running server at all",
				Hint: "Switch the server off and remove the sharing for the migration, or carry the shared data over by other means",
			})
		case d.skip != "":
			found = append(found, hypervisor.Finding{
				Code: "vsphere-disk-not-snapshotted", Blocks: true, Subject: d.label,
				What: "the disk cannot be replicated: " + d.skip,
				Hint: "Convert it to an ordinary disk in vSphere, or let the job leave it out",
			})
		case d.parent && v.Snapshot == nil:
			found = append(found, hypervisor.Finding{
				Code: "vsphere-disk-linked", Blocks: true, Subject: d.label,
				What: "the disk is a linked clone's: it is spread over several files, " + d.file + " is the last",
				Hint: "Make a full clone of the virtual machine, or consolidate it",
			})
		case !d.flat && !d.parent:
			found = append(found, hypervisor.Finding{
				Code: "vsphere-disk-not-flat", Blocks: true, Subject: d.label,
				What: "the disk is not kept as a plain file of a datastore: " + d.file,
				Hint: DiskUnreadable.Hint,
			})
		}
	}
	return found
}

func checkTracking(v *vm) (found []hypervisor.Finding) {
	if why := untrackable(v); why != "" {
		return []hypervisor.Finding{{
			Code: "vsphere-tracking-unavailable", Subject: v.Name,
			What: "changed blocks cannot be tracked, each run reads every disk whole: " + why,
			Hint: "Upgrade the virtual hardware if that takes too long",
		}}
	}
	if enabled := v.Config.ChangeTrackingEnabled; enabled == nil || !*enabled {
		return []hypervisor.Finding{{
			Code: "vsphere-tracking-off", Subject: v.Name,
			What: "changed block tracking is off: each run reads every disk whole",
			Hint: "Enable it from Skylift at a quiet time; a running server is stunned for as long as a snapshot is made and removed",
		}}
	}
	for _, d := range v.disks() {
		if d.skip != "" {
			continue
		}
		if flaw := trackingFlaw(v.Config.ChangeTrackingEnabled, v.Config.ExtraConfig, d.node); flaw != "" {
			found = append(found, hypervisor.Finding{
				Code: "vsphere-tracking-flawed", Subject: d.label,
				What: flaw + ": each run reads the disk whole",
				Hint: "Enable tracking from Skylift once more; without snapshots on the server",
			})
		}
	}
	return found
}

func (s *Source) checkSnapshots(v *vm) (found []hypervisor.Finding) {
	var foreign []string
	deepest := 0
	for _, n := range nodes(v.Snapshot) {
		deepest = max(deepest, n.depth)
		if _, ours := s.runOf(n.Name); !ours {
			foreign = append(foreign, n.Name)
		}
	}
	if deepest >= snapshotDepth {
		found = append(found, hypervisor.Finding{
			Code: "vsphere-snapshots-too-deep", Blocks: true, Subject: v.Name,
			What: fmt.Sprintf("%d snapshots lie on top of each other, vSphere allows no more", deepest),
			Hint: "Remove snapshots that nobody needs",
		})
	}
	if len(foreign) > 0 {
		found = append(found, hypervisor.Finding{
			Code: "vsphere-foreign-snapshots", Subject: v.Name,
			What: fmt.Sprintf("there are snapshots of others (%s): they are left alone, but spread the disks over several files, which cannot be read from the datastore", strings.Join(foreign, ", ")),
			Hint: "Remove them if nobody needs them; a revert to one makes the next run compare everything",
		})
	}
	return found
}

// privilege is what vSphere must allow, and the operation that needs it.
type privilege struct{ id, operation string }

var (
	machinePrivileges = []privilege{
		{"VirtualMachine.State.CreateSnapshot", "taking a snapshot"},
		{"VirtualMachine.State.RemoveSnapshot", "removing our snapshot"},
		{"VirtualMachine.Config.ChangeTracking", "enabling changed block tracking"},
		{"VirtualMachine.Provisioning.DiskRandomRead", "asking what changed"},
		{"VirtualMachine.Provisioning.GetVmFiles", "reading disk files"},
	}
	datastorePrivileges = []privilege{
		{"Datastore.Browse", "finding disk files"},
		{"Datastore.FileManagement", "reading disk files"},
	}
)

// checkPrivileges asks for the server and each of its datastores.
func (s *Source) checkPrivileges(ctx context.Context, v *vm) (found []hypervisor.Finding, err error) {
	names := map[ref]string{v.Self: v.Name}
	stores, err := s.datastores(ctx, v)
	if err != nil {
		return nil, err
	}
	for name, r := range stores.refs {
		names[r] = "datastore " + name
	}
	missing, err := s.missing(ctx, []ref{v.Self}, machinePrivileges)
	if err != nil {
		return nil, err
	}
	onStores, err := s.missing(ctx, v.Datastore, datastorePrivileges)
	if err != nil {
		return nil, err
	}
	for _, m := range append(missing, onStores...) {
		found = append(found, hypervisor.Finding{
			Code: PermissionDenied.Code, Blocks: true, Subject: m.id,
			What: fmt.Sprintf("the user %s lacks the privilege %s on %s, needed for %s", s.session.user, m.id, names[m.on], m.operation),
			Hint: PermissionDenied.Hint,
		})
	}
	return found, nil
}

// lacking is a privilege missing on an object.
type lacking struct {
	privilege
	on ref
}

func (s *Source) missing(ctx context.Context, on []ref, wanted []privilege) (missing []lacking, err error) {
	if len(on) == 0 {
		return nil, nil
	}
	ids := make([]string, len(wanted))
	for i, p := range wanted {
		ids[i] = p.id
	}
	var res *types.HasPrivilegeOnEntitiesResponse
	err = s.session.steadily(func() error { // the session's key changes with a login
		services, key, err := s.session.identity(ctx)
		if err != nil {
			return err
		}
		if services.AuthorizationManager == nil {
			return nil
		}
		res, err = methods.HasPrivilegeOnEntities(ctx, s.session, &types.HasPrivilegeOnEntities{
			This: *services.AuthorizationManager, Entity: on, SessionId: key, PrivId: ids,
		})
		return err
	})
	if err != nil || res == nil {
		return nil, err
	}
	for _, entity := range res.Returnval {
		for _, a := range entity.PrivAvailability {
			i := slices.Index(ids, a.PrivId)
			if !a.IsGranted && i >= 0 {
				missing = append(missing, lacking{wanted[i], entity.Entity})
			}
		}
	}
	return missing, nil
}
