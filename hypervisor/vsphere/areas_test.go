package vsphere

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// pages answers from a script; a page answers the question that its start names.
func pages(t testing.TB, script ...types.DiskChangeInfo) areaQuery {
	return func(_ context.Context, start int64) (types.DiskChangeInfo, error) {
		if len(script) == 0 {
			t.Fatalf("asked once more, from %d", start)
		}
		page := script[0]
		script = script[1:]
		return page, nil
	}
}

func page(start, length int64, areas ...int64) types.DiskChangeInfo {
	p := types.DiskChangeInfo{StartOffset: start, Length: length}
	for i := 0; i < len(areas); i += 2 {
		p.ChangedArea = append(p.ChangedArea, types.DiskChangeExtent{Start: areas[i], Length: areas[i+1]})
	}
	return p
}

func extents(pairs ...int64) (all []hypervisor.Extent) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, hypervisor.Extent{Offset: pairs[i], Length: pairs[i+1]})
	}
	return all
}

func TestChangedAreasFollowThePages(t *testing.T) {
	for _, c := range []struct {
		name  string
		pages []types.DiskChangeInfo
		want  []hypervisor.Extent
	}{
		{"one page", []types.DiskChangeInfo{page(0, 1000, 0, 10, 500, 20)}, extents(0, 10, 500, 20)},
		{"an empty page is not the end", []types.DiskChangeInfo{page(0, 300), page(300, 300), page(600, 400, 700, 50)}, extents(700, 50)},
		{"no change at all", []types.DiskChangeInfo{page(0, 1000)}, nil},
		{"areas that touch across pages are joined", []types.DiskChangeInfo{page(0, 500, 400, 100), page(500, 500, 500, 100)}, extents(400, 200)},
		{"areas of a page in no order, touching and overlapping", []types.DiskChangeInfo{page(0, 1000, 600, 50, 100, 50, 140, 20, 160, 10)}, extents(100, 70, 600, 50)},
		{"areas of no length are passed over", []types.DiskChangeInfo{page(0, 1000, 5, 0, 10, 1)}, extents(10, 1)},
		{"an area past the disk's end is cut", []types.DiskChangeInfo{page(0, 1024, 990, 100)}, extents(990, 10)},
		{"an area behind the disk's end is left out", []types.DiskChangeInfo{page(0, 1024, 1000, 24)}, nil},
		{"an area that reaches into the next page", []types.DiskChangeInfo{page(0, 500, 450, 150), page(500, 500, 700, 10)}, extents(450, 150, 700, 10)},
		{"an area told of by two pages", []types.DiskChangeInfo{page(0, 500, 450, 150), page(500, 500, 450, 150)}, extents(450, 150)},
		{"an area of the page after next", []types.DiskChangeInfo{page(0, 100, 700, 10), page(100, 100), page(200, 800, 800, 1)}, extents(700, 10, 800, 1)},
		{"a page that starts before what was asked", []types.DiskChangeInfo{page(0, 500), page(400, 600, 900, 5)}, extents(900, 5)},
		{"a last page over the end", []types.DiskChangeInfo{page(0, 999), page(999, 1<<40, 999, 1)}, extents(999, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []hypervisor.Extent
			_, err := changedAreas(t.Context(), 1000, pages(t, c.pages...), func(e hypervisor.Extent) error { got = append(got, e); return nil })
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestChangedAreasRefuseContradictions(t *testing.T) {
	for _, c := range []struct {
		name  string
		pages []types.DiskChangeInfo
	}{
		{"no progress", []types.DiskChangeInfo{page(0, 0)}},
		{"no progress after some", []types.DiskChangeInfo{page(0, 500), page(500, 0)}},
		{"a page of the past", []types.DiskChangeInfo{page(0, 500), page(0, 500)}},
		{"a gap between pages", []types.DiskChangeInfo{page(0, 500), page(600, 400)}},
		{"a negative length", []types.DiskChangeInfo{page(0, -5)}},
		{"a length that overflows", []types.DiskChangeInfo{page(0, 500), page(500, 1<<63-1)}},
		{"a negative area", []types.DiskChangeInfo{page(0, 1000, -5, 10)}},
		{"an area of negative length", []types.DiskChangeInfo{page(0, 1000, 5, -10)}},
		{"an area that overflows", []types.DiskChangeInfo{page(0, 1000, 5, 1<<63-1)}},
		{"an area that an earlier page did not tell of", []types.DiskChangeInfo{page(0, 500, 10, 10), page(500, 500, 300, 10)}},
		{"an area that began where an earlier page told of nothing", []types.DiskChangeInfo{page(0, 500), page(500, 500, 490, 20)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := changedAreas(t.Context(), 1000, pages(t, c.pages...), func(hypervisor.Extent) error { return nil })
			if _, ok := hypervisor.TrackingUnusable(err); !ok {
				t.Errorf("got %v, want tracking unusable", err)
			}
		})
	}
}

func TestAFailingPageLeavesEverythingBeforeItTold(t *testing.T) {
	broken := soap.WrapVimFault(&types.FileFault{})
	query := func(_ context.Context, start int64) (types.DiskChangeInfo, error) {
		if start == 0 {
			return page(0, 500, 100, 50, 450, 100), nil // the last area reaches into the page that fails
		}
		return types.DiskChangeInfo{}, broken
	}
	var got []hypervisor.Extent
	asked, err := changedAreas(t.Context(), 1000, query, func(e hypervisor.Extent) error { got = append(got, e); return nil })
	if !errors.Is(err, broken) || asked != 500 {
		t.Errorf("got to %d with %v", asked, err)
	}
	if want := extents(100, 50, 450, 50); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestChangedAreasEndWithTheReceiversError(t *testing.T) {
	enough := errors.New("enough")
	_, err := changedAreas(t.Context(), 1000, pages(t, page(0, 1000, 1, 1, 5, 1)), func(hypervisor.Extent) error { return enough })
	var stopped *emitError
	if !errors.As(err, &stopped) || stopped.err != enough {
		t.Errorf("got %v", err)
	}
}

func TestChangeIDsAreCompared(t *testing.T) {
	const uuid = "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63"
	for _, c := range []struct {
		name       string
		since, now hypervisor.ChangeID
		comparable bool
	}{
		{"an older one", uuid + "/7", uuid + "/81", true},
		{"the same one", uuid + "/81", uuid + "/81", true},
		{"numbers and not texts", uuid + "/9", uuid + "/10", true},
		{"the same UUID in capitals", "52 DE C0 D9 B9 43 9D 10-61 D5 4C 1B E9 7B 65 63/7", uuid + "/81", true},
		{"a newer one", uuid + "/82", uuid + "/81", false},
		{"of another epoch", "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 64/7", uuid + "/81", false},
		{"not a change ID", "hello", uuid + "/81", false},
		{"the star is none", "*", uuid + "/81", false},
		{"a count that is no number", uuid + "/x", uuid + "/81", false},
		{"a negative count", uuid + "/-1", uuid + "/81", false},
		{"no UUID", "/1", "/2", false},
		{"a snapshot without one", uuid + "/7", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if why := incomparable(c.since, c.now); (why == "") != c.comparable {
				t.Errorf("got %q", why)
			}
		})
	}
}

// FuzzChangedAreas holds arbitrary answers to what Changed promises: ascending,
// joined, inside the disk, and covering every area that was told of when the
// answer is accepted.
func FuzzChangedAreas(f *testing.F) {
	f.Add([]byte{0, 100, 10, 20, 0, 255, 30, 40})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		const size = 300
		var told []types.DiskChangeExtent
		query := func(_ context.Context, start int64) (types.DiskChangeInfo, error) {
			take := func() int64 {
				if len(script) == 0 {
					return 1
				}
				b := int64(script[0])
				script = script[1:]
				return b
			}
			p := types.DiskChangeInfo{StartOffset: start, Length: take()}
			for range take() % 4 {
				a := types.DiskChangeExtent{Start: start + take() - 20, Length: take()}
				p.ChangedArea = append(p.ChangedArea, a)
			}
			told = append(told, p.ChangedArea...)
			return p, nil
		}
		var last int64 = -1
		marked := make([]bool, size)
		_, err := changedAreas(t.Context(), size, query, func(e hypervisor.Extent) error {
			if e.Length <= 0 || e.Offset <= last || e.End() > size {
				t.Fatalf("emitted %v behind %d", e, last)
			}
			last = e.End()
			for i := e.Offset; i < e.End(); i++ {
				marked[i] = true
			}
			return nil
		})
		if err != nil {
			return
		}
		for _, a := range told {
			for i := max(0, a.Start); i < min(size, a.Start+a.Length); i++ {
				if !marked[i] {
					t.Fatalf("the area %v was told of and %d is not covered", a, i)
				}
			}
		}
	})
}
