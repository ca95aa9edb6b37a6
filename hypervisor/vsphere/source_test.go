package vsphere_test

import (
	"testing"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/problem"
)

const size = 3 << 20

func snapshot(t testing.TB, s *vsphere.Source, run hypervisor.RunID, id hypervisor.ServerID, q hypervisor.Quiesce) hypervisor.SnapshotRef {
	t.Helper()
	refs, err := s.Snapshot(t.Context(), run, []hypervisor.ServerID{id}, q)
	must(t, err)
	return refs[0]
}

func open(t testing.TB, s *vsphere.Source, ref hypervisor.SnapshotRef) hypervisor.Snapshot {
	t.Helper()
	sn, err := s.Open(t.Context(), ref)
	must(t, err)
	return sn
}

func has(t testing.TB, err error, kind *problem.Kind) {
	t.Helper()
	if !problem.Has(err, kind) {
		t.Errorf("got %v, want %s", err, kind.Code)
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	p := newPlatform(t)
	for name, spoil := range map[string]func(*vsphere.Config){
		"no address":              func(c *vsphere.Config) { c.URL = "" },
		"an address without host": func(c *vsphere.Config) { c.URL = "https://" },
		"no installation":         func(c *vsphere.Config) { c.Installation = "" },
		"an installation that begins another's names": func(c *vsphere.Config) { c.Installation = "a-b" },
		"no log": func(c *vsphere.Config) { c.Log = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := p.config()
			spoil(&c)
			if _, err := vsphere.New(c); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func finding(r hypervisor.Report, code string) *hypervisor.Finding {
	for i := range r.Findings {
		if r.Findings[i].Code == code {
			return &r.Findings[i]
		}
	}
	return nil
}
