// Package sourcetest proves that a source keeps the contract of package
// hypervisor. Every source runs it against a stand-in of its platform, and
// where there is one against the real platform.
//
// # Adding a source
//
// A source is a package under hypervisor that implements hypervisor.Source.
// Before it is used it passes this suite unchanged. Three things are needed.
//
// First, a simulator: a server in internal/simulator that speaks the
// platform's protocols, holds real bytes, and refuses what the real one
// refuses. It is written from the platform's documentation, not from the
// source, so that a misunderstanding of one shows in the other.
//
// Second, a Platform on top of it: a place where the suite can create servers,
// write to their disks as a guest does, take foreign snapshots, delete things
// behind the source's back, expire sessions, and decide the fate of every
// single call that the source makes. The suite keeps the truth about bytes by
// itself: it writes through Platform.Write, remembers what it wrote, and
// compares what the source reads. The platform never has to say what a
// snapshot should contain.
//
// Third, a test per set-up that makes the source behave differently: each
// transport, each kind of host.
//
//	func TestContract(t *testing.T) {
//		sourcetest.Run(t, func(t testing.TB) sourcetest.Platform { return newPlatform(t) })
//	}
//
// A source may differ from others only where Platform.Traits says so. The
// suite's own tests have a complete source in memory, with anchors and
// streams, to begin from; and one wrong source for each thing that sources get
// wrong, with the part of the suite that notices it.
//
// # What is demanded
//
//   - The inventory lists each server once, however many pages that takes, and
//     then tells of changes; it survives expired sessions.
//   - Identities of servers and disks survive snapshots, growth, renames,
//     restarts, and other disks that come and go.
//   - A run has one snapshot, however often it is asked for. A new one waits
//     until the older one is gone, and says so. Several servers get theirs
//     together or not at all.
//   - Snapshots and anchors are found again after a restart, foreign ones left
//     alone, removals waited for, repeated ones harmless.
//   - A snapshot that vanished or was replaced is gone, at whatever step that
//     is noticed, and never read as if it were there.
//   - Bytes are those of the frozen moment, in order, in whole blocks, while the
//     guest goes on writing and many reads run at once. A disk that cannot be
//     read, or that snapshots leave out, is told of and harms no other.
//   - Changes are never too few. Lost tracking and somebody's revert are told,
//     neither guessed nor answered with a silent full copy. What a source
//     cannot know, that tracking itself lies, the transfer's sample finds.
//   - Every call may be refused, lose its answer, meet an expired session or be
//     canceled: the error says so, what is left is found and removed, and no
//     goroutine stays.
package sourcetest
