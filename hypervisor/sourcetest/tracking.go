package sourcetest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"skylift/hypervisor"
)

// covered reports that a lies within the extents.
func covered(a hypervisor.Extent, by []hypervisor.Extent) bool {
	for _, e := range by {
		if a.Offset >= e.Offset && a.Offset < e.End() {
			if a.End() <= e.End() {
				return true
			}
			a = hypervisor.Extent{Offset: e.End(), Length: a.End() - e.End()}
		}
	}
	return a.Length == 0
}

// mustCover checks that everything that differs lies within the extents.
func mustCover(t testing.TB, what string, before, after []byte, by []hypervisor.Extent) {
	t.Helper()
	const step = 512
	for off := 0; off < len(after); off += step {
		end := min(off+step, len(after))
		old := make([]byte, end-off)
		if off < len(before) {
			copy(old, before[off:min(end, len(before))])
		}
		if !bytes.Equal(old, after[off:end]) && !covered(hypervisor.Extent{Offset: int64(off), Length: int64(end - off)}, by) {
			t.Fatalf("%s: the change at %d is not told; told are %d extents", what, off, len(by))
		}
	}
}

func changesCover(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small, larger)
	random := rand.New(rand.NewPCG(3, 3))
	var since [2]hypervisor.ChangeID
	before := [][]byte{make([]byte, small), make([]byte, larger)}
	for round := 1; round <= 4; round++ {
		now := g.frozen()
		ref, sn := take(t, s, runID(round), g)
		// What the guest writes while we read belongs to the next round.
		g.scribble(t, random, 0)
		for i, d := range sn.Disks() {
			told, err := changes(newContext(t), d, since[i])
			if err != nil {
				t.Fatalf("round %d, disk %d: %v", round, i, err)
			}
			mustCover(t, d.Info().Name, before[i], now[i], told)
			if since[i] = d.Info().ChangeID; since[i] == "" {
				t.Fatalf("round %d, disk %d has no change ID", round, i)
			}
		}
		before = now
		settle(t, s, ref)
		for range 5 {
			g.scribble(t, random, 1)
		}
	}
	// Without a write nothing need be told, and never the whole disk.
	ref, sn := take(t, s, runID(5), g)
	since[1] = sn.Disks()[1].Info().ChangeID
	settle(t, s, ref)
	ref, sn = take(t, s, runID(6), g)
	if told, err := changes(newContext(t), sn.Disks()[1], since[1]); err != nil || covered(hypervisor.Extent{Length: larger}, told) {
		t.Errorf("without a write: %v, %v", told, err)
	}
	settle(t, s, ref)
}

func changesMany(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	const size = 64 << 20
	g := addGuest(t, p, "one", size)
	before := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	since := sn.Disks()[0].Info().ChangeID
	settle(t, s, ref)
	for off := int64(0); off < size; off += 256 << 10 { // every other 128 KiB
		g.write(t, 0, off, []byte{1, 2, 3})
	}
	now := g.frozen()
	ref, sn = take(t, s, runID(2), g)
	told, err := changes(newContext(t), sn.Disks()[0], since)
	if err != nil {
		t.Fatal(err)
	}
	mustCover(t, "many areas", before[0], now[0], told)
	settle(t, s, ref)
}

func changesFromNothing(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", larger)
	now := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	told, err := changes(newContext(t), sn.Disks()[0], "")
	if err != nil {
		t.Fatal(err)
	}
	mustCover(t, "allocated extents", make([]byte, larger), now[0], told)
	settle(t, s, ref)
}

func trackingLost(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, sn := take(t, s, runID(1), g)
	since := sn.Disks()[0].Info().ChangeID
	settle(t, s, ref)
	p.LoseTracking(t, g.id)
	g.write(t, 0, 1000, []byte{1})
	now := g.frozen()
	ref, sn = take(t, s, runID(2), g)
	d := sn.Disks()[0]
	for _, id := range []hypervisor.ChangeID{since, "no change ID of any platform"} {
		told, err := changes(newContext(t), d, id)
		if lost, ok := hypervisor.TrackingUnusable(err); !ok || lost.Reason == "" {
			t.Errorf("changes since %q: %v, %v; want tracking unusable with a reason", id, told, err)
		}
	}
	told, err := changes(newContext(t), d, "")
	if err != nil {
		t.Fatalf("without a change ID: %v", err)
	}
	mustCover(t, "after tracking was lost", make([]byte, small), now[0], told)
	mustRead(t, d, now[0])
	settle(t, s, ref)
}

func trackingReverted(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	p.TakeForeign(t, g.id, "before the upgrade")
	old := g.frozen()
	g.write(t, 0, 4096, []byte("the upgrade"))
	ref, sn := take(t, s, runID(1), g)
	since := sn.Disks()[0].Info().ChangeID
	settle(t, s, ref)
	p.RevertToForeign(t, g.id, "before the upgrade")
	g.setBack(old)
	g.write(t, 0, 9000, []byte("another try"))
	now := g.frozen()
	ref, sn = take(t, s, runID(2), g)
	d := sn.Disks()[0]
	if told, err := changes(newContext(t), d, since); since != "" && err == nil {
		t.Errorf("after a revert the changes since before it are told as %v", told)
	} else if lost, ok := hypervisor.TrackingUnusable(err); p.Traits().ForeignReadable && (!ok || lost.Reason == "") {
		t.Errorf("after a revert: %v; want tracking unusable with a reason", err)
	}
	if p.Traits().ForeignReadable {
		mustRead(t, d, now[0])
	}
	settle(t, s, ref)
}

func diskGrows(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, sn := take(t, s, runID(1), g)
	since := sn.Disks()[0].Info().ChangeID
	settle(t, s, ref)
	before := g.frozen()
	g.grow(t, 0, larger)
	g.write(t, 0, larger-100_000, bytes.Repeat([]byte{7}, 100_000))
	now := g.frozen()
	ref, sn = take(t, s, runID(2), g)
	d := sn.Disks()[0]
	if d.Info().Size != larger {
		t.Errorf("the grown disk has %d bytes, want %d", d.Info().Size, larger)
	}
	told, err := changes(newContext(t), d, since)
	if _, lost := hypervisor.TrackingUnusable(err); !lost {
		if err != nil {
			t.Fatal(err)
		}
		mustCover(t, "across growth", before[0], now[0], told)
	}
	mustRead(t, d, now[0])
	settle(t, s, ref)
}
