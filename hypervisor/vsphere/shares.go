package vsphere

import (
	"context"
	"fmt"
	"maps"
	"slices"

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
