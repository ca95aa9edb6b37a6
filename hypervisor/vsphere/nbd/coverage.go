package nbd

import "slices"

// maxParts is how many separate parts of one reply may have come. Servers send
// them in order, or nearly so.
const maxParts = 4096

// coverage is which parts of a request have come: ascending, neither touching
// nor overlapping each other.
type coverage []span

type span struct{ from, to uint32 }

// add notes one more part.
func (v *coverage) add(from, to uint32) error {
	parts := *v
	// The first part that ends at from or behind.
	i, _ := slices.BinarySearchFunc(parts, from, func(s span, at uint32) int {
		if s.to < at {
			return -1
		}
		return 1
	})
	touches := i < len(parts) && parts[i].to == from
	next := i
	if touches {
		next++
	}
	joins := false
	if next < len(parts) {
		if parts[next].from < to {
			return malformed("bytes %d to %d of a reply overlap others", from, to)
		}
		joins = parts[next].from == to
	}
	switch {
	case touches && joins:
		parts[i].to = parts[next].to
		parts = slices.Delete(parts, next, next+1)
	case touches:
		parts[i].to = to
	case joins:
		parts[next].from = from
	case len(parts) == maxParts:
		return malformed("a reply in more than %d pieces", maxParts)
	default:
		parts = slices.Insert(parts, i, span{from, to})
	}
	*v = parts
	return nil
}

// whole reports whether all length bytes have come.
func (v coverage) whole(length uint32) bool {
	return len(v) == 1 && v[0] == span{0, length}
}
