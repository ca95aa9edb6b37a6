// Package vcenter is a vCenter that runs inside a test or a demonstration, with
// disks that hold real bytes.
//
// It stands on govmomi's simulator, which gives SOAP, sessions, views and the
// inventory, and adds what that lacks: disk contents, delta files in VMware's own
// formats, change tracking (CBT) with its paging and its faults, datastore files
// over HTTPS, exports, and a property collector that is quick with ten thousand
// servers.
//
// # Using it
//
//	s, err := vcenter.Start(vcenter.Config{Servers: []vcenter.ServerSpec{{
//		Name:           "web",
//		ChangeTracking: true,
//		Disks: []vcenter.DiskSpec{
//			{Size: 10 << 30},                                // empty, in memory
//			{Content: vcenter.File("image.raw")},            // never modified
//			{Content: vcenter.Generated(vcenter.Pattern{Seed: 1, Random: 20, Text: 30}, 64<<40)},
//		},
//	}}})
//	defer s.Close()
//
// Clients connect to s.URL as s.User with s.Password and trust
// s.CertificatePEM. The guest writes through a disk's handle, at any time:
//
//	s.VM("web").Disk(0).WriteAt(data, offset)
//
// Config.OnSnapshot gets every snapshot while it is taken, with readers of the
// frozen disks that stay valid until SnapshotEvent.Release: what a migration
// carried off is compared with them, and not with what the guest wrote since.
//
// A test ends by asking Server.OpenSnapshots and Server.OpenLeases for leaks and
// Server.Refused for calls that the simulator does not model: it never pretends.
// Config.Fault is
// asked before every call, task and file request and can make it fail in the
// ways that networks and vCenters fail; Quirks are what vSphere does wrong by
// itself.
//
// # What is modeled
//
//   - Sessions by Login with the one user; anything else without a session is
//     NotAuthenticated. /folder takes the session's cookie or the password.
//     Sessions end when they are idle for Config.SessionTimeout.
//   - Hosts with HTTPS of their own; see below. One cluster, or a standalone
//     ESXi host (Config.Standalone), also one with the free license.
//   - Privileges (Config.Denied, Server.Deny): HasPrivilegeOnEntities answers,
//     and operations and file requests refuse, for each object and what is
//     below it.
//   - Slowness: Config.Latency, Server.SetLatency, Server.SetDatastoreLatency;
//     Quirks.SnapshotTakes and ConsolidationTakes, whose tasks show progress;
//     Config.HostTransfers, past which files are answered 503.
//   - The property collector: RetrieveProperties over anything, WaitForUpdatesEx
//     over objects named one by one or by a container view.
//   - Snapshot trees, with one delta file per disk and snapshot. A disk's backing
//     in a snapshot is the frozen chain; independent disks and physical RDMs are
//     left out; a multi-writer disk that is not independent forbids snapshots.
//     Removal merges, unless Quirks.ConsolidationNeeded. Reverting resets
//     tracking, and switches the server off unless memory was kept.
//   - Change tracking per disk in 64 KiB, from hardware version 7 on. A setting
//     takes effect at the next stun: a snapshot made or removed, power on. The
//     snapshot that starts tracking has no change ID yet.
//   - ReconfigVM_Task for changeTrackingEnabled and extraConfig, power, shutdown.
//   - /folder: the descriptors and the bytes of all files of a chain, flat and
//     delta files alike, that are frozen by a snapshot or belong to a server that
//     is off. The file that a running server writes to is refused; so are all of
//     them with Quirks.FlatLocked.
//   - ExportSnapshot, and ExportVm of a server that is off; see below.
//
// Servers come and go and move, disks are added, grown and removed, snapshots
// reverted to and deleted, hosts lost and locked, by methods here: the owner's
// doing, not the client's.
//
// # Delta files
//
// Datastore.Deltas chooses the format of the files that snapshots start:
// SEsparse in <disk>-000001-sesparse.vmdk, or COWD (vmfsSparse) in
// <disk>-000001-delta.vmdk. They are made of the frozen layer when they are
// asked for. Grains lie in the order in which they were written; grains of
// zeros have entries that say so, whole 64 KiB of zeros in SEsparse are unmapped
// as by a trim, and what the guest left as it was below is left to the parent.
// So readers meet every kind of entry. The frozen chain of a snapshot is told
// by its backings; Quirks.SeSparseBackings changes their type.
//
// # Exports
//
// A lease (HttpNfcLease) gets ready by itself, or fails: Config.Fault is asked
// about ExportSnapshot or ExportVm once for the call, and once with Call.Task
// for the lease. A ready one names a URL for each disk, at the server's host:
//
//	https://<host>/nfc/<ticket>/disk-0.vmdk
//
// GET writes the disk as a streamOptimized VMDK while it is read, with zero
// grains left out: to anybody, since the ticket in it is the secret that
// VMware's reference says gives access, in one piece, since Range is ignored,
// and of unknown length. Faults are asked for as "GET /nfc".
//
//   - Without HttpNfcLeaseProgress for Config.LeaseTimeout a lease ends in state
//     error with Timedout. Whatever ends a lease cuts its downloads.
//   - While a lease is held, all tasks on the server fail with TaskInProgress,
//     the removal of the snapshot included; so the reference has it. What the
//     owner does by methods here is not blocked, moves excepted: it ends the
//     lease in state error where it takes away what is exported.
//   - Several leases may be held on a server, unless Quirks.ExportAlone: the
//     reference is silent about that. Quirks.ExportReversed lists the disks in
//     another order than the hardware; only the keys count.
//   - deviceUrl.fileSize is what the disk takes on its datastore, neither its
//     capacity nor the length of the download. On a standalone host the URLs
//     name "*", which the client replaces by the host that it reached.
//
// # Hosts
//
// Every host listens on an address of its own, under a certificate of its own,
// and serves the exports of its servers, and /folder to those who bring a service
// ticket, as VMware describes
// SessionManager.AcquireGenericServiceTicket: the cookie vmware_cgi_ticket lets
// one request through, of the method, path and query that the ticket was asked
// for, within Config.TicketTimeout. dcPath may be left out, or be ha-datacenter.
// A ticket's URL names its host by its name or its management address; nothing
// listens at these. What a client must connect to is the ticket's hostName,
// which here has a port: with govmomi's Datastore.ServiceTicket that takes
// GOVMOMI_USE_SERVICE_TICKET_HOSTNAME.
//
// Whether ESXi lets a used ticket's connection ask again is not documented;
// here it does not, unless Config.Tickets is TicketsOpenSessions. Nor is what a
// host in lockdown mode answers: here 403. Config.Tickets and Host's methods
// make tickets, and ways to hosts, fail.
//
// A standalone host is a client's only counterpart: it takes sessions, the
// password and tickets at the same address.
//
// # Fault scripts
//
// ParseScript makes a Config.Fault of text, for people who have no Go function
// to give:
//
//	# a comment
//	GET /folder @3-5: 503
//	GET /folder path=*-flat.vmdk host=esx-1*: after 1000 drop
//	CreateSnapshot_Task @1 task: fault FileFault the disk is full
//	RemoveSnapshot_Task object=snapshot-1012: answer lost
//	GET /nfc: latency 200ms
//	* @every 7: drop
//
// A rule is, up to the first colon that ends a word, the call: GET or HEAD and
// a place, a SOAP method, or * for all. Then what else must fit, in any order:
//
//	path=  host=  object=   the file, the host asked directly, the object by
//	                        its reference; * is any text, slashes included
//	task                    what the call started, not the call
//	@3  @3-5  @3-           the 3rd, 3rd to 5th, from the 3rd on
//	@every 7                the 7th, 14th and so on
//
// Turns are counted per rule, over the calls that the rest of it fits. Words
// with blanks or colons at their end are quoted as in Go. After the colon is
// what happens:
//
//	503                     the answer is this HTTP status, from 400 to 599
//	drop                    the connection is closed; nothing was done
//	after 1000 drop         the same after so many bytes of a file
//	answer lost             done, but the connection is closed
//	latency 200ms           the call waits and goes on; other rules still apply
//	fault FileFault text    a vSphere fault, by its name in the API reference
//
// Of the rules that fit, other than latencies, the first decides.
package vcenter
