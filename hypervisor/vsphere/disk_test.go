package vsphere_test

import (
	"bytes"
	"strings"
	"testing"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/simulator/vcenter"
)

// readFirst opens the snapshot and tells why its first disk cannot be read.
func readFirst(t *testing.T, s *vsphere.Source, ref hypervisor.SnapshotRef) error {
	t.Helper()
	sn, err := s.Open(t.Context(), ref)
	must(t, err)
	defer func() { must(t, sn.Close()) }()
	d := sn.Disks()[0]
	err = d.Read(t.Context(), []hypervisor.Extent{{Length: d.Info().Size}}, func(int64, []byte, int64) error { return nil })
	if changed := d.Changed(t.Context(), "", func(hypervisor.Extent) error { return nil }); err != nil && changed == nil {
		t.Error("a disk that cannot be read tells of changes, and its run would find out late")
	}
	return err
}

func TestADiskWithoutAnyWayIsRefusedWithTheReasons(t *testing.T) {
	p := newPlatform(t)
	p.refusing = true
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size}}, Quirks: vcenter.Quirks{FlatLocked: true, ExportFails: true}})
	s, _ := p.source(t, p.config())
	ref := snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	err := readFirst(t, s, ref)
	has(t, err, vsphere.DiskUnreadable)
	for _, reason := range []string{"not by datastore", "locked", "not by export"} {
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("got %v, want %q in it", err, reason)
		}
	}
}

func TestAllocatedExtentsFallBackToTheWholeDisk(t *testing.T) {
	for _, c := range []struct {
		name  string
		spec  vcenter.ServerSpec
		whole bool
	}{
		{"areas", vcenter.ServerSpec{ChangeTracking: true}, false},
		{"one area over everything", vcenter.ServerSpec{ChangeTracking: true, Quirks: vcenter.Quirks{Allocated: vcenter.AllocatedWhole}}, true},
		{"a fault", vcenter.ServerSpec{ChangeTracking: true, Quirks: vcenter.Quirks{Allocated: vcenter.AllocatedFails}}, true},
		{"tracking is off", vcenter.ServerSpec{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlatform(t)
			c.spec.Name, c.spec.Disks = "web", []vcenter.DiskSpec{{Size: size}}
			id := p.add(t, c.spec)
			p.Write(t, id, 0, 1<<20, []byte("some bytes"))
			s, _ := p.source(t, p.config())
			d := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0]
			var told []hypervisor.Extent
			must(t, d.Changed(t.Context(), "", func(e hypervisor.Extent) error { told = append(told, e); return nil }))
			whole := len(told) == 1 && told[0] == hypervisor.Extent{Length: size}
			if whole != c.whole || len(told) == 0 {
				t.Errorf("told are %v", told)
			}
		})
	}
}

func TestTrackingThatIsOnForTheServerButNotForTheDiskIsNotTrusted(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{{Size: size, CtkDisabled: true}, {Size: size}}})
	s, _ := p.source(t, p.config())
	sn := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever))
	lying, right := sn.Disks()[0], sn.Disks()[1]
	if lying.Info().ChangeID != "" || right.Info().ChangeID == "" {
		t.Errorf("change IDs are %q and %q", lying.Info().ChangeID, right.Info().ChangeID)
	}
	err := lying.Changed(t.Context(), right.Info().ChangeID, func(hypervisor.Extent) error { return nil })
	if lost, ok := hypervisor.TrackingUnusable(err); !ok || !strings.Contains(lost.Reason, "ctkEnabled") {
		t.Errorf("got %v", err)
	}
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, "vsphere-tracking-flawed"); f == nil {
		t.Errorf("the report is %+v", report)
	}
}

// TestReadsSurviveAnExpiredSession expires it between the requests of one Read.
func TestReadsSurviveAnExpiredSession(t *testing.T) {
	p := newPlatform(t)
	const size = 34 << 20 // three requests
	id := p.AddServer(t, "web", size)
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	p.Write(t, id, 0, 0, want)
	s, _ := p.source(t, p.config())
	d := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0]
	got := make([]byte, 0, size)
	must(t, d.Read(t.Context(), []hypervisor.Extent{{Length: size}}, func(off int64, b []byte, _ int64) error {
		if off == 0 || off == 16<<20 {
			p.Server.ExpireSessions()
		}
		got = append(got, b...)
		return nil
	}))
	if !bytes.Equal(got, want) {
		t.Error("other bytes were read")
	}
	if n := p.Calls()["Login"]; n < 2 {
		t.Errorf("logged in %d times", n)
	}
}

func TestDisksThatCannotBeToldApartAreNotRead(t *testing.T) {
	p := newPlatform(t)
	const twin = "6000C290-aaaa-bbbb-cccc-ddddeeeeffff"
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size, UUID: twin}, {Size: size, UUID: twin}, {Size: size}}})
	s, _ := p.source(t, p.config())
	disks := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()
	if len(disks) != 1 || disks[0].Info().ID == twin {
		t.Errorf("there are %d disks to read, want the one with a UUID of its own", len(disks))
	}
}
