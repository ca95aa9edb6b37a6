//go:build !race

package vsphere_test

const many = 10_000
