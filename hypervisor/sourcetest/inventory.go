package sourcetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"skylift/hypervisor"
)

const (
	small  = 2<<20 + 300<<10 // no whole number of blocks
	larger = 5 << 20
)

func properties(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	first := s.Properties()
	if first.Platform == "" || first.SnapshotLimit <= 0 || first.DiskLimit <= 0 {
		t.Errorf("properties are %+v", first)
	}
	if again := s.Properties(); again != first {
		t.Errorf("properties were %+v and are %+v", first, again)
	}
}

// watching is a Watch under way.
type watching struct {
	changes chan hypervisor.Change
	stop    context.CancelFunc
	done    chan error
}

func watch(t testing.TB, s hypervisor.Source) *watching {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w := &watching{changes: make(chan hypervisor.Change, 1000), stop: cancel, done: make(chan error, 1)}
	go func() {
		w.done <- s.Watch(ctx, func(c hypervisor.Change) error {
			w.changes <- c
			return nil
		})
	}()
	t.Cleanup(cancel)
	return w
}

func (w *watching) next(t testing.TB) hypervisor.Change {
	t.Helper()
	select {
	case c := <-w.changes:
		return c
	case err := <-w.done:
		t.Fatalf("watch ended: %v", err)
	case <-time.After(patience):
		t.Fatal("no change was told")
	}
	panic("unreachable")
}

// until collects changes up to one that is looked for.
func (w *watching) until(t testing.TB, is func(hypervisor.Change) bool) []hypervisor.Change {
	t.Helper()
	var all []hypervisor.Change
	for {
		c := w.next(t)
		all = append(all, c)
		if is(c) {
			return all
		}
	}
}

func synced(c hypervisor.Change) bool { return c.Synced }

func watchTells(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	one := p.AddServer(t, "one", small, larger)
	two := p.AddServer(t, "two", small)
	w := watch(t, s)
	seen := map[hypervisor.ServerID]*hypervisor.Server{}
	for _, c := range w.until(t, synced) {
		switch {
		case c.Synced:
		case c.Server == nil:
			t.Errorf("before the listing ended: %+v", c)
		case seen[c.Server.ID] != nil:
			t.Errorf("server %s was listed twice", c.Server.ID)
		default:
			seen[c.Server.ID] = c.Server
		}
	}
	if len(seen) != 2 || seen[one] == nil || seen[two] == nil {
		t.Fatalf("listed are %v, want %s and %s", seen, one, two)
	}
	if got := seen[one]; got.Name != "one" || got.Path == "" || got.ManagerID == "" || !got.PoweredOn || got.CPUs == 0 || got.MemoryMiB == 0 ||
		len(got.Disks) != 2 || got.Disks[0].ID == "" || got.Disks[0].ID == got.Disks[1].ID || got.Disks[0].Size != small || got.Disks[1].Size != larger {
		t.Errorf("the first server is %+v", got)
	}

	three := p.AddServer(t, "three", small)
	w.until(t, func(c hypervisor.Change) bool {
		return c.Server != nil && c.Server.ID == three && len(c.Server.Disks) == 1
	})
	p.RenameServer(t, two, "zwei")
	for _, c := range w.until(t, func(c hypervisor.Change) bool { return c.Server != nil && c.Server.Name == "zwei" }) {
		if c.Server != nil && c.Server.Name == "zwei" && (c.Server.ID != two || len(c.Server.Disks) != 1 || c.Server.CPUs != seen[two].CPUs) {
			t.Errorf("the renamed server lost the rest: %+v", c.Server)
		}
	}
	p.RemoveServer(t, one)
	for _, c := range w.until(t, func(c hypervisor.Change) bool { return c.Gone != "" }) {
		if c.Gone != "" && c.Gone != one {
			t.Errorf("gone is %s, want %s", c.Gone, one)
		}
	}
	w.stop()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v, want the context's error", err)
	}
}

func watchStops(t *testing.T, p Platform) {
	s, stop := p.Source(t)
	p.AddServer(t, "one", small)
	enough := errors.New("enough")
	if err := s.Watch(newContext(t), func(hypervisor.Change) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("watch ended with %v, want the receiver's error", err)
	}
	stop()
	eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
}

func watchSurvivesExpiry(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	one := p.AddServer(t, "one", small)
	gone := p.AddServer(t, "two", small)
	w := watch(t, s)
	w.until(t, synced)
	p.ExpireSessions(t)
	p.RemoveServer(t, gone)
	three := p.AddServer(t, "three", small)
	left, came := false, false
	w.until(t, func(c hypervisor.Change) bool {
		if c.Synced || c.Server != nil && c.Server.ID == one {
			t.Errorf("told again: %+v", c)
		}
		left = left || c.Gone == gone
		came = came || c.Server != nil && c.Server.ID == three
		return left && came
	})
}

func checkUnknown(t *testing.T, p Platform) {
	s, _ := p.Source(t)
	id := p.AddServer(t, "one", small)
	if _, err := s.Check(newContext(t), id); err != nil {
		t.Errorf("check of a healthy server: %v", err)
	}
	if report, err := s.Check(newContext(t), "00000000-1111-2222-3333-444444444444"); err == nil {
		t.Errorf("check of an unknown server reports %+v", report)
	}
}
