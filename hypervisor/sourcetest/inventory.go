package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"skylift/hypervisor"
)

const (
	small  = 2<<20 + 300<<10 // no whole number of blocks
	larger = 5 << 20
)

func properties(t testing.TB, p Platform) {
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

func watchTells(t testing.TB, p Platform) {
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

func watchStops(t testing.TB, p Platform) {
	s, stop := p.Source(t)
	p.AddServer(t, "one", small)
	enough := errors.New("enough")
	if err := s.Watch(newContext(t), func(hypervisor.Change) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("watch ended with %v, want the receiver's error", err)
	}
	stop()
	eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
}

func watchSurvivesExpiry(t testing.TB, p Platform) {
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

// unknown is no server of any platform's.
const unknown hypervisor.ServerID = "00000000-1111-2222-3333-444444444444"

func watchMany(t testing.TB, p Platform) {
	want := map[hypervisor.ServerID]bool{}
	for i := range 250 { // more than any page holds
		want[p.AddServer(t, fmt.Sprintf("server %d", i), 1<<20)] = true
	}
	s, _ := p.Source(t)
	for _, c := range watch(t, s).until(t, synced) {
		if c.Server != nil && !want[c.Server.ID] {
			t.Errorf("%s was not expected, or told twice", c.Server.ID)
		}
		if c.Server != nil {
			delete(want, c.Server.ID)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d servers are missing", len(want))
	}
}

func checks(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	id := p.AddServer(t, "one", small)
	if report, err := s.Check(newContext(t), id); err != nil || !report.Ready() || len(report.Facts) == 0 {
		t.Errorf("check of a healthy server: %+v, %v", report, err)
	}
	if report, err := s.Check(newContext(t), unknown); err == nil {
		t.Errorf("check of an unknown server reports %+v", report)
	}
	report, err := s.CheckSource(newContext(t))
	if err != nil || !report.Ready() || len(report.Facts) == 0 {
		t.Errorf("check of a healthy source: %+v, %v", report, err)
	}
	for _, f := range report.Facts {
		if f.Name == "" || f.Value == "" {
			t.Errorf("a fact without name or value: %+v", f)
		}
	}
}

// leftOut also wants the report to block the run: whether the disk may be left
// behind is the user's choice.
func leftOut(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	subject := p.AddLeftOut(t, g.id, small)
	report, err := s.Check(newContext(t), g.id)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(report.Findings, func(f hypervisor.Finding) bool {
		return f.Subject == subject && f.Blocks && f.Code != "" && f.What != "" && f.Hint != ""
	}) {
		t.Errorf("%q is not reported as a hindrance: %+v", subject, report.Findings)
	}
	for _, c := range watch(t, s).until(t, synced) {
		if c.Server == nil {
			continue
		}
		skipped := slices.DeleteFunc(slices.Clone(c.Server.Disks), func(d hypervisor.ServerDisk) bool { return d.Skip == "" })
		if len(c.Server.Disks) != 2 || len(skipped) != 1 {
			t.Errorf("the inventory shows the disks %+v", c.Server.Disks)
		}
	}
	want := g.frozen()
	ref, sn := take(t, s, runID(1), g)
	if len(sn.Disks()) != 1 {
		t.Fatalf("the snapshot has %d disks", len(sn.Disks()))
	}
	mustRead(t, sn.Disks()[0], want[0])
	settle(t, s, ref)
}

func sharesAreSane(t testing.TB, p Platform) {
	s, _ := p.Source(t)
	g := addGuest(t, p, "one", small)
	sane := func(what string, list []hypervisor.Share) {
		t.Helper()
		seen := map[hypervisor.Share]bool{}
		for _, h := range list {
			if h.Kind == "" || h.Name == "" || h.Of == "" || h.Limit <= 0 || seen[h] {
				t.Errorf("%s: %+v", what, list)
			}
			seen[h] = true
		}
	}
	first, err := s.Shares(newContext(t), g.id)
	if err != nil {
		t.Fatal(err)
	}
	sane("a snapshot's shares", first)
	if again, err := s.Shares(newContext(t), g.id); err != nil || !slices.Equal(again, first) {
		t.Errorf("shares were %+v and are %+v, %v", first, again, err)
	}
	if list, err := s.Shares(newContext(t), unknown); err == nil {
		t.Errorf("an unknown server has the shares %+v", list)
	}
	ref, sn := take(t, s, runID(1), g)
	sane("a disk's shares", sn.Disks()[0].Info().Shares)
	settle(t, s, ref)
}
