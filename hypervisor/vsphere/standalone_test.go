package vsphere_test

import (
	"bytes"
	"errors"
	"testing"

	"skylift/hypervisor"
	"skylift/hypervisor/sourcetest"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

// errEnough ends a Watch.
var errEnough = errors.New("enough")

func lone(c *vcenter.Config) { c.Standalone = true }

func TestAStandaloneHostIsKnownByItsHardware(t *testing.T) {
	p := newPlatform(t, lone)
	var ids []string
	for range 2 {
		s, stop := p.source(t, p.config())
		id, err := s.Identity(t.Context())
		must(t, err)
		ids = append(ids, id)
		stop()
	}
	other := newPlatform(t, lone)
	s, _ := other.source(t, other.config())
	id, err := s.Identity(t.Context())
	must(t, err)
	if len(ids[0]) != 36 || ids[0] != ids[1] || id == ids[0] {
		t.Errorf("the host is %q and then %q, another one is %q", ids[0], ids[1], id)
	}
	vc := newPlatform(t)
	s, _ = vc.source(t, vc.config())
	if id, err = s.Identity(t.Context()); err != nil || len(id) != 36 {
		t.Errorf("a vCenter is %q, %v", id, err)
	}
}

// TestAServerOfAStandaloneHostIsReplicated goes once through all that a run
// does: inventory, tracking, snapshots, changed areas, bytes, removal.
func TestAServerOfAStandaloneHostIsReplicated(t *testing.T) {
	p := newPlatform(t, lone)
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size}}})
	p.Write(t, id, 0, 512, []byte("before"))
	s, _ := p.source(t, p.config())
	var seen *hypervisor.Server
	enough := func(c hypervisor.Change) error {
		if c.Server != nil {
			seen = c.Server
		}
		if c.Synced {
			return errEnough
		}
		return nil
	}
	if err := s.Watch(t.Context(), enough); err != errEnough {
		t.Fatal(err)
	}
	if seen == nil || seen.ID != id || seen.Path != "/ha-datacenter/vm/web" || seen.Host != "esx-1.example.com" {
		t.Errorf("the server is %+v", seen)
	}
	must(t, s.EnableTracking(t.Context(), id))
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if len(report.Findings) > 0 {
		t.Errorf("found %+v", report.Findings)
	}
	first := snapshot(t, s, "r1", id, hypervisor.QuiescePrefer)
	base := open(t, s, first).Disks()[0].Info()
	if base.ChangeID == "" || base.Transport != "datastore" {
		t.Errorf("the disk is %+v", base)
	}
	must(t, s.Remove(t.Context(), first))
	p.Write(t, id, 0, 512, []byte("after "))
	disk := open(t, s, snapshot(t, s, "r2", id, hypervisor.QuiesceNever)).Disks()[0]
	var areas []hypervisor.Extent
	must(t, disk.Changed(t.Context(), base.ChangeID, func(e hypervisor.Extent) error { areas = append(areas, e); return nil }))
	if len(areas) != 1 || areas[0].Offset != 0 || areas[0].Length >= size {
		t.Errorf("changed are %v", areas)
	}
	var got []byte
	must(t, disk.Read(t.Context(), []hypervisor.Extent{{Offset: 0, Length: hypervisor.BlockSize}}, func(_ int64, b []byte, _ int64) error {
		got = append(got, b...)
		return nil
	}))
	if !bytes.HasPrefix(got[512:], []byte("after ")) {
		t.Errorf("read %q", got[512:520])
	}
	held, _, err := s.Held(t.Context())
	must(t, err)
	if len(held) != 1 {
		t.Errorf("held are %+v", held)
	}
	must(t, s.Remove(t.Context(), held[0]))
	if left := p.OpenSnapshots(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	r, err := s.CheckSource(t.Context())
	must(t, err)
	if fact(r, "", "kind") != "standalone ESXi host" || fact(r, "", "direct reads") == "" || fact(r, "", "license") == "" || !r.Ready() {
		t.Errorf("the source is %+v", r)
	}
}

func TestTheFreeLicenseIsNamedWhereItForbidsASnapshot(t *testing.T) {
	p := newPlatform(t, lone, func(c *vcenter.Config) { c.FreeLicense = true })
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	for _, q := range []hypervisor.Quiesce{hypervisor.QuiesceNever, hypervisor.QuiescePrefer, hypervisor.QuiesceRequire} {
		_, err := s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{id}, q)
		has(t, err, vsphere.LicenseRestricted)
	}
	if n := p.Calls()["CreateSnapshot_Task"]; n != 3 {
		t.Errorf("vSphere was asked %d times", n)
	}
}

// standalone differs little from a vCenter: a sample of the calls is enough.
type standalone struct{ *platform }

func (p standalone) Traits() sourcetest.Traits {
	t := p.platform.Traits()
	t.Every = 10
	return t
}

func TestContractOnAStandaloneHost(t *testing.T) {
	sourcetest.Run(t, func(t testing.TB) sourcetest.Platform { return standalone{newPlatform(t, lone)} })
}
