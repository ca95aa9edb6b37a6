// Package hypervisor is the contract between Skylift and the places that
// servers live in. Each platform is a package below this one and keeps every
// rule written here; package sourcetest proves that it does. Those who use a
// source (the connector, the transfer pipeline) know this package only.
//
// Offsets, sizes and lengths are bytes, unless a name says otherwise.
package hypervisor

import (
	"context"
	"time"
)

// ServerID names a server for its source: stable as long as the server lives,
// unique within the source, never reused for another one (vSphere: the
// instance UUID).
type ServerID string

// DiskID names a virtual disk for its source. It survives snapshots, growth,
// renames and moves between controllers and datastores; it is never a
// position or a file name. A disk that was replaced has a new one.
type DiskID string

// RunID is the run that a snapshot is taken for. IDs are random, never reused.
type RunID string

// ChangeID is the platform's opaque token for "what changed since here".
// The empty ID stands for no tracking.
type ChangeID string

// Source is one place that servers live in.
//
// All methods may be called at once from many goroutines. A source logs in
// by itself, and again when its session has expired: no caller sees a session.
// Errors that a user can mend are problems (package internal/problem).
// A method returns soon after its context has ended, with everything it
// started stopped or, for snapshots, left to be found by Held.
type Source interface {
	// Properties tells what the source can do. It is constant and asks nobody.
	Properties() Properties

	// Watch emits every server once (Change.Server set), then a Change with
	// Synced set, then one Change whenever a server appears, changes or goes.
	// It does not poll all servers. emit is called from one goroutine, one
	// call at a time. Watch returns when ctx ends (ctx.Err()), when emit
	// errs (that error), or when the source cannot go on; the caller then
	// calls again and gets the whole list anew.
	Watch(ctx context.Context, emit func(Change) error) error

	// Check tells whether the server can be replicated now, and what stands
	// in the way. It changes nothing.
	Check(ctx context.Context, s ServerID) (Report, error)

	// CheckSource does the same for the source itself: what our user may do,
	// the certificate, how hosts are reached. It changes nothing.
	CheckSource(ctx context.Context) (Report, error)

	// Shares lists what a snapshot of the server has a part of for as long as
	// it exists: its datastores, say. Nothing is taken by asking.
	Shares(ctx context.Context, s ServerID) ([]Share, error)

	// Snapshot freezes the servers for run at one moment as near as the
	// platform can, and returns one reference per server, in their order.
	// It looks for the run's own snapshots by name first and returns those:
	// a repeated call makes no second one. On an error it has removed what
	// it made, or says so with errors.Join. Before it takes one, it waits
	// until earlier snapshots of ours on the same server are gone and
	// consolidated; it never removes another run's. The refs carry the
	// change IDs that belong to the frozen state.
	Snapshot(ctx context.Context, run RunID, servers []ServerID, q Quiesce) ([]SnapshotRef, error)

	// Held lists the snapshots and anchors that carry this installation's
	// name, found on the source itself and not from memory.
	Held(ctx context.Context) ([]SnapshotRef, []Anchor, error)

	// Open gives access to a snapshot's disks. SnapshotGone when it does
	// not exist (any more) under the same identity.
	Open(ctx context.Context, ref SnapshotRef) (Snapshot, error)

	// Settle ends the snapshot of a sealed run and returns what must stay
	// for the next run; the zero Anchor where nothing must. After an error it
	// can be called again. A snapshot that is gone already is settled.
	Settle(ctx context.Context, ref SnapshotRef) (Anchor, error)

	// Remove removes the snapshot and returns when it is gone and its
	// server's disks are consolidated. Removing what is gone is no error.
	Remove(ctx context.Context, ref SnapshotRef) error

	// Release lets go of an anchor. Releasing what is gone is no error.
	Release(ctx context.Context, a Anchor) error
}

// Properties tells callers how to treat a source, so that they need not guess.
type Properties struct {
	// Platform is the kind of source: "vsphere", "hyperv", "scvmm", "azure".
	Platform string
	// SnapshotLimit is how many snapshots may be in the making or removal at
	// once on the source, DiskLimit how many disks may be read at once.
	SnapshotLimit, DiskLimit int
	// Tracking says that the platform can tell what changed since a change ID.
	Tracking bool
}

// Share is something of the platform's that several servers or disks use at
// once, and of which each user takes one part: a host's buffers for copying
// disks, a datastore's snapshots.
type Share struct {
	// Kind says what it is to people ("host", "datastore"), Name which one.
	Kind, Name string
	// Of says what is counted: "disks read at once", "snapshots". Shares of different
	// counts are different shares.
	Of string
	// Limit is how many may use it at once.
	Limit int
}

// Quiesce says whether the guest is asked to bring its file systems and
// applications to rest for the snapshot.
type Quiesce string

// The ways to quiesce. Prefer falls back to a crash-consistent snapshot when
// the guest does not come to rest in time, and the reference says so.
const (
	QuiesceNever   Quiesce = "never"
	QuiescePrefer  Quiesce = "prefer"
	QuiesceRequire Quiesce = "require"
)

// Consistency is what a snapshot reached.
type Consistency string

// What a snapshot can be: as after a power cut, as after a clean sync of the
// file systems or applications, or of a server that was switched off.
const (
	CrashConsistent Consistency = "crash"
	Quiesced        Consistency = "quiesced"
	PoweredOff      Consistency = "powered-off"
)

// SnapshotRef finds a snapshot again, in this process or in a later one.
type SnapshotRef struct {
	Server ServerID
	Run    RunID
	// ID is the platform's own identity of the snapshot. It changes when a
	// snapshot is removed and made again under the same name.
	ID string
	// Created is by the source's clock.
	Created time.Time
	// Consistency reached, and why it is less than asked for; not set by Held.
	Consistency Consistency
	Note        string
	// Urgent is why the snapshot must not stay, as a clause for people (its
	// datastore runs full); empty for one that may. Set by Held only.
	Urgent string
}

// Anchor is what must stay on the source so that the next run can ask for
// changes. The zero Anchor stands for nothing.
type Anchor struct {
	Server ServerID
	Run    RunID
	ID     string
}

// Snapshot is a handle shared by the disks of one server's snapshot. It keeps
// leases and sessions alive until Close.
type Snapshot interface {
	// Disks returns the disks to replicate in a stable order. Disks that
	// cannot be snapshotted are not among them: Check reports those. A disk
	// that is frozen, but cannot be read, is: its methods err with the reason.
	Disks() []Disk
	// Verify errs unless the snapshot still exists with the same identity
	// and the same files as when it was opened (SnapshotGone).
	Verify(ctx context.Context) error
	// Close ends the handle, not the snapshot. Reads must have returned.
	Close() error
}

// Disk is one frozen disk.
type Disk interface {
	Info() DiskInfo

	// Changed emits, ascending and without overlap, the extents that may
	// differ from the state at since; for the empty ID, the extents that
	// may be other than zero. A superset is correct, an omission is
	// corruption. When tracking cannot answer for since, the error is a
	// *TrackingError and nothing emitted before it may be used.
	Changed(ctx context.Context, since ChangeID, emit func(Extent) error) error

	// Read emits the bytes of the extents, which are ascending, do not
	// overlap, start at multiples of BlockSize and end at one or at the
	// disk's size. Bytes come in ascending order without gaps inside an
	// extent, cut at will. p is valid until emit returns; a nil p with
	// n > 0 stands for n zero bytes, else n is len(p). emit is called one
	// call at a time and may block for as long as it likes: time spent there
	// never counts as the source's silence. Read returns after the last
	// byte, or with emit's error, ctx's or its own, and leaves nothing running.
	// With DiskInfo.RandomAccess many Reads may run at once; without, one.
	Read(ctx context.Context, in []Extent, emit func(off int64, p []byte, n int64) error) error
}

// BlockSize is the granularity of reads: a block of the staging format.
const BlockSize = 512 << 10

// DiskInfo describes one disk of a snapshot.
type DiskInfo struct {
	ID   DiskID
	Size int64
	// Name is for people: "Hard disk 1" and where it lies.
	Name string
	// Position orders the disks as the firmware sees them; the first is usually the boot disk.
	Position int
	// ChangeID belongs to the frozen state; empty where there is no tracking.
	ChangeID ChangeID
	// Transport and Why tell how the bytes travel, and why so.
	Transport, Why string
	// RandomAccess disks take many Reads at once, others one for everything.
	RandomAccess bool
	// Patience is how long emit may block in Read before the source gives the
	// stream up; zero for as long as it likes. Who has to wait longer ends
	// Read cleanly and reads the rest later.
	Patience time.Duration
	// Shares are what reading the disk has a part of: its host's buffers, say.
	Shares []Share
}

// Extent is the byte range [Offset, Offset+Length) of a disk.
type Extent struct{ Offset, Length int64 }

// End returns the offset behind the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Change is one step of Watch.
type Change struct {
	// Server is set when a server appeared or changed.
	Server *Server
	// Gone is set when a server went away.
	Gone ServerID
	// Synced is set once, behind the first listing.
	Synced bool
}

// Server is a server as the inventory shows it.
type Server struct {
	ID   ServerID
	Name string
	// Path is where a person finds it: "/DC0/vm/web/web-01".
	Path string
	// ManagerID is the source's own reference for the server (vSphere: "vm-42"), of use in its own user interface.
	ManagerID  string
	PoweredOn  bool
	GuestOS    string
	Firmware   Firmware
	SecureBoot bool
	TPM        bool
	CPUs       int
	MemoryMiB  int64
	Host       string
	Disks      []ServerDisk
	NICs       []NIC
}

// Firmware is what a server boots with.
type Firmware string

// The kinds of firmware.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// ServerDisk is a disk as the inventory shows it.
type ServerDisk struct {
	ID   DiskID
	Name string
	Size int64
	// Skip is why the disk cannot be replicated (physical RDM, independent,
	// shared ...); empty for one that can.
	Skip string
}

// NIC is a virtual network card.
type NIC struct{ Name, MAC, Network string }

// Report is the answer of Check.
type Report struct {
	// Facts are what was looked at and how it is, in a fixed order: "hardware
	// version" is "vmx-19". Findings are what is not as it should be.
	Facts    []Fact
	Findings []Finding
}

// Fact is something that Check saw. Subject is the disk or object concerned;
// empty for the server or source itself.
type Fact struct{ Subject, Name, Value string }

// Ready reports whether nothing blocks a run.
func (r Report) Ready() bool {
	for _, f := range r.Findings {
		if f.Blocks {
			return false
		}
	}
	return true
}

// Finding is one thing that Check noticed.
type Finding struct {
	// Code is stable, as a problem's.
	Code string
	// Blocks says that a run cannot start with this.
	Blocks bool
	// Subject is the disk, host or privilege concerned; What and Hint tell
	// what is the matter and how to mend it.
	Subject, What, Hint string
}

// TrackingEnabler is a source that can switch change tracking on. A source
// never does so by itself: it changes the server's configuration and, on a
// running server, stuns the guest for as long as a snapshot takes.
type TrackingEnabler interface {
	// EnableTracking returns when changes are being tracked. On a server
	// that tracks already it does nothing.
	EnableTracking(ctx context.Context, s ServerID) error
}
