package vsphere_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

// largePlatform has as many servers as large installations do.
func largePlatform(t testing.TB, disks ...vcenter.DiskSpec) *platform {
	p := newPlatform(t)
	must(t, p.AddServers(many, vcenter.ServerSpec{Name: "vm", Disks: disks}))
	return p
}

// followLarge lists all servers, renames one in the middle, removes it when
// that was told, and returns when it is gone. told is called for each change.
func followLarge(t testing.TB, p *platform, s *vsphere.Source, old, name string, told func(hypervisor.Change)) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	vm := p.VM(old)
	err := s.Watch(ctx, func(c hypervisor.Change) error {
		told(c)
		switch {
		case c.Synced:
			return vm.Rename(name)
		case c.Server == nil:
			cancel()
		case c.Server.Name == name:
			return p.Server.RemoveServer(name)
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A listing takes one call for a page of what vCenter gives, and a change one
// call more: neither reads a server by itself, nor anything twice.
func TestLargeInventoriesAreListedAndFollowedInFewCalls(t *testing.T) {
	p := largePlatform(t, vcenter.DiskSpec{Size: size})
	s, _ := p.source(t, p.config())
	seen := map[hypervisor.ServerID]bool{}
	var changes []string
	var listing int
	followLarge(t, p, s, fmt.Sprintf("vm-%05d", many/2), "renamed", func(c hypervisor.Change) {
		switch {
		case c.Synced:
			listing = p.Calls()["WaitForUpdatesEx"]
		case listing == 0:
			seen[c.Server.ID] = true
		case c.Server != nil:
			changes = append(changes, "told "+c.Server.Name)
		default:
			changes = append(changes, "gone")
		}
	})
	if len(seen) != many || !slices.Equal(changes, []string{"told renamed", "gone"}) {
		t.Errorf("%d servers were listed, and then %q", len(seen), changes)
	}
	calls := p.Calls()
	// A hundred objects on a page, and a few that are no servers.
	if most := many/100 + 2; listing > most || calls["WaitForUpdatesEx"] != listing+len(changes) {
		t.Errorf("the listing took %d pages of at most %d, and with %d changes %d calls", listing, most, len(changes), calls["WaitForUpdatesEx"])
	}
	delete(calls, "WaitForUpdatesEx")
	var others int
	for n := range maps.Values(calls) {
		others += n
	}
	if others > 10 {
		t.Errorf("calls besides were %v", calls)
	}
}

// BenchmarkWatch is how long the first listing of so many servers takes,
// and how long it then takes until a change is told, the simulator's part in
// both included.
func BenchmarkWatch(b *testing.B) {
	p := largePlatform(b, vcenter.DiskSpec{Size: size})
	var listing, change time.Duration
	changes, server := 0, many/2
	for b.Loop() {
		s, closed := p.source(b, p.config())
		began, synced := time.Now(), false
		followLarge(b, p, s, fmt.Sprintf("vm-%05d", server), "renamed", func(c hypervisor.Change) {
			switch {
			case c.Synced:
				listing += time.Since(began)
				synced, began = true, time.Now()
			case synced:
				change += time.Since(began)
				changes++
				began = time.Now()
			}
		})
		closed()
		server++ // that one is gone
	}
	b.ReportMetric(listing.Seconds()/float64(b.N), "s/listing")
	b.ReportMetric(change.Seconds()/float64(changes), "s/change")
}
