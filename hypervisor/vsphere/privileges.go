package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// privilege is what vSphere must allow, and the operation that needs it.
type privilege struct {
	id, operation string
	// spared is what a run does without it; empty: no run succeeds.
	spared string
}

// How a run goes on when one of the ways to the bytes is closed.
const (
	byExport = "disks are read by snapshot export instead"
	byFiles  = "disks that cannot be read from their datastore cannot be read at all"
)

var (
	machinePrivileges = []privilege{
		{"System.Read", "looking at the server", ""},
		{"VirtualMachine.State.CreateSnapshot", "taking a snapshot", ""},
		{"VirtualMachine.State.RemoveSnapshot", "removing our snapshot", ""},
		{"VirtualMachine.Config.ChangeTracking", "enabling changed block tracking", "it has to be enabled by somebody else"},
		{"VirtualMachine.Provisioning.DiskRandomRead", "asking what changed", ""},
		{"VirtualMachine.Provisioning.GetVmFiles", "reading disk files", ""},
		{"VApp.Export", "exporting snapshots", byFiles},
	}
	datastorePrivileges = []privilege{
		{"System.Read", "looking at the datastore", ""},
		{"Datastore.Browse", "finding disk files", byExport},
		{"Datastore.FileManagement", "reading disk files", byExport},
	}
)

// privileges asks for the server and each of its datastores. Without both ways
// to the bytes, none of their privileges is spared.
func (in *inspection) privileges(ctx context.Context) error {
	s, v := in.source, in.v
	missing, asked, err := s.missing(ctx, []ref{v.Self}, machinePrivileges)
	if err != nil {
		return fmt.Errorf("ask for the privileges on it: %w", err)
	}
	onStores, _, err := s.missing(ctx, v.Datastore, datastorePrivileges)
	if err != nil {
		return fmt.Errorf("ask for the privileges on its datastores: %w", err)
	}
	if !asked {
		in.fact("", "privileges", "vSphere cannot be asked for them")
		return nil
	}
	names := map[ref]string{v.Self: v.Name}
	for _, r := range v.Datastore {
		names[r] = "datastore " + r.Value
	}
	if stores, err := s.datastores(ctx, v); err == nil { // a name is not worth a report
		for name, r := range stores.refs {
			names[r] = "datastore " + name
		}
	}
	missing = append(missing, onStores...)
	ways := 2
	for _, spared := range []string{byExport, byFiles} {
		if slices.ContainsFunc(missing, func(m lacking) bool { return m.spared == spared }) {
			ways--
		}
	}
	in.fact("", "privileges", "%d of %d", len(machinePrivileges)+len(v.Datastore)*len(datastorePrivileges)-len(missing),
		len(machinePrivileges)+len(v.Datastore)*len(datastorePrivileges))
	for _, m := range missing {
		what := fmt.Sprintf("the user %s lacks the privilege %s on %s, needed for %s", s.session.user, m.id, names[m.on], m.operation)
		blocks := m.spared == "" || ways == 0 && (m.spared == byExport || m.spared == byFiles)
		if !blocks {
			what += "; without it, " + m.spared
		}
		in.find(hypervisor.Finding{Code: PermissionDenied.Code, Blocks: blocks, Subject: m.id, What: what, Hint: PermissionDenied.Hint})
	}
	return nil
}

// everywhere tells which privileges our user has at the root of the inventory.
// To have them on the servers alone is better; so a missing one is no more
// than worth a word.
func (in *inspection) everywhere(ctx context.Context, root ref) error {
	wanted := slices.Clone(machinePrivileges)
	for _, p := range datastorePrivileges {
		if !slices.ContainsFunc(wanted, func(w privilege) bool { return w.id == p.id }) {
			wanted = append(wanted, p)
		}
	}
	missing, asked, err := in.source.missing(ctx, []ref{root}, wanted)
	if err != nil {
		return fmt.Errorf("ask for the privileges on the root folder: %w", err)
	}
	if !asked {
		in.fact("", "privileges", "vSphere cannot be asked for them")
		return nil
	}
	in.fact("", "privileges at the root", "%d of %d", len(wanted)-len(missing), len(wanted))
	if len(missing) == 0 {
		return nil
	}
	var names []string
	for _, m := range missing {
		names = append(names, m.id)
	}
	in.find(hypervisor.Finding{
		Code: "vsphere-privileges-not-global", Subject: "the root folder",
		What: fmt.Sprintf("the user %s does not have %s on the whole inventory: only servers in folders where it was given them can be replicated", in.source.session.user, strings.Join(names, ", ")),
		Hint: "Nothing if that is meant so; the check of a server tells what is missing there",
	})
	return nil
}

// lacking is a privilege missing on an object.
type lacking struct {
	privilege
	on ref
}

// missing asks which privileges our user lacks on the objects; asked is false
// where vSphere does not know the question.
func (s *Source) missing(ctx context.Context, on []ref, wanted []privilege) (missing []lacking, asked bool, err error) {
	if len(on) == 0 {
		return nil, true, nil
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
	if err != nil && (fault.Is(err, &types.NotSupported{}) || fault.Is(err, &types.MethodNotFound{})) {
		return nil, false, nil
	}
	if err != nil || res == nil {
		return nil, false, err
	}
	for _, entity := range res.Returnval {
		for _, a := range entity.PrivAvailability {
			i := slices.Index(ids, a.PrivId)
			if !a.IsGranted && i >= 0 {
				missing = append(missing, lacking{wanted[i], entity.Entity})
			}
		}
	}
	return missing, true, nil
}
