package sourcetest

import (
	"testing"

	"skylift/hypervisor"
)

// Platform is a stand-in for a hypervisor, controlled by the suite. Its
// methods fail the test when they cannot do what they are asked for. They are
// called from several goroutines.
type Platform interface {
	Traits() Traits

	// Source makes a source of the platform's servers, as a process does that
	// has just started: nothing is shared with earlier ones but the platform
	// and the installation's ID. stop ends it and may be called twice; the
	// platform stops what is left at the end of the test.
	Source(t testing.TB) (source hypervisor.Source, stop func())

	// AddServer makes a running server with empty disks of these sizes in
	// bytes, with change tracking on, and returns the ID that the source must
	// give it.
	AddServer(t testing.TB, name string, disks ...int64) hypervisor.ServerID
	RenameServer(t testing.TB, id hypervisor.ServerID, name string)
	RemoveServer(t testing.TB, id hypervisor.ServerID)

	// Write writes to a disk as the guest does; disks count as given to AddServer.
	Write(t testing.TB, id hypervisor.ServerID, disk int, off int64, p []byte)
	// Grow makes a disk larger.
	Grow(t testing.TB, id hypervisor.ServerID, disk int, size int64)
	// AddDisk adds an empty disk; its index is the next one.
	AddDisk(t testing.TB, id hypervisor.ServerID, size int64)
	// RemoveDisk takes a disk away; the indexes of the others stay.
	RemoveDisk(t testing.TB, id hypervisor.ServerID, disk int)
	// AddLeftOut adds a disk that the platform's snapshots leave out, and
	// returns what Check must call it. It has no index.
	AddLeftOut(t testing.TB, id hypervisor.ServerID, size int64) (subject string)
	// SpoilDisk keeps the disk's bytes from being read by whatever way.
	SpoilDisk(t testing.TB, id hypervisor.ServerID, disk int)
	// LoseTracking makes change IDs given so far worthless, as a power failure does.
	LoseTracking(t testing.TB, id hypervisor.ServerID)

	// TakeForeign takes a snapshot in somebody else's name.
	TakeForeign(t testing.TB, id hypervisor.ServerID, name string)
	// RevertToForeign goes back to a snapshot that TakeForeign took.
	RevertToForeign(t testing.TB, id hypervisor.ServerID, name string)
	// DeleteSnapshot deletes a snapshot of ours behind the source's back.
	DeleteSnapshot(t testing.TB, ref hypervisor.SnapshotRef)
	// SnapshotNames lists all snapshots that exist, of all servers and anybody's.
	SnapshotNames(t testing.TB) []string

	// ExpireSessions ends all sessions on the platform's side.
	ExpireSessions(t testing.TB)

	// Intercept has decide called before everything that a source asks of the
	// platform, n counting from 1 since this call of Intercept; decide runs on
	// any goroutine. Nil ends it.
	Intercept(decide func(n int) Fate)
}

// Traits are what the contract leaves to the platform.
type Traits struct {
	// Quiesce is what a snapshot reaches that prefers a quiesced guest.
	Quiesce hypervisor.Consistency
	// ForeignReadable says that disks can be read while foreign snapshots exist.
	ForeignReadable bool
	// Anchors says that something stays on the platform behind a settled
	// snapshot, without which the next run cannot ask for changes.
	Anchors bool
	// Calls is the most calls that one cycle (snapshot, read, settle) of a
	// one-disk server may take; the suite lets each of them fail.
	Calls int
	// Every has only each n-th call fail, for set-ups that differ little from
	// one in which all do; zero stands for one.
	Every int
}

// Fate is what becomes of a call.
type Fate int

// The fates: the call is let through, is refused without effect, or takes
// effect while its answer gets lost.
const (
	Pass Fate = iota
	Refuse
	Lose
)
