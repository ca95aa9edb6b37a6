package vsphere_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/problem"
	"skylift/internal/secret"
	"skylift/internal/simulator/vcenter"
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

func TestARefusedPasswordIsNotTriedAgainAtOnce(t *testing.T) {
	p := newPlatform(t)
	c := p.config()
	now := time.Now()
	c.Password = secret.New("wrong: ß\"&<")
	c.Now = func() time.Time { return now }
	s, _ := p.source(t, c)
	for range 3 {
		_, _, err := s.Held(t.Context())
		has(t, err, vsphere.LoginRefused)
		if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password is in %q", err)
		}
	}
	if n := p.Calls()["Login"]; n != 1 {
		t.Errorf("vSphere was asked %d times", n)
	}
	now = now.Add(2 * time.Minute)
	_, _, err := s.Held(t.Context())
	has(t, err, vsphere.LoginRefused)
	if n := p.Calls()["Login"]; n != 2 {
		t.Errorf("two minutes later vSphere was asked %d times in all", n)
	}
}

func TestAnUntrustedCertificateIsNotAskedTwice(t *testing.T) {
	p := newPlatform(t)
	c := p.config()
	c.TLS = &tls.Config{}
	s, _ := p.source(t, c)
	start := time.Now()
	_, _, err := s.Held(t.Context())
	has(t, err, vsphere.Unreachable)
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) || time.Since(start) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestASessionIsLeftBehindByNobody(t *testing.T) {
	p := newPlatform(t)
	s, stop := p.source(t, p.config())
	_, _, err := s.Held(t.Context())
	must(t, err)
	stop()
	if n := p.Calls()["Logout"]; n != 1 {
		t.Errorf("logged out %d times", n)
	}
	if _, _, err := s.Held(t.Context()); err == nil {
		t.Error("a closed source still answers")
	}
}

func TestManyCallersShareALogin(t *testing.T) {
	p := newPlatform(t)
	s, _ := p.source(t, p.config())
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, _, err := s.Held(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := p.Calls()["Login"]; n != 1 {
		t.Errorf("logged in %d times", n)
	}
}

func TestQuiescingFallsBackOnlyWhenItMay(t *testing.T) {
	fails := vcenter.Quirks{QuiesceFails: true}
	for _, c := range []struct {
		name   string
		spec   vcenter.ServerSpec
		ask    hypervisor.Quiesce
		want   hypervisor.Consistency
		noted  string
		refuse *problem.Kind
	}{
		{"never asked", vcenter.ServerSpec{}, hypervisor.QuiesceNever, hypervisor.CrashConsistent, "", nil},
		{"preferred and reached", vcenter.ServerSpec{}, hypervisor.QuiescePrefer, hypervisor.Quiesced, "", nil},
		{"required and reached", vcenter.ServerSpec{}, hypervisor.QuiesceRequire, hypervisor.Quiesced, "", nil},
		{"preferred and failed", vcenter.ServerSpec{Quirks: fails}, hypervisor.QuiescePrefer, hypervisor.CrashConsistent, "did not come to rest", nil},
		{"required and failed", vcenter.ServerSpec{Quirks: fails}, hypervisor.QuiesceRequire, "", "", vsphere.QuiesceFailed},
		{"a server that is off", vcenter.ServerSpec{Power: types.VirtualMachinePowerStatePoweredOff}, hypervisor.QuiesceRequire, hypervisor.PoweredOff, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlatform(t)
			s, _ := p.source(t, p.config())
			c.spec.Name, c.spec.Disks = "web", []vcenter.DiskSpec{{Size: size}}
			refs, err := s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{p.add(t, c.spec)}, c.ask)
			if c.refuse != nil {
				has(t, err, c.refuse)
				if left := p.OpenSnapshots(); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
				return
			}
			must(t, err)
			if refs[0].Consistency != c.want || !strings.Contains(refs[0].Note, c.noted) || (c.noted == "") != (refs[0].Note == "") {
				t.Errorf("reached %q, noted %q", refs[0].Consistency, refs[0].Note)
			}
		})
	}
}

// TestAQuiesceThatHangsIsGivenUp has the guest take its time: the task does not end
// until it is let go.
func TestAQuiesceThatHangsIsGivenUp(t *testing.T) {
	var mu sync.Mutex
	var first chan struct{}
	p := newPlatform(t, func(c *vcenter.Config) {
		inner := c.Fault
		c.Fault = func(call vcenter.Call) error {
			if call.Task && call.Method == "CreateSnapshot_Task" && call.N == 1 {
				mu.Lock()
				hold := first
				mu.Unlock()
				<-hold
				return vcenter.SOAPFault{Fault: &types.ApplicationQuiesceFault{}, Message: "the guest did not answer"}
			}
			if call.Method == "CancelTask" {
				mu.Lock()
				defer mu.Unlock()
				close(first)
			}
			return inner(call)
		}
	})
	first = make(chan struct{})
	id := p.AddServer(t, "web", size)
	c := p.config()
	c.Limits.Quiesce = 200 * time.Millisecond
	s, _ := p.source(t, c)
	ref := snapshot(t, s, "r1", id, hypervisor.QuiescePrefer)
	if ref.Consistency != hypervisor.CrashConsistent || !strings.Contains(ref.Note, "did not come to rest") {
		t.Errorf("reached %q, noted %q", ref.Consistency, ref.Note)
	}
}

func TestConsolidationIsWaitedForAndDone(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{{Size: size}}, Quirks: vcenter.Quirks{ConsolidationNeeded: true}})
	s, _ := p.source(t, p.config())
	ref := snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	must(t, s.Remove(t.Context(), ref))
	if n := p.Calls()["ConsolidateVMDisks_Task"]; n != 1 {
		t.Errorf("consolidated %d times", n)
	}
	// Somebody else's removal leaves the need to us, before the next snapshot.
	ref = snapshot(t, s, "r2", id, hypervisor.QuiesceNever)
	p.DeleteSnapshot(t, ref)
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, "vsphere-consolidation-needed"); f == nil || f.Blocks {
		t.Errorf("the report is %+v", report)
	}
	ref = snapshot(t, s, "r3", id, hypervisor.QuiesceNever)
	if n := p.Calls()["ConsolidateVMDisks_Task"]; n != 2 {
		t.Errorf("consolidated %d times before the next snapshot", n)
	}
	open(t, s, ref)
}

func TestAConsolidationThatFailsIsReported(t *testing.T) {
	locked := func(call vcenter.Call) error {
		if call.Method == "ConsolidateVMDisks_Task" && call.Task {
			return vcenter.SOAPFault{Fault: &types.FileLocked{}, Message: "locked"}
		}
		return nil
	}
	p := newPlatform(t, func(c *vcenter.Config) { c.Fault = locked })
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size}}, Quirks: vcenter.Quirks{ConsolidationNeeded: true}})
	c := p.config()
	c.Limits.Task = 3 * time.Second
	s, _ := p.source(t, c)
	ref := snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	has(t, s.Remove(t.Context(), ref), vsphere.ConsolidationNeeded)
}

func TestAnEarlierSnapshotOfOursIsNotWaitedForEndlessly(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	c := p.config()
	c.Limits.Older = 100 * time.Millisecond
	s, _ := p.source(t, c)
	snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	_, err := s.Snapshot(t.Context(), "r2", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	has(t, err, vsphere.OlderSnapshot)
}

func TestAnotherInstallationsSnapshotsAreForeign(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	c := p.config()
	c.Installation = "test" // begins like test1
	other, _ := p.source(t, c)
	ref := snapshot(t, other, "r1", id, hypervisor.QuiesceNever)
	s, _ := p.source(t, p.config())
	if held, _, err := s.Held(t.Context()); err != nil || len(held) != 0 {
		t.Errorf("held are %+v, %v", held, err)
	}
	if err := s.Remove(t.Context(), ref); err != nil || len(p.OpenSnapshots()) != 1 {
		t.Errorf("after removal: %v, snapshots %q", err, p.OpenSnapshots())
	}
	_, err := s.Open(t.Context(), ref)
	has(t, err, hypervisor.SnapshotGone)
}

func TestAChainUnderAForeignSnapshotIsRefusedWithAReason(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	p.TakeForeign(t, id, "before the upgrade")
	s, _ := p.source(t, p.config())
	ref := snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	_, err := s.Open(t.Context(), ref)
	has(t, err, vsphere.DiskUnreadable)
	must(t, s.Remove(t.Context(), ref))
	if left := p.SnapshotNames(t); len(left) != 1 {
		t.Errorf("snapshots are %q, want the foreign one", left)
	}
}

func TestALockedFileIsRefusedWithAReason(t *testing.T) {
	p := newPlatform(t)
	p.refusing = true
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size}}, Quirks: vcenter.Quirks{FlatLocked: true}})
	s, _ := p.source(t, p.config())
	ref := snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	_, err := s.Open(t.Context(), ref)
	if !problem.Has(err, vsphere.ReadRefused) && !problem.Has(err, vsphere.PermissionDenied) {
		t.Errorf("got %v", err)
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

func TestTrackingIsEnabledOnce(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size}}})
	s, _ := p.source(t, p.config())
	must(t, s.EnableTracking(t.Context(), id))
	must(t, s.EnableTracking(t.Context(), id))
	calls := p.Calls()
	if calls["ReconfigVM_Task"] != 1 || calls["CreateSnapshot_Task"] != 1 || calls["RemoveSnapshot_Task"] != 1 || len(p.OpenSnapshots()) != 0 {
		t.Errorf("calls were %v, snapshots are %q", calls, p.OpenSnapshots())
	}
	d := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0]
	if d.Info().ChangeID == "" {
		t.Error("the next snapshot has no change ID")
	}
}

func TestTrackingIsRefusedWhereItWouldLie(t *testing.T) {
	p := newPlatform(t)
	old := p.add(t, vcenter.ServerSpec{Name: "old", HardwareVersion: 4, Disks: []vcenter.DiskSpec{{Size: size}}})
	snapped := p.add(t, vcenter.ServerSpec{Name: "snapped", Disks: []vcenter.DiskSpec{{Size: size}}})
	p.TakeForeign(t, snapped, "before the upgrade")
	s, _ := p.source(t, p.config())
	has(t, s.EnableTracking(t.Context(), old), vsphere.TrackingRefused)
	has(t, s.EnableTracking(t.Context(), snapped), vsphere.TrackingRefused)
	has(t, s.EnableTracking(t.Context(), "no-such"), vsphere.ServerUnknown)
}

func TestDisksThatSnapshotsLeaveOutAreReportedAndNotRead(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Disks: []vcenter.DiskSpec{
		{Size: size},
		{Size: size, Mode: "independent_persistent"},
		{Size: size, RDM: "physicalMode"},
	}})
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	blocking := 0
	for _, f := range report.Findings {
		if f.Code == "vsphere-disk-not-snapshotted" && f.Blocks && f.Hint != "" && f.Subject != "" {
			blocking++
		}
	}
	if blocking != 2 || report.Ready() {
		t.Errorf("the report is %+v", report)
	}
	if disks := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks(); len(disks) != 1 {
		t.Errorf("there are %d disks to read, want one", len(disks))
	}
}

func TestAMultiWriterDiskBlocks(t *testing.T) {
	p := newPlatform(t)
	id := p.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: size, MultiWriter: true}}})
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, "vsphere-disk-shared"); f == nil || !f.Blocks {
		t.Errorf("the report is %+v", report)
	}
	_, err = s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	has(t, err, vsphere.SnapshotFailed)
}

func finding(r hypervisor.Report, code string) *hypervisor.Finding {
	for i := range r.Findings {
		if r.Findings[i].Code == code {
			return &r.Findings[i]
		}
	}
	return nil
}

func TestMissingPrivilegesAreNamedWithObjectAndOperation(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Denied = []string{"VirtualMachine.State.RemoveSnapshot", "Datastore.FileManagement"}
	})
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	var texts []string
	for _, f := range report.Findings {
		if f.Code == vsphere.PermissionDenied.Code && f.Blocks {
			texts = append(texts, f.What)
		}
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"VirtualMachine.State.RemoveSnapshot on web", "removing our snapshot", "Datastore.FileManagement on datastore datastore1", "reading disk files"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %q", want, all)
		}
	}
	if len(texts) != 2 {
		t.Errorf("findings are %q", texts)
	}
}

func TestCheckOfAPlainServerFindsNothingThatBlocks(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if len(report.Findings) != 0 {
		t.Errorf("the report is %+v", report)
	}
	p.TakeForeign(t, id, "before the upgrade")
	report, err = s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, "vsphere-foreign-snapshots"); f == nil || f.Blocks || !strings.Contains(f.What, "before the upgrade") {
		t.Errorf("the report is %+v", report)
	}
	off := p.add(t, vcenter.ServerSpec{Name: "untracked", Disks: []vcenter.DiskSpec{{Size: size}}})
	report, err = s.Check(t.Context(), off)
	must(t, err)
	if f := finding(report, "vsphere-tracking-off"); f == nil || f.Blocks {
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

func TestAFullDatastoreGetsNoSnapshot(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	must(t, p.SetDatastoreFree("datastore1", 1<<40)) // of 100 TiB
	s, _ := p.source(t, p.config())
	_, err := s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	has(t, err, vsphere.DatastoreFull)
	report, err := s.Check(t.Context(), id)
	must(t, err)
	if f := finding(report, vsphere.DatastoreFull.Code); f == nil || !f.Blocks {
		t.Errorf("the report is %+v", report)
	}
}

func TestABusyServerIsAskedAgainAndGetsOneSnapshot(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			busy := vcenter.SOAPFault{Fault: &types.TaskInProgress{}, Message: "another task is already in progress"}
			switch {
			case call.Method == "CreateSnapshot_Task" && !call.Task && call.N <= 2, call.Method == "RemoveSnapshot_Task" && call.Task && call.N <= 2:
				return busy
			}
			return nil
		}
	})
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	ref := snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	if left := p.SnapshotNames(t); len(left) != 1 {
		t.Errorf("snapshots are %q", left)
	}
	must(t, s.Remove(t.Context(), ref))
	if left := p.SnapshotNames(t); len(left) != 0 {
		t.Errorf("snapshots are %q", left)
	}
}

// TestACreationThatFailsLateIsUndone has the second server's snapshot fail
// when the first one's is already there.
func TestACreationThatFailsLateIsUndone(t *testing.T) {
	made := make(chan struct{})
	p := newPlatform(t, func(c *vcenter.Config) {
		c.OnSnapshot = func(e vcenter.SnapshotEvent) {
			if err := e.Release(); err != nil {
				t.Error(err)
			}
			close(made)
		}
		c.Fault = func(call vcenter.Call) error {
			if call.Task && call.Method == "CreateSnapshot_Task" && call.N == 2 {
				<-made
				return vcenter.SOAPFault{Fault: &types.SnapshotFault{}, Message: "no"}
			}
			return nil
		}
	})
	one, two := p.AddServer(t, "one", size), p.AddServer(t, "two", size)
	s, _ := p.source(t, p.config())
	_, err := s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{one, two}, hypervisor.QuiesceNever)
	has(t, err, vsphere.SnapshotFailed)
	if left := p.OpenSnapshots(); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestACanceledCreationIsUndone cancels while vSphere is making the snapshot.
func TestACanceledCreationIsUndone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newPlatform(t, func(c *vcenter.Config) {
		c.OnSnapshot = func(e vcenter.SnapshotEvent) {
			if err := e.Release(); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	_, err := s.Snapshot(ctx, "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := p.OpenSnapshots(); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestAnIdleSessionIsKeptAlive(t *testing.T) {
	beats := make(chan int, 100)
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			if call.Method == "CurrentTime" {
				select {
				case beats <- call.N:
				default: // the test is over
				}
			}
			return nil
		}
	})
	c := p.config()
	c.Limits.KeepAlive = 10 * time.Millisecond
	s, _ := p.source(t, c)
	_, _, err := s.Held(t.Context())
	must(t, err)
	<-beats
	p.Server.ExpireSessions()
	for logins := p.Calls()["Login"]; logins < 2; logins = p.Calls()["Login"] {
		<-beats // a beat that meets an expired session logs in
	}
}

func TestWatchGoesOnAfterAnOutage(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			switch {
			case call.Method == "WaitForUpdatesEx" && (call.N == 2 || call.N == 3):
				return vcenter.Drop
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

func TestHeldLooksAtAllPagesWhateverHappensToItsSession(t *testing.T) {
	var mu sync.Mutex
	calls, expireAt := 0, 0
	var p *platform
	p = newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == expireAt {
				p.Server.ExpireSessions()
			}
			return nil
		}
	})
	must(t, p.AddServers(450, vcenter.ServerSpec{Name: "vm", Disks: []vcenter.DiskSpec{{Size: size}}}))
	id := p.AddServer(t, "last", size)
	s, _ := p.source(t, p.config())
	snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	for at := 1; ; at++ {
		mu.Lock()
		calls, expireAt = 0, at
		mu.Unlock()
		held, _, err := s.Held(t.Context())
		if err != nil || len(held) != 1 || held[0].Server != id {
			t.Errorf("expired at call %d: held are %+v, %v", at, held, err)
		}
		mu.Lock()
		done := calls < at
		mu.Unlock()
		if done {
			break
		}
	}
	if p.Calls()["ContinueRetrievePropertiesEx"] == 0 {
		t.Error("one page held everything: the test does not test paging")
	}
}
