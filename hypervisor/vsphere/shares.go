package vsphere

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/vmware/govmomi/object"

	"skylift/hypervisor"
)

// Shares names the datastores that hold a snapshot's delta files: each takes
// only so many before its performance suffers.
func (s *Source) Shares(ctx context.Context, id hypervisor.ServerID) ([]hypervisor.Share, error) {
	v, err := s.find(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("find the datastores of server %s: %w", id, err)
	}
	stores, err := s.datastores(ctx, v)
	if err != nil {
		return nil, err
	}
	var shares []hypervisor.Share
	for _, name := range slices.Sorted(maps.Keys(stores.refs)) {
		shares = append(shares, hypervisor.Share{Kind: "datastore", Name: name, Of: "snapshots", Limit: s.limits.DatastoreSnapshots})
	}
	return shares, nil
}

// shares are what reading a disk has a part of.
func (sn *snapshot) shares(d virtualDisk) (shares []hypervisor.Share) {
	limits := sn.source.limits
	if h := sn.esx; h != nil {
		shares = append(shares, hypervisor.Share{Kind: "host", Name: h.name, Of: "disks read at once", Limit: limits.HostDisks})
	}
	var at object.DatastorePath
	if at.FromString(d.file) {
		shares = append(shares, hypervisor.Share{Kind: "datastore", Name: at.Datastore, Of: "disks read at once", Limit: limits.DatastoreDisks})
	}
	return shares
}
