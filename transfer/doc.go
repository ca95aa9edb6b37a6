// Package transfer moves a frozen disk into staging.
//
// A Move goes through the steps of the staging format's write order: plan,
// segments and shards of the block map, the snapshot seen again, manifest. The
// plan is cut into slices; several slices of a disk are under way at once,
// each read, hashed, compared with the base's block map, compressed and stored
// as one segment:
//
//	disk ──Read──▶ assembler ──blocks──▶ slice ──changed blocks──▶ segment ──Put──▶ staging
//	                                       └────────hashes──────▶ block map
//
// All memory for blocks comes from one pool per Mover. A slice takes what it
// needs before it reads, so nobody waits while holding some.
//
// A Move that was broken off is continued by another Move of the same run,
// wherever it runs: what lies in staging is the only journal.
package transfer
