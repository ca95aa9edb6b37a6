package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// snapshot is an open snapshot of ours.
type snapshot struct {
	source  *Source
	ref     ref // of the snapshot
	machine ref
	what    hypervisor.SnapshotRef
	frozen  []virtualDisk
	disks   []hypervisor.Disk
	stores  *datastores
	leases  atomic.Int32 // exports under way
	host    ref          // that the machine is on
	esx     *host        // what is known of it; nil where vSphere does not show it
	direct  *direct      // around vCenter; nil where there is no such way,
	around  string       // and this is why
}

// Open verifies the snapshot and finds out how each of its disks can be read.
func (s *Source) Open(ctx context.Context, what hypervisor.SnapshotRef) (hypervisor.Snapshot, error) {
	sn := &snapshot{source: s, ref: ref{Type: "VirtualMachineSnapshot", Value: what.ID}, what: what}
	object, v, err := sn.see(ctx)
	if err != nil {
		return nil, fmt.Errorf("open snapshot %s of server %s: %w", what.ID, what.Server, err)
	}
	sn.machine = v.Self
	sn.frozen = frozenDisks(object, v)
	if sn.stores, err = s.datastores(ctx, v); err != nil {
		return nil, fmt.Errorf("open snapshot %s of %s: %w", what.ID, v.Name, err)
	}
	if err := sn.findHost(ctx, v); err != nil {
		return nil, fmt.Errorf("open snapshot %s of %s: %w", what.ID, v.Name, err)
	}
	for i, f := range sn.frozen {
		if f.skip != "" {
			continue
		}
		d := &disk{snapshot: sn, virtualDisk: f, position: i, title: v.Name + ", " + f.label, shares: sn.shares(f)}
		d.flaw = trackingFlaw(v.Config.ChangeTrackingEnabled, v.Config.ExtraConfig, f.node)
		if d.flaw == "" && f.changeID == "" {
			d.flaw = "the snapshot has no change ID for the disk: tracking starts with the next snapshot after it was switched on"
		}
		sn.disks = append(sn.disks, d)
		if err := d.choose(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("open snapshot %s: %s: %w", what.ID, d.title, err), sn.Close())
		}
	}
	return sn, nil
}

// see reads the snapshot and its machine, and makes sure that it is the one
// that was meant.
func (sn *snapshot) see(ctx context.Context) (*mo.VirtualMachineSnapshot, *vm, error) {
	s := sn.source
	object, err := s.snapshotObject(ctx, sn.what.ID)
	if err != nil {
		return nil, nil, err
	}
	if object == nil {
		return nil, nil, hypervisor.SnapshotGone.New(nil, "vSphere does not know %s", sn.what.ID)
	}
	v, err := s.read(ctx, object.Vm)
	switch {
	case isGone(err):
		return nil, nil, hypervisor.SnapshotGone.New(nil, "its virtual machine is gone")
	case err != nil:
		return nil, nil, explain(err, object.Vm.Value)
	case v.Config == nil:
		return nil, nil, Unreachable.New(nil, "the configuration of %s cannot be read now", v.Name)
	}
	v.id = sn.what.Server
	if uuid, _, _ := strings.Cut(string(sn.what.Server), "@"); identity(v.Config.InstanceUuid, v.Config.Uuid) != uuid {
		return nil, nil, hypervisor.SnapshotGone.New(nil, "%s belongs to another server now: %s", sn.what.ID, v.Name)
	}
	for _, n := range nodes(v.Snapshot) {
		if n.Snapshot == sn.ref && n.Name == s.snapshotName(sn.what.Run) {
			return object, v, nil
		}
	}
	return nil, nil, hypervisor.SnapshotGone.New(nil, "%s has no snapshot %s called %q", v.Name, sn.what.ID, s.snapshotName(sn.what.Run))
}

// findHost finds the host that the machine is on, and whether its disk files
// can be had from there.
func (sn *snapshot) findHost(ctx context.Context, v *vm) error {
	if v.Runtime.Host == nil {
		sn.around = "vSphere does not tell on which host it is"
		return nil
	}
	sn.host = *v.Runtime.Host
	services, err := sn.source.session.services(ctx)
	if err != nil {
		return err
	}
	if sn.esx, err = sn.source.host(ctx, sn.host); err != nil {
		return err
	}
	switch {
	case services.About.ApiType != "VirtualCenter": // the session is with the host itself
	case sn.esx == nil:
		sn.around = "vSphere does not show its host"
	default:
		sn.direct = sn.esx.directly()
	}
	return nil
}

// frozenDisks are the disks of the snapshot's own configuration: theirs are
// the change IDs and files that belong to the frozen state.
func frozenDisks(object *mo.VirtualMachineSnapshot, v *vm) []virtualDisk {
	return disksOf(object.Config.Hardware.Device, bootDisks(v.Config.BootOptions))
}

// Disks returns those that were snapshotted, as the firmware sees them.
func (sn *snapshot) Disks() []hypervisor.Disk { return slices.Clone(sn.disks) }

// Verify looks at the snapshot again.
func (sn *snapshot) Verify(ctx context.Context) error {
	object, v, err := sn.see(ctx)
	if err != nil {
		return fmt.Errorf("verify snapshot %s: %w", sn.what.ID, err)
	}
	now := frozenDisks(object, v)
	same := slices.EqualFunc(now, sn.frozen, func(a, b virtualDisk) bool {
		return a.key == b.key && a.id == b.id && a.file == b.file && slices.Equal(a.parents, b.parents) && a.size == b.size && a.changeID == b.changeID
	})
	if !same {
		return hypervisor.SnapshotGone.New(nil, "the disks of snapshot %s of %s are not the same files any more", sn.what.ID, v.Name)
	}
	return nil
}

// Close ends what the disks' ways hold; the session is the source's.
func (sn *snapshot) Close() error {
	var errs []error
	for _, d := range sn.disks {
		if w := d.(*disk).way; w != nil {
			errs = append(errs, w.close())
		}
	}
	return errors.Join(errs...)
}

// disk is one disk of an open snapshot.
type disk struct {
	virtualDisk
	snapshot *snapshot
	position int
	title    string // for people, in errors
	flaw     string // why change tracking cannot be relied on, or empty
	shares   []hypervisor.Share

	way            way // nil for a disk that cannot be read
	transport, why string
	unreadable     error
}

func (d *disk) Info() hypervisor.DiskInfo {
	info := hypervisor.DiskInfo{
		ID:        d.id,
		Size:      d.size,
		Name:      d.label + ", " + d.file,
		Position:  d.position,
		ChangeID:  d.changeID,
		Transport: d.transport,
		Why:       d.why,
		Shares:    d.shares,
	}
	if d.way != nil {
		info.RandomAccess, info.Patience = d.way.randomAccess(), d.way.patience()
	}
	if d.flaw != "" {
		info.ChangeID = ""
	}
	return info
}

// Read reads by the way that was chosen.
func (d *disk) Read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	if err := checkExtents(in, d.size); err != nil {
		return fmt.Errorf("%s: %w", d.title, err)
	}
	if d.way == nil {
		return d.unreadable
	}
	ctx, cancel := d.snapshot.source.session.alive(ctx)
	defer cancel()
	return d.failed(ctx, d.way.read(ctx, in, emit))
}

// explain says what failed with the disk, and finds a vanished snapshot or a
// missing privilege in it.
func (d *disk) explain(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case isGone(err):
		err = hypervisor.SnapshotGone.New(err, "snapshot %s", d.snapshot.what.ID)
	case fault.Is(err, &types.NoPermission{}):
		err = explain(err, d.title)
	}
	return fmt.Errorf("%s: %s: %w", d.title, what, err)
}
