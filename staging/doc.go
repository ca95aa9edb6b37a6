// Package staging is the format in which a run's disks lie between the
// connector, which writes it, and the control plane, which builds images from
// it: plan, segments, block map and manifest. docs/staging-format.md describes
// every byte.
//
// The package is pure: it encodes, decodes and checks, and knows an object
// store only by the Store interface.
package staging
