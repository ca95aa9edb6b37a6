package vsphere

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// datastores are the datastores of a machine by name: names are unique within
// a datacenter, and a machine's datastores are in its own.
type datastores struct {
	refs       map[string]ref
	volumes    map[string]string // their names by the paths that hosts mount them at: "/vmfs/volumes/5c3e..."
	datacenter map[string]string // paths, found when asked for
}

func (s *Source) datastores(ctx context.Context, v *vm) (*datastores, error) {
	var found []mo.Datastore
	if err := s.session.retrieve(ctx, v.Datastore, []string{"name", "summary.url"}, &found); err != nil {
		return nil, fmt.Errorf("read the datastores: %w", explain(err, "the datastores of "+v.Name))
	}
	d := &datastores{refs: map[string]ref{}, volumes: map[string]string{}, datacenter: map[string]string{}}
	for _, store := range found {
		d.refs[store.Name] = store.Self
		if at, ok := strings.CutPrefix(store.Summary.Url, "ds://"); ok {
			d.volumes[strings.TrimSuffix(at, "/")] = store.Name
		}
	}
	return d, nil
}

// fullDatastores lists those of the datastores that have less than a share of
// their capacity free.
func (s *Source) fullDatastores(ctx context.Context, stores []ref, percent float64) (full []string, err error) {
	var found []mo.Datastore
	if err := s.session.retrieve(ctx, stores, []string{"summary"}, &found); err != nil {
		return nil, err
	}
	for _, store := range found {
		if what := tooFull(store.Summary, percent); what != "" {
			full = append(full, what)
		}
	}
	return full, nil
}

// tooFull says how full a datastore is that has less than a share of its
// capacity free; nothing of others.
func tooFull(sum types.DatastoreSummary, percent float64) string {
	if sum.Capacity <= 0 || float64(sum.FreeSpace) >= float64(sum.Capacity)*percent/100 {
		return ""
	}
	return fmt.Sprintf("datastore %q has %d of %d GiB free, less than %g %%", sum.Name, sum.FreeSpace>>30, sum.Capacity>>30, percent)
}

// address is where a file of a datastore is had by HTTPS. The names in the
// query come escaped from vSphere (a slash in a name is "%2f") and are escaped
// once more.
func (s *Source) address(ctx context.Context, stores *datastores, store, file string) (*url.URL, error) {
	dc, ok := stores.datacenter[store]
	if !ok {
		r, ok := stores.refs[store]
		if !ok {
			return nil, DiskUnreadable.New(nil, "datastore %q is not among those of the virtual machine", store)
		}
		services, err := s.session.services(ctx)
		if err != nil {
			return nil, err
		}
		ancestors, err := mo.Ancestors(ctx, s.session, services.PropertyCollector, r)
		if err != nil {
			return nil, fmt.Errorf("find the datacenter of datastore %q: %w", store, explain(err, "datastore "+store))
		}
		names := ""
		for _, a := range ancestors {
			if a.Parent == nil {
				continue // the root folder
			}
			names += "/" + a.Name
			if a.Self.Type == "Datacenter" {
				dc = names
			}
		}
		stores.datacenter[store] = dc
	}
	u := s.session.base()
	u.Path, u.RawQuery = "/folder/"+file, folderQuery(dc, store)
	return &u, nil
}

func folderQuery(datacenter, store string) string {
	query := url.Values{"dcPath": {datacenter}, "dsName": {store}}
	return strings.ReplaceAll(query.Encode(), "+", "%20")
}
