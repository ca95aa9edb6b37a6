// Command bench measures what a connector costs: throughput and processor time
// of runs from a vCenter into S3, TLS on both sides, and the same figures of
// the work that cannot be avoided, done by the barest of programs on the same
// bytes from the same servers. Beside these it brings the same disks into S3 by
// other programs, those that are installed. docs/performance.md explains the
// tables.
//
// Every part is a process of its own, this binary executed again: the source
// (the simulated vCenter), the sink (a server that takes objects and checks
// nothing), and, one after the other, the connector's moving part and the bare
// work. Their figures are those of the process between the first byte and the
// last: what it takes to start, log in and take the snapshot is left out.
package main
