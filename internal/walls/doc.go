// Package walls holds tests only: they keep the walls between the module's
// packages, over the import graph and the source text, and say the reason when
// one is broken. docs/architecture.md shows the layout that they keep.
package walls
