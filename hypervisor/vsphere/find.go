package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// vm is a virtual machine as an operation sees it, read at one moment.
type vm struct {
	mo.VirtualMachine
	id hypervisor.ServerID
}

// vmProperties are what operations on one machine look at.
var vmProperties = []string{
	"name", "disabledMethod", "datastore", "snapshot", "recentTask",
	"config.uuid", "config.instanceUuid", "config.template", "config.version", "config.bootOptions",
	"config.changeTrackingEnabled", "config.keyId", "config.extraConfig", "config.hardware.device",
	"runtime.powerState", "runtime.host", "runtime.connectionState", "runtime.consolidationNeeded",
	"guest.toolsRunningStatus",
}

// find looks a server up by its ID; ServerUnknown when there is none.
func (s *Source) find(ctx context.Context, id hypervisor.ServerID) (*vm, error) {
	services, err := s.session.services(ctx)
	if err != nil {
		return nil, err
	}
	uuid, number, _ := strings.Cut(string(id), "@")
	for _, instance := range []bool{true, false} {
		res, err := methods.FindAllByUuid(ctx, s.session, &types.FindAllByUuid{
			This: *services.SearchIndex, Uuid: uuid, VmSearch: true, InstanceUuid: types.NewBool(instance),
		})
		if err != nil {
			return nil, fmt.Errorf("look for server %s: %w", id, explain(err, "the search index"))
		}
		slices.SortFunc(res.Returnval, older)
		for _, r := range res.Returnval {
			if number != "" && r.Value != number {
				continue
			}
			v, err := s.read(ctx, r)
			if isGone(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read server %s: %w", id, explain(err, "the virtual machine "+r.Value))
			}
			// The search by BIOS UUID also finds those that have another instance UUID.
			if v.Config == nil || v.Config.Template || identity(v.Config.InstanceUuid, v.Config.Uuid) != uuid {
				continue
			}
			v.id = id
			return v, nil
		}
	}
	return nil, ServerUnknown.New(nil, "server %s", id)
}

// read reads a machine's properties.
func (s *Source) read(ctx context.Context, r ref) (*vm, error) {
	var found []mo.VirtualMachine
	if err := s.session.retrieve(ctx, []ref{r}, vmProperties, &found); err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("vSphere gave %d objects for %s", len(found), r.Value)
	}
	return &vm{VirtualMachine: found[0]}, nil
}

// refresh reads v again.
func (s *Source) refresh(ctx context.Context, v *vm) error {
	fresh, err := s.read(ctx, v.Self)
	if err != nil {
		return fmt.Errorf("read %s: %w", v.Name, explain(err, v.Name))
	}
	fresh.id = v.id
	*v = *fresh
	return nil
}

func (v *vm) poweredOn() bool {
	return v.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
}

func (v *vm) needsConsolidation() bool {
	return v.Runtime.ConsolidationNeeded
}

func (v *vm) disks() []virtualDisk {
	if v.Config == nil {
		return nil
	}
	return disksOf(v.Config.Hardware.Device, bootDisks(v.Config.BootOptions))
}

// node is a snapshot in a machine's tree of snapshots.
type node struct {
	types.VirtualMachineSnapshotTree
	depth int // 1 for a snapshot without a parent
}

// nodes flattens the tree, parents before children.
func nodes(info *types.VirtualMachineSnapshotInfo) (all []node) {
	if info == nil {
		return nil
	}
	var walk func([]types.VirtualMachineSnapshotTree, int)
	walk = func(level []types.VirtualMachineSnapshotTree, depth int) {
		for _, t := range level {
			all = append(all, node{t, depth})
			walk(t.ChildSnapshotList, depth+1)
		}
	}
	walk(info.RootSnapshotList, 1)
	return all
}

// snapshotName is the name of run's snapshots.
func (s *Source) snapshotName(run hypervisor.RunID) string { return s.prefix + string(run) }

// runOf tells which run of ours a snapshot's name belongs to.
func (s *Source) runOf(name string) (hypervisor.RunID, bool) {
	run, ours := strings.CutPrefix(name, s.prefix)
	return hypervisor.RunID(run), ours && run != ""
}

// reference makes a snapshot's reference of its place in the tree. The state
// that vSphere notes there says nothing about the server: it is "powered off"
// for every snapshot without memory.
func reference(id hypervisor.ServerID, run hypervisor.RunID, n node) hypervisor.SnapshotRef {
	r := hypervisor.SnapshotRef{
		Server: id, Run: run, ID: n.Snapshot.Value, Created: n.CreateTime.UTC().Truncate(time.Microsecond),
		Consistency: hypervisor.CrashConsistent,
	}
	if n.Quiesced {
		r.Consistency = hypervisor.Quiesced
	}
	return r
}
