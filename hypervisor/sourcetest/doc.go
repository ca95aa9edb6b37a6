// Package sourcetest proves that a source keeps the contract of package
// hypervisor. Every source runs it against a stand-in of its platform, and
// where there is one against the real platform.
//
// # Adding a source
//
// Implement Platform on top of a simulator of yours: a place where the suite
// can create servers, write to their disks as a guest does, take foreign
// snapshots, delete things behind the source's back, expire sessions, and
// decide the fate of every single call that the source makes. Then
//
//	func TestContract(t *testing.T) {
//		sourcetest.Run(t, func(t testing.TB) sourcetest.Platform { return newPlatform(t) })
//	}
//
// The suite keeps the truth about bytes by itself: it writes through
// Platform.Write, remembers what it wrote, and compares what the source reads.
// The platform never has to say what a snapshot should contain.
//
// A source may differ from others only where Platform.Traits says so.
package sourcetest
