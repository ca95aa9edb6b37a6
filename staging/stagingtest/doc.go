// Package stagingtest is for tests of what stands on a staging.Store: a strict
// store in memory, and the conformance suite that every store passes.
package stagingtest
