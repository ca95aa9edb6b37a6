//go:build race

package vsphere_test

// The race detector makes parsing so slow that ten thousand would be half of
// the package's time; a fifth of them is counted the same way.
const many = 2_000
