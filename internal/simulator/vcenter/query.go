package vcenter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// QueryChangedDiskAreas answers a page of the areas that changed between a
// change ID and a snapshot, or of those allocated at the snapshot for "*".
func (m *machine) QueryChangedDiskAreas(_ *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	body := &methods.QueryChangedDiskAreasBody{}
	info, err := m.vm.changedAreas(req)
	if err != nil {
		f := asSOAP(err)
		body.Fault_ = simulator.Fault(f.Message, f.Fault)
		return body
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: *info}
	return body
}

func invalid(property, format string, args ...any) error {
	return SOAPFault{&types.InvalidArgument{InvalidProperty: property}, fmt.Sprintf(format, args...)}
}

func (vm *VM) changedAreas(req *types.QueryChangedDiskAreas) (*types.DiskChangeInfo, error) {
	d, state, err := vm.queried(req.Snapshot, req.DeviceKey)
	if err != nil {
		return nil, err
	}
	if req.StartOffset < 0 || req.StartOffset >= state.size {
		return nil, invalid("startOffset", "The offset %d is outside of a disk of %d bytes.", req.StartOffset, state.size)
	}
	d.v.mu.RLock()
	defer d.v.mu.RUnlock()
	if state.change.uuid == "" {
		return nil, d.trackFault("changes were not tracked when the snapshot was taken")
	}
	var areas []Extent
	if req.ChangeId == "*" {
		areas, err = d.allocatedAnswer(state)
	} else {
		areas, err = d.changedSince(req.ChangeId, state)
	}
	if err != nil {
		return nil, err
	}
	return vm.s.page(areas, req.StartOffset, state.size), nil
}

// queried finds the disk, and its state at the snapshot. Without a snapshot the
// state is today's, which vSphere knows only of a server that is powered off.
func (vm *VM) queried(ref *types.ManagedObjectReference, key int32) (*Disk, diskState, error) {
	if ref == nil {
		if vm.spec.Power == types.VirtualMachinePowerStatePoweredOn {
			return nil, diskState{}, invalid("snapshot", "A running server can only be asked about a snapshot.")
		}
		for _, d := range vm.disks {
			if d.key == key {
				d.v.mu.Lock()
				defer d.v.mu.Unlock()
				return d, diskState{d.v.live, d.v.tracking.turn(), d.v.size}, nil
			}
		}
		return nil, diskState{}, invalid("deviceKey", "There is no disk %d.", key)
	}
	i := slices.IndexFunc(vm.snapshots, func(s *snapshot) bool { return s.obj.Self == *ref })
	if i < 0 {
		return nil, diskState{}, SOAPFault{&types.ManagedObjectNotFound{Obj: *ref}, "The snapshot is gone."}
	}
	for d, state := range vm.snapshots[i].states {
		if d.key == key {
			return d, state, nil
		}
	}
	return nil, diskState{}, invalid("deviceKey", "The snapshot has no disk %d.", key)
}

// trackFault is what ESXi answers when its change tracking file does not have
// the answer.
func (d *Disk) trackFault(format string, args ...any) error {
	root := d.v.live
	for root.parent != nil {
		root = root.parent
	}
	file := object.DatastorePath{Datastore: d.spec.Datastore, Path: strings.TrimSuffix(root.file, ".vmdk") + "-ctk.vmdk"}
	return SOAPFault{&types.FileFault{File: file.String()}, fmt.Sprintf("Error caused by file %s: ", file.String()) + fmt.Sprintf(format, args...)}
}

// allocatedAnswer is the answer to "*".
func (d *Disk) allocatedAnswer(state diskState) ([]Extent, error) {
	how := d.vm.quirks.Allocated
	if how == AllocatedDefault {
		how = AllocatedWhole
		if d.vm.s.places.datastores[d.spec.Datastore].Summary.Type == "VMFS" && !d.trackedLate {
			how = AllocatedAreas
		}
	}
	switch how {
	case AllocatedFails:
		return nil, d.trackFault("allocated areas are not known")
	case AllocatedWhole:
		return []Extent{{0, state.size}}, nil
	}
	return d.v.allocated(state.top, state.size)
}

func (d *Disk) changedSince(id string, state diskState) ([]Extent, error) {
	since, err := parseChangeID(id)
	if err != nil {
		return nil, invalid("changeId", "A specified parameter was not correct: changeId. %v.", err)
	}
	set, err := d.v.tracking.between(since, state.change)
	if err != nil {
		return nil, d.trackFault("%v", err)
	}
	areas := union(grainExtents(set), state.size)
	quirks := d.vm.quirks
	for _, g := range d.grown {
		if since.epoch > g.after.epoch || since.uuid != g.after.uuid || state.size <= g.size {
			continue
		}
		switch quirks.Resized {
		case ResizedFails:
			return nil, d.trackFault("the disk was resized")
		case ResizedWrong:
			areas = union(areas, g.size)
		}
	}
	if omit := quirks.OmitChange; omit != nil {
		areas = slices.DeleteFunc(areas, func(e Extent) bool { return omit(d.key, e) })
	}
	return areas, nil
}

// page cuts the answer that begins at start. Its length leads to where the next
// page begins: after the last page that is at or beyond the disk's end.
func (s *Server) page(areas []Extent, start, size int64) *types.DiskChangeInfo {
	i, _ := slices.BinarySearchFunc(areas, start, func(e Extent, at int64) int {
		if e.End() <= at {
			return -1
		}
		return 1
	})
	areas = areas[i:]
	end := roundUp(size)
	switch {
	case s.cfg.EmptyPages && len(areas) > 0 && areas[0].Offset > start:
		end, areas = areas[0].Offset, nil
	case len(areas) > s.cfg.AreasPerPage:
		end, areas = areas[s.cfg.AreasPerPage].Offset, areas[:s.cfg.AreasPerPage]
		if s.cfg.EmptyPages {
			end = areas[len(areas)-1].End()
		}
	}
	info := &types.DiskChangeInfo{StartOffset: start, Length: end - start}
	for _, e := range areas {
		from := max(e.Offset, start)
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: from, Length: e.End() - from})
	}
	return info
}
