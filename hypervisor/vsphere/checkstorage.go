package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

// objectStores are kinds of datastores that keep disks as objects: there is no
// file to be read.
var objectStores = []string{"vsan", "vsand", "vvol"}

// readStores reads the machine's datastores, one by one: some may be hidden
// from our user.
func (in *inspection) readStores(ctx context.Context) error {
	for _, r := range in.v.Datastore {
		var found []mo.Datastore
		err := in.source.session.retrieve(ctx, []ref{r}, []string{"summary"}, &found)
		err = explain(err, "the datastore "+r.Value)
		switch {
		case problem.Has(err, PermissionDenied):
			in.hidden = append(in.hidden, hypervisor.Finding{
				Code: PermissionDenied.Code, Blocks: true, Subject: "System.Read",
				What: fmt.Sprintf("the user %s cannot see the datastore %s: %v", in.source.session.user, r.Value, err), Hint: PermissionDenied.Hint,
			})
		case isGone(err):
		case err != nil:
			return fmt.Errorf("read the datastore %s: %w", r.Value, err)
		default:
			in.stores = append(in.stores, found...)
		}
	}
	return nil
}

// storage tells of the datastores whether they have room for a snapshot, and
// whether disks can be read there as files.
func (in *inspection) storage() {
	for _, store := range in.stores {
		in.datastore(store)
	}
	in.Findings = append(in.Findings, in.hidden...)
}

func (in *inspection) datastore(store mo.Datastore) {
	sum := store.Summary
	subject := "datastore " + sum.Name
	in.fact(subject, "kind", "%s", sum.Type)
	in.fact(subject, "free space", "%d of %d GiB", sum.FreeSpace>>30, sum.Capacity>>30)
	if !sum.Accessible {
		in.find(hypervisor.Finding{
			Code: "vsphere-datastore-inaccessible", Blocks: true, Subject: subject,
			What: fmt.Sprintf("datastore %q cannot be accessed by any host", sum.Name),
			Hint: "Bring the datastore back",
		})
		return
	}
	if what := tooFull(sum, float64(in.source.limits.FreePercent)); what != "" {
		in.find(hypervisor.Finding{
			Code: DatastoreFull.Code, Blocks: true, Subject: in.v.Name, What: what, Hint: DatastoreFull.Hint,
		})
	}
	if slices.Contains(objectStores, strings.ToLower(sum.Type)) {
		in.find(hypervisor.Finding{
			Code: "vsphere-no-disk-files", Subject: subject,
			What: fmt.Sprintf("datastore %q (%s) keeps disks as objects, not as files: they are read by snapshot export, from the beginning to the end in each run", sum.Name, sum.Type),
			Hint: "Nothing, unless that takes too long: then let nbdkit serve the disks, or move them to a VMFS or NFS datastore",
		})
	}
}
