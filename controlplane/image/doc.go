// Package image makes images of sealed runs and clears staging behind them.
//
// Local is the builder for images on a file system: a folder per image, a raw
// sparse file per disk, and a record that says what they hold. A disk starts
// as a copy of its base's file; then the base's block map is walked against
// the run's, and every block that differs is taken from the run's segments and
// put after its hash was found to be the map's:
//
//	base's file ──copy──▶ file ◀──put── segments
//	                        ▲               ▲
//	                 read back and compared │
//	                        └── block map ──┘
//
// The same parts serve people: VerifyImage holds a raw file against a run's
// block map, VerifyStaged holds a staged run against itself, and Restore makes
// a raw file of any run whose chain is still staged or kept as an image.
//
// Memory is bounded by a few shards of block maps and a block per worker,
// beside the manifests themselves, whatever the disks' sizes.
package image
