package sourcetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

func snapshotOnce(t *testing.T, p Platform) {
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

func snapshotMany(t *testing.T, p Platform) {
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
		settle(t, s, ref)
	}
}

func snapshotWaits(t *testing.T, p Platform) {
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

func snapshotAllOrNothing(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	refs, err := s.Snapshot(newContext(t), runID(1), []hypervisor.ServerID{g.id, "00000000-1111-2222-3333-444444444444"}, hypervisor.QuiesceNever)
	if err == nil {
		t.Fatalf("an unknown server was snapshotted: %+v", refs)
	}
	if names := ours(t, p); len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
}

func heldFinds(t *testing.T, p Platform) {
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

func removeRepeats(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, _ := take(t, s, runID(1), g)
	for range 2 {
		if err := s.Remove(newContext(t), ref); err != nil {
			t.Errorf("remove: %v", err)
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

func removeSparesForeign(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	ref, _ := take(t, s, runID(1), g)
	p.TakeForeign(t, g.id, "before the upgrade")
	settle(t, s, ref)
	if names := p.SnapshotNames(t); len(names) != 1 || names[0] != "before the upgrade" {
		t.Errorf("there are the snapshots %q, want the foreign one", names)
	}
	if !p.Traits().ForeignReadable {
		return
	}
	want := g.frozen()
	ref, sn := take(t, s, runID(2), g)
	mustRead(t, sn.Disks()[0], want[0])
	settle(t, s, ref)
}

func snapshotGone(t *testing.T, p Platform) {
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

func identitiesStay(t *testing.T, p Platform) {
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
