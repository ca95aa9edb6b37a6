// Package connector is the daemon in the data centre. It watches its sources
// and reports their servers, takes the runs that the control plane leases to
// it, moves their disks into staging, and clears away snapshots that nobody
// needs any more.
//
// It holds nothing that cannot be had again: a run that it leaves behind, for
// whatever reason, goes on from staging, here or on another connector. What it
// does for a run it does under a lease, and stops at a deadline of its own
// when the lease is not renewed in time.
package connector
