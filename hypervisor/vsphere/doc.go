// Package vsphere is the source for servers on VMware vSphere: a vCenter, or
// a standalone ESXi host. It is the only product package that knows govmomi.
//
// The pieces, from the wire upwards:
//
//   - session.go speaks SOAP: it logs in by itself, again when the session has
//     expired, and repeats calls that only read (calls.go). retrieve.go and
//     task.go read properties and wait for tasks through it.
//   - inventory.go keeps Watch: a container view and a property collector tell
//     what there is and what changes; machine.go holds what is known of a
//     virtual machine and makes a hypervisor.Server of it, disks.go its disks.
//   - create.go, remove.go and held.go are a snapshot's life.
//   - open.go gives a snapshot's disks; areas.go asks change tracking (CBT)
//     what changed. way.go chooses how each disk is read. Through datastores'
//     HTTPS folders: chain.go finds the files of a frozen disk and opens their
//     tables, chainread.go puts its bytes together, reader.go streams those
//     that lie in one piece; fetch.go makes the requests (ranges.go), at the
//     pace that a datastore keeps (pacer.go), straight from the host that runs
//     the machine where it takes vCenter's tickets (direct.go), trusted as
//     trust.go says. nbdkit.go reads
//     them from an NBD server of the customer's (package nbd), whose exports
//     nbdexport.go names. export.go has vSphere export the snapshot: lease.go
//     holds the lease, device.go finds the disk in it, and decode.go and
//     extents.go make what is wanted of the stream.
//   - check.go, with checkdisks.go, checkstorage.go and privileges.go, tells
//     what stands in the way of a server's runs, checksource.go and
//     checkhosts.go what of the source's; tracking.go switches change
//     tracking on.
//
// # Identities
//
// A server's ID is its instance UUID, or its BIOS UUID where it has none. Where
// several virtual machines of a vCenter share one (copies registered by hand
// on old hosts), the one with the lowest managed object number, the oldest,
// has the plain UUID and each other one "UUID@vm-number". A virtual machine
// keeps the ID it was given as long as a Watch runs.
//
// A disk's ID is the UUID of its backing. Disks of one server that share a
// UUID cannot be told apart and are not replicated; Check says so.
//
// # Exports
//
// The last way to a disk works on any datastore, and is slow: each read takes a
// lease on the snapshot (privilege VApp.Export), and the host sends the disk
// from its beginning as a compressed stream. While a lease is held vSphere
// refuses to start, move or delete the virtual machine. A stream that breaks is
// begun again with a new lease, as long as streams bring more than they repeat.
// A lease whose answer got lost cannot be ended; it is over after 5 minutes
// without a sign of life, and until then the snapshot cannot be removed.
//
// # Reading from hosts
//
// A service ticket of vCenter's lets one request through to a host. A host that
// answers it with a session cookie is asked again without tickets; of one that
// does not, only requests of 256 KiB or more are made, the others of vCenter. A
// host that does not answer its first request within 5 s, shows a certificate
// that neither vCenter told of nor an authority vouches for, or fails three
// times in a row, is passed over for 5 minutes; a snapshot that gave its host up
// reads through vCenter until it is closed.
//
// # Readiness
//
// What a check can find, by code. Of a server, and no run can start with it:
//
//	vsphere-not-connected           the host or the files are out of reach
//	vsphere-question-pending        it waits for an answer in vSphere
//	vsphere-method-disabled         another product forbids snapshots (does not block for other operations)
//	vsphere-disk-shared             several machines may write the disk: no snapshot at all
//	vsphere-disk-not-snapshotted    physical RDM, independent, or not to be told apart
//	vsphere-encrypted               by vSphere; does not block where nbdkit is configured
//	vsphere-snapshots-too-deep      vSphere allows no further one
//	vsphere-datastore-full          no room for a snapshot
//	vsphere-datastore-inaccessible  no host reaches the datastore
//	vsphere-permission-denied       a privilege is missing on the server or a datastore (does not block
//	                                where a run does without)
//
// Of a server, and a run copes with it:
//
//	vsphere-tools-not-running       the guest cannot be brought to rest
//	vsphere-fault-tolerance         vSphere may refuse snapshots
//	vsphere-virtual-tpm             its content stays behind
//	vsphere-foreign-snapshots       longer chains of files, slower reads
//	vsphere-consolidation-needed    done before the next snapshot
//	vsphere-tracking-unavailable    the virtual hardware is too old
//	vsphere-tracking-off            each run reads everything
//	vsphere-tracking-flawed         flag, disk setting and change ID disagree
//	vsphere-no-disk-files           vSAN or virtual volumes: read by export
//
// Of the source:
//
//	vsphere-license-restricted      the free license of ESXi: no run can start
//	vsphere-certificate-expires     within 30 days, or has
//	vsphere-clock-offset            more than a minute
//	vsphere-hosts-not-reached       disk files are read through vCenter
//	vsphere-privileges-not-global   some servers may lack them
//
// # Snapshots
//
// Our snapshots are called skylift-INSTALLATION-RUN. Neither a description nor
// memory decides what is ours: the name does. An installation's ID has letters
// and digits only, so that no installation's prefix begins another's.
package vsphere
