// Package vcenter is a vCenter that runs inside a test or a demonstration, with
// disks that hold real bytes.
//
// It stands on govmomi's simulator, which gives SOAP, sessions, views and the
// inventory, and adds what that lacks: disk contents, delta files, change
// tracking (CBT) with its paging and its faults, datastore files over HTTPS,
// and a property collector that is quick with ten thousand servers.
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
// A test ends by asking Server.OpenSnapshots for leaks and Server.Refused for
// calls that the simulator does not model: it never pretends. Config.Fault is
// asked before every call, task and file request and can make it fail in the
// ways that networks and vCenters fail; Quirks are what vSphere does wrong by
// itself.
//
// # What is modeled
//
//   - Sessions by Login with the one user; anything else without a session is
//     NotAuthenticated. /folder takes the session's cookie or the password.
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
//   - /folder: descriptors of all files of a chain, and the flat file: frozen by
//     a snapshot, or of a server that is off. The flat file of a running server
//     without a snapshot is refused, as are the bytes of delta files.
//
// Servers come and go, and disks are added, grown and removed, by methods here:
// the owner's doing, not the client's.
package vcenter
