package vsphere_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"skylift/hypervisor"
	"skylift/internal/simulator/vcenter"
)

func TestLargeInventoriesAreListedInPages(t *testing.T) {
	p := newPlatform(t)
	must(t, p.AddServers(450, vcenter.ServerSpec{Name: "vm", Disks: []vcenter.DiskSpec{{Size: size}}}))
	s, _ := p.source(t, p.config())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[hypervisor.ServerID]bool{}
	err := s.Watch(ctx, func(c hypervisor.Change) error {
		if c.Synced {
			cancel()
			return nil
		}
		if seen[c.Server.ID] || len(c.Server.Disks) != 1 || !strings.HasPrefix(c.Server.Path, "/DC0/vm/") || c.Server.Host == "" {
			t.Errorf("listed %+v", c.Server)
		}
		seen[c.Server.ID] = true
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(seen) != 450 {
		t.Errorf("%d servers, %v", len(seen), err)
	}
	if n := p.Calls()["WaitForUpdatesEx"]; n < 3 {
		t.Errorf("the listing came in %d pages: the test does not test paging", n)
	}
	if p.Calls()["DestroyPropertyCollector"] != 1 || p.Calls()["DestroyView"] != 1 {
		t.Errorf("calls were %v: the collector or the view stays", p.Calls())
	}
}

func TestWatchGoesOnAfterAnOutage(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			switch {
			case call.Method == "WaitForUpdatesEx" && (call.N == 2 || call.N == 3):
				return vcenter.ErrDropped
			case call.Method == "WaitForUpdatesEx" && call.N == 4:
				return vcenter.HTTPStatus(503)
			}
			return nil
		}
	})
	p.AddServer(t, "one", size)
	s, _ := p.source(t, p.config())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	err := s.Watch(ctx, func(c hypervisor.Change) error {
		switch {
		case c.Synced:
			told = append(told, "synced")
			p.AddServer(t, "two", size)
		case c.Server != nil:
			told = append(told, c.Server.Name)
			if c.Server.Name == "two" {
				cancel()
			}
		default:
			told = append(told, "gone")
		}
		return nil
	})
	if got := strings.Join(told, " "); !errors.Is(err, context.Canceled) || got != "one synced two" {
		t.Errorf("told %q, %v", got, err)
	}
	if n := p.Calls()["WaitForUpdatesEx"]; n < 5 {
		t.Errorf("only %d calls: there was no outage", n)
	}
}
