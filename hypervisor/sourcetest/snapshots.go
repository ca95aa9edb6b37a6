package sourcetest

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

func snapshotOnce(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	first, _ := take(t, s, runID(1), g)
	again, _ := take(t, s, runID(1), g)
	if again.ID != first.ID || !again.Created.Equal(first.Created) {
		t.Errorf("asked again: %+v, was %+v", again, first)
	}
	restarted, _ := p.Source(t)
	after, _ := take(t, restarted, runID(1), g)
	if after.ID != first.ID {
		t.Errorf("asked after a restart: %+v, was %+v", after, first)
	}
	if names := ours(t, p); len(names) != 1 {
		t.Errorf("there are the snapshots %q, want one", names)
	}
	settle(t, s, first)
}

func snapshotMany(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	one, two := addGuest(t, p, "one", small), addGuest(t, p, "two", small, larger)
	refs, err := s.Snapshot(newContext(t), runID(1), []hypervisor.ServerID{two.id, one.id}, hypervisor.QuiescePrefer)
	if err != nil {
		t.Fatal(err)
	}
	if len(refs) != 2 || refs[0].Server != two.id || refs[1].Server != one.id {
		t.Fatalf("references are %+v, want them in the servers' order", refs)
	}
	for _, ref := range refs {
		if want := p.Traits().Quiesce; ref.Consistency != want {
			t.Errorf("%s reached %q (%s), want %q", ref.Server, ref.Consistency, ref.Note, want)
		}
	}
	want := [][][]byte{two.frozen(), one.frozen()}
	one.write(t, 0, 0, []byte("after the moment"))
	two.write(t, 1, 0, []byte("after the moment"))
	for i, ref := range refs {
		sn, err := s.Open(newContext(t), ref)
		if err != nil {
			t.Fatal(err)
		}
		for k, d := range sn.Disks() {
			mustRead(t, d, want[i][k])
		}
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
		settle(t, s, ref)
	}
}

func snapshotTellsWaits(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	first, _ := take(t, s, runID(1), g)
	told, over := make(chan string, 100), make(chan struct{}, 100)
	ctx := hypervisor.WithWaits(newContext(t), func(what string) func() {
		select {
		case told <- what:
		default:
		}
		return func() {
			select {
			case over <- struct{}{}:
			default:
			}
		}
	})
	second := make(chan error, 1)
	go func() {
		_, err := s.Snapshot(ctx, runID(2), []hypervisor.ServerID{g.id}, hypervisor.QuiesceNever)
		second <- err
	}()
	select {
	case what := <-told:
		if what == "" {
			t.Error("it waits for nothing")
		}
	case err := <-second:
		t.Errorf("it did not wait: %v", err)
		sweep(t, p)
		return
	case <-time.After(soon(t)):
		t.Error("it waits, and does not say so")
	}
	settle(t, s, first)
	if err := <-second; err != nil {
		t.Errorf("with the first gone: %v", err)
	}
	select {
	case <-over:
	default:
		t.Error("the wait is over, and it was never said")
	}
	sweep(t, p)
}

func snapshotWaits(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	first, _ := take(t, s, runID(1), g)

	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if refs, err := s.Snapshot(short, runID(2), []hypervisor.ServerID{g.id}, hypervisor.QuiesceNever); err == nil {
		t.Errorf("a second snapshot was made beside the first: %+v", refs)
	}
	if names := ours(t, p); len(names) != 1 {
		t.Errorf("there are the snapshots %q, want the first", names)
	}

	second := make(chan error, 1)
	go func() {
		_, err := s.Snapshot(newContext(t), runID(2), []hypervisor.ServerID{g.id}, hypervisor.QuiesceNever)
		second <- err
	}()
	settle(t, s, first)
	if err := <-second; err != nil {
		t.Errorf("with the first gone: %v", err)
	}
	sweep(t, p)
}

func snapshotAllOrNothing(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	refs, err := s.Snapshot(newContext(t), runID(1), []hypervisor.ServerID{g.id, unknown}, hypervisor.QuiesceNever)
	if err == nil {
		t.Fatalf("an unknown server was snapshotted: %+v", refs)
	}
	if names := ours(t, p); len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
}

func heldFinds(t testing.TB, p Platform) {
	s, stop := p.Source(t)
	one, two := addGuest(t, p, "one", small), addGuest(t, p, "two", small)
	first, _ := take(t, s, runID(1), one)
	second, _ := take(t, s, runID(2), two)
	p.TakeForeign(t, two.id, "before the upgrade")
	stop()

	restarted, _ := p.Source(t)
	held, _, err := restarted.Held(newContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []hypervisor.SnapshotRef{first, second} {
		if !slices.ContainsFunc(held, func(r hypervisor.SnapshotRef) bool {
			return r.Server == want.Server && r.Run == want.Run && r.ID == want.ID && r.Created.Equal(want.Created)
		}) {
			t.Errorf("%+v is not among the held %+v", want, held)
		}
	}
	if len(held) != 2 {
		t.Errorf("held are %+v, want two", held)
	}
	sweep(t, p)
}

func removeRepeats(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, _ := take(t, s, runID(1), g)
	for range 2 {
		if err := s.Remove(newContext(t), ref); err != nil {
			t.Errorf("remove: %v", err)
		}
		if names := p.SnapshotNames(t); len(names) != 0 {
			t.Errorf("removed, and still there: %q", names)
		}
	}
	anchor, err := s.Settle(newContext(t), ref)
	if err != nil {
		t.Errorf("settle what is gone: %v", err)
	}
	for range 2 {
		if err := s.Release(newContext(t), anchor); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if names := p.SnapshotNames(t); len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
	ref, _ = take(t, s, runID(2), g)
	p.RemoveServer(t, g.id)
	if err := s.Remove(newContext(t), ref); err != nil {
		t.Errorf("remove a snapshot that went with its server: %v", err)
	}
}

func removeSparesForeign(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, _ := take(t, s, runID(1), g)
	p.TakeForeign(t, g.id, "before the upgrade")
	settle(t, s, ref)
	onlyForeign := func() {
		t.Helper()
		if names := p.SnapshotNames(t); len(names) != 1 || names[0] != "before the upgrade" {
			t.Errorf("there are the snapshots %q, want the foreign one", names)
		}
	}
	onlyForeign()
	ref, _ = take(t, s, runID(3), g)
	if err := s.Remove(newContext(t), ref); err != nil {
		t.Error(err)
	}
	onlyForeign()
	if !p.Traits().ForeignReadable {
		return
	}
	want := g.frozen()
	ref, sn := take(t, s, runID(2), g)
	mustRead(t, sn.Disks()[0], want[0])
	settle(t, s, ref)
}

func snapshotGone(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, sn := take(t, s, runID(1), g)
	if err := sn.Verify(newContext(t)); err != nil {
		t.Errorf("verify an untouched snapshot: %v", err)
	}
	p.DeleteSnapshot(t, ref)
	gone := func(what string, err error) {
		t.Helper()
		if !problem.Has(err, hypervisor.SnapshotGone) {
			t.Errorf("%s: %v, want the snapshot gone", what, err)
		}
	}
	gone("verify", sn.Verify(newContext(t)))
	_, err := s.Open(newContext(t), ref)
	gone("open", err)
	_, err = changes(newContext(t), sn.Disks()[0], sn.Disks()[0].Info().ChangeID)
	gone("ask for changes", err)

	// One of the same name is another one.
	second, _ := take(t, s, runID(1), g)
	if second.ID == ref.ID {
		t.Errorf("the new snapshot has the old one's ID %s", ref.ID)
	}
	gone("verify beside its successor", sn.Verify(newContext(t)))
	settle(t, s, second)
}

// snapshotVanishes deletes the snapshot under a read, and before it is settled.
func snapshotVanishes(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", larger)
	want := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	g.write(t, 0, 0, bytes.Repeat([]byte{0xaa}, larger-1000)) // what the file holds when it is not frozen any more
	d, deleted := sn.Disks()[0], false
	got := make([]byte, larger)
	err := d.Read(newContext(t), []hypervisor.Extent{{Length: larger}}, func(off int64, b []byte, n int64) error {
		if !deleted {
			deleted = true
			p.DeleteSnapshot(t, ref)
		}
		copy(got[off:off+n], b)
		return nil
	})
	if err == nil && !bytes.Equal(got, want[0]) {
		t.Error("bytes came that are not the snapshot's, without an error")
	}
	if err := sn.Verify(newContext(t)); !problem.Has(err, hypervisor.SnapshotGone) {
		t.Errorf("verify: %v, want the snapshot gone", err)
	}
	if _, err := s.Settle(newContext(t), ref); err != nil {
		t.Errorf("settle what is gone: %v", err)
	}
	sweep(t, p)
}

// anchorsStay follows an anchor from its settled snapshot to its release.
func anchorsStay(t testing.TB, p Platform) {
	s, stop := p.Source(t)
	g := addGuest(t, p, "one", small)
	before := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	since := sn.Disks()[0].Info().ChangeID
	anchor, err := s.Settle(newContext(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Settle(newContext(t), ref); err != nil || again != anchor {
		t.Errorf("settled again: %+v, %v; was %+v", again, err, anchor)
	}
	if !p.Traits().Anchors {
		if anchor != (hypervisor.Anchor{}) {
			t.Errorf("the platform has no anchors, and one is %+v", anchor)
		}
		return
	}
	if anchor.Server != g.id || anchor.Run != runID(1) || anchor.ID == "" {
		t.Errorf("the anchor is %+v", anchor)
	}
	stop()
	restarted, _ := p.Source(t)
	if _, anchors, err := restarted.Held(newContext(t)); err != nil || !slices.Equal(anchors, []hypervisor.Anchor{anchor}) {
		t.Errorf("after a restart held are %+v, %v", anchors, err)
	}
	g.write(t, 0, 5000, []byte("behind the anchor"))
	now := g.frozen()
	ref, sn = take(t, restarted, runID(2), g)
	told, err := changes(newContext(t), sn.Disks()[0], since)
	if err != nil {
		t.Fatalf("changes since the anchor: %v", err)
	}
	mustCover(t, "since the anchor", before[0], now[0], told)
	if err := restarted.Release(newContext(t), anchor); err != nil {
		t.Fatal(err)
	}
	if told, err := changes(newContext(t), sn.Disks()[0], since); err == nil && !covered(hypervisor.Extent{Length: small}, told) {
		mustCover(t, "since a released anchor", before[0], now[0], told)
	}
	settle(t, restarted, ref)
	if _, anchors, err := restarted.Held(newContext(t)); err != nil || slices.Contains(anchors, anchor) {
		t.Errorf("after its release the anchor is still among %+v, %v", anchors, err)
	}
	sweep(t, p)
}

func disksComeAndGo(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small, larger)
	snapshotIs := func(run int, want map[int][]byte, order ...int) (ids []hypervisor.DiskID, since []hypervisor.ChangeID) {
		t.Helper()
		ref, sn := take(t, s, runID(run), g)
		if len(sn.Disks()) != len(order) {
			t.Fatalf("run %d: the snapshot has %d disks, want %d", run, len(sn.Disks()), len(order))
		}
		for i, d := range sn.Disks() {
			mustRead(t, d, want[order[i]])
			ids, since = append(ids, d.Info().ID), append(since, d.Info().ChangeID)
		}
		settle(t, s, ref)
		return ids, since
	}
	first, _ := snapshotIs(1, map[int][]byte{0: g.frozen()[0], 1: g.frozen()[1]}, 0, 1)
	g.addDisk(t, small)
	g.write(t, 2, 70_000, []byte("on the new disk"))
	second, _ := snapshotIs(2, map[int][]byte{0: g.frozen()[0], 1: g.frozen()[1], 2: g.frozen()[2]}, 0, 1, 2)
	if !slices.Equal(first, second[:2]) || slices.Contains(first, second[2]) {
		t.Errorf("with a disk added the disks %v became %v", first, second)
	}
	p.RemoveDisk(t, g.id, 1)
	third, _ := snapshotIs(3, map[int][]byte{0: g.frozen()[0], 2: g.frozen()[2]}, 0, 2)
	if third[0] != second[0] || third[1] != second[2] {
		t.Errorf("with the second disk removed the disks %v became %v", second, third)
	}
}

func identitiesStay(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small, larger)
	ref, sn := take(t, s, runID(1), g)
	var before []hypervisor.DiskID
	for _, d := range sn.Disks() {
		before = append(before, d.Info().ID)
	}
	settle(t, s, ref)
	g.grow(t, 0, larger)
	p.RenameServer(t, g.id, "uno")
	restarted, _ := p.Source(t)
	ref, sn = take(t, restarted, runID(2), g)
	for i, d := range sn.Disks() {
		if d.Info().ID != before[i] || d.Info().ID == "" {
			t.Errorf("disk %d was %q and is %q", i, before[i], d.Info().ID)
		}
	}
	settle(t, restarted, ref)
}
