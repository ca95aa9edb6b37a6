package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
	"skylift/internal/problem"
)

// chainDepth bounds the files of a disk: vSphere allows 32 deltas, and a
// linked clone has those of its origin below its own.
const chainDepth = 66

// findDatastore reads the disk's files over HTTPS: from the host that runs the
// machine where that works, through vCenter where not.
func (s *Source) findDatastore(ctx context.Context, d *disk) (way, string, error) {
	sn := d.snapshot
	found := finder{source: s, stores: sn.stores, direct: sn.direct}
	c, err := found.chain(ctx, d.virtualDisk)
	if err != nil {
		return nil, "", err
	}
	why := "the frozen disk is one file on its datastore"
	if n := len(c.files); n > 1 {
		why = fmt.Sprintf("the frozen disk is %d files on its datastore, one over the other", n)
	}
	switch {
	case sn.direct.usable():
		why += ", read straight from host " + sn.esx.name
	case sn.direct != nil:
		why += ", read through vCenter, because " + *sn.direct.why.Load()
	case sn.around != "":
		why += ", read through vCenter, because " + sn.around
	default:
		why += ", read from the host"
	}
	return c, why + "; a trial range could be read", nil
}

// finder looks for the files of a frozen disk and opens them.
type finder struct {
	source *Source
	stores *datastores
	direct *direct
}

// chain finds the files that hold a frozen disk, down to the one that has no
// parent, and makes a trial of reading each. vSphere's own list of parents is
// preferred to what the descriptors say, which may be stale; that each parent
// has the content its child was made for is checked in any case.
func (f *finder) chain(ctx context.Context, d virtualDisk) (*chainWay, error) {
	c := &chainWay{source: f.source}
	var links []vdisk.Link
	var child *vdisk.Descriptor
	var above string // the child's file
	for file, parents := d.file, d.parents; file != ""; {
		if len(links) == chainDepth {
			return nil, DiskUnreadable.New(nil, "the frozen disk is spread over more than %d files", chainDepth)
		}
		var at object.DatastorePath
		if !at.FromString(file) {
			return nil, DiskUnreadable.New(nil, "vSphere names its file in a way that is not known: %q", file)
		}
		descriptor, err := f.descriptor(ctx, at)
		if err != nil {
			return nil, err
		}
		if child != nil && child.ParentCID != descriptor.CID {
			return nil, DiskUnreadable.New(nil, "%s was made for content %08x of its parent, and %s has %08x: they do not belong together", above, child.ParentCID, file, descriptor.CID)
		}
		base := len(parents) == 0 && !descriptor.HasParent()
		link, data, err := f.link(ctx, at, descriptor, d.size, base && child == nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		links, c.files = append(links, link), append(c.files, data)
		child, above = descriptor, file
		switch {
		case base:
			file = ""
		case !descriptor.HasParent():
			return nil, DiskUnreadable.New(nil, "vSphere says that %s lies on top of %s, its descriptor knows of no parent", file, parents[0])
		case len(parents) > 0:
			file, parents = parents[0], parents[1:]
		default:
			if file, err = f.stores.hinted(at, descriptor.ParentHint); err != nil {
				return nil, DiskUnreadable.New(err, "%s: find its parent", above)
			}
		}
	}
	if top := links[0].Layout.Size(); top < d.size {
		return nil, DiskUnreadable.New(nil, "%s holds a disk of %d bytes, and vSphere says that it has %d", c.files[0].name, top, d.size)
	}
	c.whole = len(links) == 1 && child.Extents[0].Offset == 0 && isFlat(child.Extents[0])
	var err error
	if c.chain, err = vdisk.NewChain(d.size, links...); err != nil {
		return nil, DiskUnreadable.New(err, "%s", d.file)
	}
	return c, c.trial(ctx)
}

// descriptor reads and parses a descriptor.
func (f *finder) descriptor(ctx context.Context, at object.DatastorePath) (*vdisk.Descriptor, error) {
	file, err := f.file(ctx, at)
	if err != nil {
		return nil, err
	}
	text, err := file.small(ctx, vdisk.DescriptorLimit)
	if err != nil {
		return nil, fmt.Errorf("read the descriptor %s: %w", file.name, err)
	}
	d, err := vdisk.ParseDescriptor(text)
	if err != nil {
		return nil, DiskUnreadable.New(err, "%s", file.name)
	}
	return d, nil
}

// link opens the one file that a descriptor names. Of an only file, the disk's
// last sector is asked for: that shows at once that it is long enough.
func (f *finder) link(ctx context.Context, at object.DatastorePath, d *vdisk.Descriptor, size int64, only bool) (vdisk.Link, *frozenFile, error) {
	fail := func(err error) (vdisk.Link, *frozenFile, error) { return vdisk.Link{}, nil, err }
	e, err := onlyExtent(d)
	if err != nil {
		return fail(DiskUnreadable.New(err, "its descriptor"))
	}
	at.Path = path.Join(path.Dir(at.Path), e.File)
	file, err := f.file(ctx, at)
	if err != nil {
		return fail(err)
	}
	want := hypervisor.Extent{Length: vdisk.SectorSize}
	start := e.Offset * vdisk.SectorSize
	if only && isFlat(e) {
		want = hypervisor.Extent{Offset: start + max(0, size-vdisk.SectorSize), Length: min(size, vdisk.SectorSize)}
	}
	if err := file.probe(ctx, want); err != nil {
		return fail(err)
	}
	var layout vdisk.Layout
	switch {
	case isFlat(e) && file.size < start:
		err = fmt.Errorf("its %d bytes end before the disk begins at %d", file.size, start)
	case isFlat(e):
		layout = vdisk.Flat(file.size-start, start)
	case e.Type == "VMFSSPARSE":
		layout, err = vdisk.OpenCOWD(ctx, file)
	case e.Type == "SESPARSE":
		layout, err = vdisk.OpenSESparse(ctx, file)
	default:
		layout, err = vdisk.OpenSparse(ctx, file)
	}
	switch {
	case err != nil && (ctx.Err() != nil || problem.Of(err) != nil):
		return fail(err)
	case err != nil:
		return fail(DiskUnreadable.New(err, "%s", file.name))
	}
	return vdisk.Link{Layout: layout, File: file}, file, nil
}

func isFlat(e vdisk.DescriptorExtent) bool { return e.Type == "VMFS" || e.Type == "FLAT" }

// onlyExtent returns the one run that a descriptor's bytes are in. Its length
// may be stale, so it is not looked at.
func onlyExtent(d *vdisk.Descriptor) (e vdisk.DescriptorExtent, err error) {
	if len(d.Extents) != 1 {
		return e, fmt.Errorf("it consists of %d files", len(d.Extents))
	}
	e = d.Extents[0]
	sparse := slices.Contains([]string{"VMFSSPARSE", "SESPARSE", "SPARSE"}, e.Type)
	switch {
	case !isFlat(e) && !sparse:
		return e, fmt.Errorf("its bytes are of kind %s (%s)", e.Type, d.CreateType)
	case sparse && e.Offset != 0:
		return e, fmt.Errorf("its bytes of kind %s start at sector %d of their file", e.Type, e.Offset)
	case strings.Contains(e.File, "://"):
		return e, fmt.Errorf("its bytes are an object (%s) and no file: vSAN or virtual volumes", e.File)
	case strings.ContainsAny(e.File, "/\\"):
		return e, fmt.Errorf("its file %q is in another folder", e.File)
	}
	return e, nil
}

// hinted resolves a descriptor's parentFileNameHint: a file beside the child,
// or a path on a volume as hosts mount it, by its name or its identity.
func (d *datastores) hinted(child object.DatastorePath, hint string) (string, error) {
	if hint == "" {
		return "", errors.New("its descriptor does not name it")
	}
	if !path.IsAbs(hint) {
		file := path.Join(path.Dir(child.Path), hint)
		if file == ".." || strings.HasPrefix(file, "../") {
			return "", fmt.Errorf("its name %q leads out of the datastore", hint)
		}
		return (&object.DatastorePath{Datastore: child.Datastore, Path: file}).String(), nil
	}
	file, ok := strings.CutPrefix(path.Clean(hint), "/vmfs/volumes/")
	volume, file, inside := strings.Cut(file, "/")
	if !ok || !inside {
		return "", fmt.Errorf("its name %q is not a file of a volume", hint)
	}
	store := d.volumes["/vmfs/volumes/"+volume]
	if _, named := d.refs[volume]; store == "" && named {
		store = volume
	}
	if store == "" {
		return "", fmt.Errorf("volume %q is not among the datastores of the virtual machine", volume)
	}
	return (&object.DatastorePath{Datastore: store, Path: file}).String(), nil
}

// file names a file of a datastore at vCenter and at the host.
func (f *finder) file(ctx context.Context, at object.DatastorePath) (*frozenFile, error) {
	u, err := f.source.address(ctx, f.stores, at.Datastore, at.Path)
	if err != nil {
		return nil, err
	}
	return &frozenFile{
		source: f.source, name: at.String(), url: u, direct: f.direct,
		hostURL: &url.URL{Scheme: "https", Path: u.Path, RawQuery: folderQuery(hostDatacenter, at.Datastore)},
		pacer:   f.source.pacer(f.stores.refs[at.Datastore], at.Datastore),
	}, nil
}

// small reads a small file whole.
func (f *frozenFile) small(ctx context.Context, limit int64) (text []byte, err error) {
	err = f.retry(ctx, newBudget(readTries, readLimit), func() error {
		return f.get(ctx, "", f.direct.usable(), func(a *answer) (err error) {
			if a.StatusCode != http.StatusOK {
				return statusError(a.Response)
			}
			text, err = io.ReadAll(io.LimitReader(a, limit+1))
			return err
		})
	})
	if err == nil && int64(len(text)) > limit {
		return nil, DiskUnreadable.New(nil, "it has more than %d bytes", limit)
	}
	return text, err
}

// probe reads a range, which shows at once that the file is there, long enough
// and not locked, that ranges are honored, and what the file's size is. A file
// that its host has locked stays so: few attempts are enough.
func (f *frozenFile) probe(ctx context.Context, want hypervisor.Extent) error {
	err := f.retry(ctx, newBudget(4, readLimit), func() error {
		return f.get(ctx, rangeHeader(want), f.direct.usable(), func(a *answer) (err error) {
			if a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
				return DiskUnreadable.New(statusError(a.Response), "%s has less than %d bytes", f.name, want.End())
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

// trial reads the disk's first and last sector, through the tables of a chain.
func (c *chainWay) trial(ctx context.Context) error {
	if c.whole || c.chain.Size() == 0 {
		return nil // its last sector was read
	}
	ctx = withBudget(ctx, newBudget(4, readLimit))
	sector := make([]byte, min(vdisk.SectorSize, c.chain.Size()))
	for _, at := range []int64{0, c.chain.Size() - int64(len(sector))} {
		if err := c.chain.ReadAt(ctx, sector, at); err != nil {
			return unreadableTables(ctx, err)
		}
	}
	return nil
}
