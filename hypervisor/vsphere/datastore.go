package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/internal/problem"
)

// frozenFile is a disk's flat file on a datastore.
type frozenFile struct {
	source *Source
	name   string // "[datastore] web/web-flat.vmdk", for people
	url    *url.URL
	size   int64 // of the file; at least the disk's
}

// datastores are the datastores of a machine by name: names are unique within
// a datacenter, and a machine's datastores are in its own.
type datastores struct {
	refs       map[string]ref
	datacenter map[string]string // paths, found when asked for
}

func (s *Source) datastores(ctx context.Context, v *vm) (*datastores, error) {
	var found []mo.Datastore
	if err := s.session.retrieve(ctx, v.Datastore, []string{"name"}, &found); err != nil {
		return nil, fmt.Errorf("read the datastores: %w", explain(err, "the datastores of "+v.Name))
	}
	d := &datastores{refs: map[string]ref{}, datacenter: map[string]string{}}
	for _, store := range found {
		d.refs[store.Name] = store.Self
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
		sum := store.Summary
		if sum.Capacity > 0 && float64(sum.FreeSpace) < float64(sum.Capacity)*percent/100 {
			full = append(full, fmt.Sprintf("datastore %q has %d of %d GiB free, less than %g %%", sum.Name, sum.FreeSpace>>30, sum.Capacity>>30, percent))
		}
	}
	return full, nil
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
	u.Path = "/folder/" + file
	query := url.Values{"dcPath": {dc}, "dsName": {store}}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return &u, nil
}

// findDatastore reads the disk's files over HTTPS.
func (s *Source) findDatastore(ctx context.Context, d *disk) (way, string, error) {
	f, err := s.locate(ctx, d.snapshot.stores, d.virtualDisk)
	if err != nil {
		return nil, "", err
	}
	return f, "the frozen disk is one file on its datastore, and a trial range of it could be read", nil
}

// locate finds the one flat file that holds a frozen disk and makes a trial of
// reading it. A disk with a parent is spread over several files.
func (s *Source) locate(ctx context.Context, stores *datastores, d virtualDisk) (*frozenFile, error) {
	switch {
	case d.parent:
		return nil, DiskUnreadable.New(nil, "the frozen disk lies on top of another snapshot: it is spread over several files (%s is the last)", d.file)
	case !d.flat:
		return nil, DiskUnreadable.New(nil, "the frozen disk is not kept as a plain (flat) file: %s", d.file)
	}
	var at object.DatastorePath
	if !at.FromString(d.file) {
		return nil, DiskUnreadable.New(nil, "vSphere names its file in a way that is not known: %q", d.file)
	}
	address, err := s.address(ctx, stores, at.Datastore, at.Path)
	if err != nil {
		return nil, err
	}
	text, err := s.small(ctx, address, vdisk.DescriptorLimit)
	if err != nil {
		return nil, fmt.Errorf("read the descriptor %s: %w", d.file, err)
	}
	descriptor, err := vdisk.ParseDescriptor(text)
	if err != nil {
		return nil, DiskUnreadable.New(err, "%s", d.file)
	}
	name, err := onlyFlat(descriptor)
	if err != nil {
		return nil, DiskUnreadable.New(err, "%s", d.file)
	}
	flat := path.Join(path.Dir(at.Path), name)
	if address, err = s.address(ctx, stores, at.Datastore, flat); err != nil {
		return nil, err
	}
	f := &frozenFile{source: s, name: fmt.Sprintf("[%s] %s", at.Datastore, flat), url: address}
	if err := s.probe(ctx, f, d.size); err != nil {
		return nil, err
	}
	return f, nil
}

// onlyFlat returns the name of the one flat file that a disk consists of. The
// sizes in a descriptor may be stale, so they are not looked at.
func onlyFlat(d *vdisk.Descriptor) (string, error) {
	if d.HasParent() {
		return "", errors.New("its descriptor names a parent: it is spread over several files")
	}
	if len(d.Extents) != 1 {
		return "", fmt.Errorf("it consists of %d files", len(d.Extents))
	}
	e := d.Extents[0]
	switch {
	case e.Type != "VMFS" && e.Type != "FLAT":
		return "", fmt.Errorf("its bytes are of kind %s (%s)", e.Type, d.CreateType)
	case e.Offset != 0:
		return "", fmt.Errorf("it starts at sector %d of its file", e.Offset)
	case strings.Contains(e.File, "://"):
		return "", fmt.Errorf("its bytes are an object (%s) and no file: vSAN or virtual volumes", e.File)
	case strings.ContainsAny(e.File, "/\\"):
		return "", fmt.Errorf("its file %q is in another folder", e.File)
	}
	return e.File, nil
}

// small reads a small file whole.
func (s *Source) small(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	var text []byte
	err := s.retry(ctx, newBudget(readTries, readLimit), func() error {
		return s.get(ctx, u, "", func(a *answer) (err error) {
			if a.StatusCode != http.StatusOK {
				return statusError(a.Response)
			}
			text, err = io.ReadAll(io.LimitReader(a, limit+1))
			return err
		})
	})
	if err == nil && int64(len(text)) > limit {
		return nil, DiskUnreadable.New(nil, "the descriptor has more than %d bytes", limit)
	}
	return text, err
}

// probe reads the last sector of the disk, which shows at once that the file
// is there, long enough, not locked, and that ranges are honored. A file that
// its host has locked stays so: few attempts are enough.
func (s *Source) probe(ctx context.Context, f *frozenFile, size int64) error {
	want := hypervisor.Extent{Offset: max(0, size-vdisk.SectorSize), Length: min(size, vdisk.SectorSize)}
	err := s.retry(ctx, newBudget(4, readLimit), func() error {
		return s.get(ctx, f.url, rangeHeader(want), func(a *answer) (err error) {
			if a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
				return DiskUnreadable.New(statusError(a.Response), "%s is shorter than the disk, which has %d bytes", f.name, size)
			}
			if f.size, err = checkRange(a.Response, want); err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, a)
			return err
		})
	})
	if problem.Has(err, ReadFailed) {
		return ReadRefused.New(err, "try to read %s", f.name)
	}
	return err
}
