package vsphere

import (
	"context"
	"errors"
	"net/url"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/internal/problem"
)

// What can go wrong with a vSphere source, for those who run it.
var (
	LoginRefused = &problem.Kind{
		Code:  "vsphere-login-refused",
		Title: "vSphere refuses the user name or password",
		Hint:  "Correct the source's user and password; after several refusals vSphere may lock the account for some minutes",
	}
	Unreachable = &problem.Kind{
		Code:  "vsphere-unreachable",
		Title: "vSphere does not answer",
		Hint:  "Check the address, the network and the proxy between the connector and vSphere, and whether its services run",
		Retry: true,
	}
	PermissionDenied = &problem.Kind{
		Code:  "vsphere-permission-denied",
		Title: "the vSphere user lacks a privilege",
		Hint:  "Give the role of Skylift's user the named privilege on the named object, propagating to its children",
	}
	ServerUnknown = &problem.Kind{
		Code:  "vsphere-server-unknown",
		Title: "vSphere has no such virtual machine, or does not show it to Skylift's user",
		Hint:  "See whether the virtual machine was removed from the inventory, and whether the user may see its folder",
	}
	MethodDisabled = &problem.Kind{
		Code:  "vsphere-method-disabled",
		Title: "another product has disabled this operation on the virtual machine",
		Hint:  "Wait until its backup or migration has ended; if that has crashed, let it clean up or remove the entry with the vCenter's own tools",
		Retry: true,
	}
	OlderSnapshot = &problem.Kind{
		Code:  "vsphere-older-snapshot",
		Title: "an earlier snapshot of Skylift's is still there",
		Hint:  "It is removed by itself when its run has ended; if it stays, look for failed removal tasks of this virtual machine in vSphere",
		Retry: true,
	}
	ConsolidationNeeded = &problem.Kind{
		Code:  "vsphere-consolidation-needed",
		Title: "the virtual machine's disks need consolidation and vSphere cannot do it",
		Hint:  "Look for a product that holds the disk files (a backup appliance with the disks attached), check the datastore's free space, then consolidate in vSphere",
		Retry: true,
	}
	QuiesceFailed = &problem.Kind{
		Code:  "vsphere-quiesce-failed",
		Title: "the guest could not be brought to rest for the snapshot",
		Hint:  "Check VMware Tools and the guest's snapshot writers, or let the job fall back to crash-consistent snapshots",
		Retry: true,
	}
	SnapshotFailed = &problem.Kind{
		Code:  "vsphere-snapshot-failed",
		Title: "vSphere could not take the snapshot",
		Hint:  "The cause is vSphere's own; look at the failed task of this virtual machine, its disks and the datastore's free space",
		Retry: true,
	}
	TaskLate = &problem.Kind{
		Code:  "vsphere-task-late",
		Title: "a vSphere task has not ended within its limit",
		Hint:  "Look at the task in vSphere; the datastore may be overloaded or the host out of reach",
		Retry: true,
	}
	DatastoreFull = &problem.Kind{
		Code:  "vsphere-datastore-full",
		Title: "a datastore has too little free space for a snapshot",
		Hint:  "Free or add space on the datastore: while a snapshot exists, everything the server writes takes up more of it",
		Retry: true,
	}
	TrackingRefused = &problem.Kind{
		Code:  "vsphere-tracking-refused",
		Title: "changed block tracking cannot be switched on now",
		Hint:  "It needs virtual hardware version 7 or later and a virtual machine without snapshots; mend that and try again",
	}
	LicenseRestricted = &problem.Kind{
		Code:  "vsphere-license-restricted",
		Title: "the host's license does not permit this",
		Hint:  "The free license of ESXi lets its API be read only: give the host a paid or an evaluation license, or let a vCenter manage it",
	}
	DiskUnreadable = &problem.Kind{
		Code:  "vsphere-disk-unreadable",
		Title: "the frozen disk cannot be read from the files of its datastore",
		Hint:  "Keep the virtual machine's disks as ordinary files on VMFS or NFS datastores; what exactly is in the way stands in the cause, and where it is another snapshot, consolidating the virtual machine removes it",
	}
	ReadRefused = &problem.Kind{
		Code:  "vsphere-read-refused",
		Title: "the datastore does not give the asked part of the disk file",
		Hint:  "The file may be locked by its host (running virtual machines on VMFS), or a proxy may cut range requests; the cause has the answer",
	}
	NBDRefused = &problem.Kind{
		Code:  "vsphere-nbd-refused",
		Title: "the NBD server does not give the frozen disk",
		Hint:  "Check nbd.url and the certificates in the connector's settings, and that the NBD server has one export for each disk of a snapshot; the cause has its answer",
	}
	ExportRefused = &problem.Kind{
		Code:  "vsphere-export-refused",
		Title: "vSphere does not export the snapshot",
		Hint:  "The cause is vSphere's own: encrypted virtual machines and some kinds of disks cannot be exported; another task of the virtual machine may be in the way",
	}
	ExportUnusable = &problem.Kind{
		Code:  "vsphere-export-unusable",
		Title: "vSphere's export does not surely hold the frozen disk",
		Hint:  "Another disk's bytes must not be taken for this one's, so nothing was read; please report what the cause tells, with the versions of vCenter and ESXi",
	}
	HostUnreachable = &problem.Kind{
		Code:  "vsphere-host-unreachable",
		Title: "an ESXi host does not answer",
		Hint:  "Let the connector resolve the names of the ESXi hosts and reach their management addresses on port 443; exported disks come from them and not through vCenter",
		Retry: true,
	}
	HostUntrusted = &problem.Kind{
		Code:  "vsphere-host-untrusted",
		Title: "an ESXi host shows a certificate that is not trusted",
		Hint:  "Reconnect the host in vCenter if its certificate was replaced, or give the connector the authority's certificate; if neither explains it, somebody may be in between",
	}
	ReadFailed = &problem.Kind{
		Code:  "vsphere-read-failed",
		Title: "reading the disk file failed again and again",
		Hint:  "Check the network and the load of vCenter and host (many HTTP sessions, slow storage); the run can be resumed",
		Retry: true,
	}
)

// explain makes a problem of a fault whose reason vSphere itself tells, and
// says which object it met; other errors come back as they are.
func explain(err error, object string) error {
	if err == nil || problem.Of(err) != nil {
		return err
	}
	var denied *types.NoPermission
	if _, ok := fault.As(err, &denied); ok {
		return PermissionDenied.New(err, "%s needs the privilege %s", object, denied.PrivilegeId)
	}
	if fault.Is(err, &types.RestrictedVersion{}) {
		return LicenseRestricted.New(err, "%s", object)
	}
	if fault.Is(err, &types.MethodDisabled{}) {
		return MethodDisabled.New(err, "%s", object)
	}
	return err
}

// unreached makes a problem of a failure of the network, whose own text tells
// nobody what to do. Only the outermost calls do so: within them it matters
// that a call may have taken effect.
func unreached(err error) error {
	var network *url.Error
	if problem.Of(err) != nil || !errors.As(err, &network) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return Unreachable.New(err, "the connection broke off")
}

// isGone reports that the asked object does not exist any more.
func isGone(err error) bool {
	return err != nil && fault.Is(err, &types.ManagedObjectNotFound{})
}

// isFault reports that vSphere answered with a fault, as opposed to no answer.
func isFault(err error) bool {
	if err == nil {
		return false
	}
	var f types.BaseMethodFault
	_, known := fault.As(err, &f)
	return known || soap.IsSoapFault(err)
}

// isStaleVersion reports that a collector does not know the version that an
// update was asked from.
func isStaleVersion(err error) bool {
	return err != nil && fault.Is(err, &types.InvalidCollectorVersion{})
}

// hasKind reports that err is a problem of kind k.
func hasKind(err error, k *problem.Kind) bool { return problem.Has(err, k) }

// errClosed is what calls get after Close.
var errClosed = errors.New("the vSphere source is closed")
