package vsphere

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// allocated asks change tracking for every area that was ever written.
const allocated hypervisor.ChangeID = "*"

// areaQuery asks for the changed areas from start on, as
// QueryChangedDiskAreas answers: a page tells about the bytes from
// StartOffset on, Length of them.
type areaQuery func(ctx context.Context, start int64) (types.DiskChangeInfo, error)

// contradiction is an answer of change tracking that cannot be true.
func contradiction(format string, args ...any) error {
	return &hypervisor.TrackingError{Reason: "its answer contradicts itself: " + fmt.Sprintf(format, args...)}
}

// changedAreas emits the areas of all pages, ascending, joined and inside the
// disk. A page without areas is not the end; one without progress is an error.
// When a page fails, everything before the returned offset has been emitted.
func changedAreas(ctx context.Context, size int64, query areaQuery, emit func(hypervisor.Extent) error) (asked int64, err error) {
	var last hypervisor.Extent // not emitted yet: the next may touch it; it ends at asked or before
	flush := func() error {
		if last.Length == 0 {
			return nil
		}
		if err := emit(last); err != nil {
			return &emitError{err}
		}
		return nil
	}
	var beyond []hypervisor.Extent // parts of areas behind the page that told of them
	for asked < size {
		page, err := query(ctx, asked)
		if err == nil {
			err = checkPage(page, asked, last)
		}
		if err != nil {
			if ferr := flush(); ferr != nil {
				return asked, ferr
			}
			return asked, err
		}
		next := min(page.StartOffset+page.Length, size)
		var inside []hypervisor.Extent
		inside, beyond = split(page.ChangedArea, beyond, asked, next, size)
		for _, a := range inside {
			if a.Offset <= last.End() && last.Length > 0 {
				last.Length = max(last.End(), a.End()) - last.Offset
				continue
			}
			if err := flush(); err != nil {
				return asked, err
			}
			last = a
		}
		asked = next
	}
	return asked, flush()
}

// checkPage refuses a page that makes no progress, leaves a gap, or tells of
// changes where an earlier page told of none.
func checkPage(page types.DiskChangeInfo, asked int64, last hypervisor.Extent) error {
	next := page.StartOffset + page.Length
	switch {
	case page.StartOffset < 0 || page.Length < 0 || next < page.StartOffset:
		return contradiction("a page of %d bytes at %d", page.Length, page.StartOffset)
	case page.StartOffset > asked:
		return contradiction("asked from %d, it starts at %d", asked, page.StartOffset)
	case next <= asked:
		return contradiction("no progress at %d", asked)
	}
	for _, a := range page.ChangedArea {
		end := a.Start + a.Length
		if a.Start < 0 || a.Length < 0 || end < a.Start {
			return contradiction("an area of %d bytes at %d", a.Length, a.Start)
		}
		told := a.Start >= last.Offset && last.End() >= min(asked, end)
		if a.Length > 0 && a.Start < asked && !told {
			return contradiction("the page from %d tells of an area at %d", asked, a.Start)
		}
	}
	return nil
}

// split cuts areas, and what earlier pages told of this one, to the page
// [asked, next) and to what lies behind it. Those inside come sorted.
func split(areas []types.DiskChangeExtent, earlier []hypervisor.Extent, asked, next, size int64) (inside, beyond []hypervisor.Extent) {
	cut := func(from, to int64) {
		from, to = max(from, asked), min(to, size)
		if from < min(to, next) {
			inside = append(inside, hypervisor.Extent{Offset: from, Length: min(to, next) - from})
		}
		if from = max(from, next); from < to {
			beyond = append(beyond, hypervisor.Extent{Offset: from, Length: to - from})
		}
	}
	for _, e := range earlier {
		cut(e.Offset, e.End())
	}
	for _, a := range areas {
		cut(a.Start, a.Start+a.Length)
	}
	slices.SortFunc(inside, func(a, b hypervisor.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	return inside, beyond
}

// parseChangeID splits a change ID into the tracking's UUID and its count:
// "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81".
func parseChangeID(id hypervisor.ChangeID) (uuid string, count int64, ok bool) {
	at := strings.LastIndexByte(string(id), '/')
	if at <= 0 {
		return "", 0, false
	}
	count, err := strconv.ParseInt(string(id[at+1:]), 10, 64)
	return strings.ToLower(string(id[:at])), count, err == nil && count >= 0
}

// incomparable tells why changes since the ID since cannot be had from a disk
// frozen at now, or nothing.
func incomparable(since, now hypervisor.ChangeID) string {
	sinceUUID, sinceCount, ok := parseChangeID(since)
	if !ok {
		return fmt.Sprintf("the last run's change ID %q has a form that is not known", since)
	}
	nowUUID, nowCount, ok := parseChangeID(now)
	switch {
	case !ok:
		return fmt.Sprintf("the snapshot's change ID %q has a form that is not known", now)
	case sinceUUID != nowUUID:
		return "changed block tracking was reset since the last run"
	case sinceCount > nowCount:
		return "the last run's change ID is newer than the snapshot's: the server was reverted"
	}
	return ""
}

// Changed answers from change tracking. For the empty ID the answer is never
// an error of tracking: without it, every byte may be other than zero.
func (d *disk) Changed(ctx context.Context, since hypervisor.ChangeID, emit func(hypervisor.Extent) error) error {
	if d.way == nil {
		return d.unreadable
	}
	if since == "" {
		return d.allocated(ctx, emit)
	}
	if d.flaw != "" {
		return &hypervisor.TrackingError{Reason: d.flaw}
	}
	if why := incomparable(since, d.changeID); why != "" {
		return &hypervisor.TrackingError{Reason: why}
	}
	_, err := changedAreas(ctx, d.size, d.query(since), emit)
	if stopped := (*emitError)(nil); errors.As(err, &stopped) {
		return stopped.err
	}
	if refusedByTracking(err) {
		return &hypervisor.TrackingError{Reason: "vSphere cannot tell what changed since the last run", Cause: err}
	}
	return d.explain(ctx, "ask what changed", err)
}

// allocated emits what was ever written, as far as tracking can tell: only on
// VMFS, and only where it was switched on before any snapshot.
func (d *disk) allocated(ctx context.Context, emit func(hypervisor.Extent) error) error {
	whole := func(from int64) error {
		if from >= d.size {
			return nil
		}
		return emit(hypervisor.Extent{Offset: from, Length: d.size - from})
	}
	if d.size <= 0 {
		return nil
	}
	if d.flaw != "" {
		return whole(0)
	}
	asked, err := changedAreas(ctx, d.size, d.query(allocated), emit)
	if stopped := (*emitError)(nil); errors.As(err, &stopped) {
		return stopped.err
	}
	_, contradicts := hypervisor.TrackingUnusable(err)
	if refusedByTracking(err) || contradicts {
		return whole(asked)
	}
	return d.explain(ctx, "ask what is allocated", err)
}

// query asks one page.
func (d *disk) query(since hypervisor.ChangeID) areaQuery {
	return func(ctx context.Context, start int64) (types.DiskChangeInfo, error) {
		res, err := methods.QueryChangedDiskAreas(ctx, d.snapshot.source.session, &types.QueryChangedDiskAreas{
			This: d.snapshot.machine, Snapshot: &d.snapshot.ref, DeviceKey: d.key, StartOffset: start, ChangeId: string(since),
		})
		if err != nil {
			return types.DiskChangeInfo{}, err
		}
		return res.Returnval, nil
	}
}

// refusedByTracking tells faults about the change ID or the tracking file from
// those that say something about our session, privileges or the snapshot.
func refusedByTracking(err error) bool {
	return isFault(err) && !isGone(err) && !notAuthenticated(err) && !fault.Is(err, &types.NoPermission{}) && !isBusy(err)
}
