package vcenter

import (
	"cmp"
	"maps"
	"slices"
)

func roundUp(n int64) int64 { return (n + grain - 1) / grain * grain }

// grainExtents turns a set of grain numbers into ascending extents.
func grainExtents(set map[int64]bool) []Extent {
	var list []Extent
	for _, g := range slices.Sorted(maps.Keys(set)) {
		if n := len(list); n > 0 && list[n-1].End() == g*grain {
			list[n-1].Length += grain
			continue
		}
		list = append(list, Extent{g * grain, grain})
	}
	return list
}

// union sorts extents, joins those that overlap or touch, and cuts them at size.
func union(list []Extent, size int64) []Extent {
	slices.SortFunc(list, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []Extent
	for _, e := range list {
		e.Length = min(e.End(), size) - e.Offset
		if e.Length <= 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].End() >= e.Offset {
			out[n-1].Length = max(out[n-1].End(), e.End()) - out[n-1].Offset
			continue
		}
		out = append(out, e)
	}
	return out
}
