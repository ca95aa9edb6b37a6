package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// Held lists our snapshots over all machines, templates too, with one
// question to vSphere; there are no anchors.
func (s *Source) Held(ctx context.Context) ([]hypervisor.SnapshotRef, []hypervisor.Anchor, error) {
	var machines []mo.VirtualMachine
	err := s.session.steadily(func() (err error) {
		machines, err = s.allSnapshots(ctx)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for our snapshots: %w", explain(err, "the inventory"))
	}
	slices.SortFunc(machines, func(a, b mo.VirtualMachine) int { return older(a.Self, b.Self) })
	var held []hypervisor.SnapshotRef
	var on []ref // the machine of each
	taken := map[string]bool{}
	for _, m := range machines {
		if m.Config == nil {
			continue // out of reach: neither nameable nor changeable now
		}
		uuid := identity(m.Config.InstanceUuid, m.Config.Uuid)
		id := hypervisor.ServerID(uuid)
		if taken[uuid] || m.Config.Template {
			id = qualified(uuid, m.Self)
		} else {
			taken[uuid] = true
		}
		for _, n := range nodes(m.Snapshot) {
			if run, ours := s.runOf(n.Name); ours {
				r := reference(id, run, n)
				r.Consistency = ""
				held, on = append(held, r), append(on, m.Self)
			}
		}
	}
	full, err := s.runningFull(ctx, on)
	if err != nil {
		return nil, nil, fmt.Errorf("see how full the datastores of our snapshots are: %w", explain(err, "the datastores"))
	}
	for i, m := range on {
		held[i].Urgent = full[m]
	}
	return held, nil, nil
}

// runningFull says of machines with snapshots of ours which have a datastore
// that is about to run full: all that such a machine writes takes up more of
// it, and once it is full every server on it stops. The limit is half of what
// must be free for a snapshot to be taken.
func (s *Source) runningFull(ctx context.Context, machines []ref) (map[ref]string, error) {
	machines = slices.CompactFunc(slices.Clone(machines), func(a, b ref) bool { return a == b })
	var found []mo.VirtualMachine
	if err := s.session.retrieve(ctx, machines, []string{"datastore"}, &found); err != nil && !isGone(err) {
		return nil, err
	}
	full := map[ref]string{}
	for _, m := range found {
		stores, err := s.fullDatastores(ctx, m.Datastore, float64(s.limits.FreePercent)/2)
		if err != nil && !isGone(err) {
			return nil, err
		}
		full[m.Self] = strings.Join(stores, "; ")
	}
	return full, nil
}

func (s *Source) allSnapshots(ctx context.Context) (machines []mo.VirtualMachine, err error) {
	view, destroy, err := s.session.view(ctx, "VirtualMachine")
	if err != nil {
		return nil, err
	}
	defer func() { err = s.tidy(err, destroy(ctx)) }()
	objects, err := s.session.retrieveSpec(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{viewed(view)},
		PropSet: []types.PropertySpec{{
			Type:    "VirtualMachine",
			PathSet: []string{"snapshot", "config.uuid", "config.instanceUuid", "config.template"},
		}},
	})
	if err != nil {
		return nil, err
	}
	return machines, mo.LoadObjectContent(objects, &machines)
}
