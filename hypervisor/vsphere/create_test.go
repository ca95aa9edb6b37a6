package vsphere_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/problem"
	"skylift/internal/simulator/vcenter"
)

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
// until it is canceled, and then as the case says.
func TestAQuiesceThatHangsIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		ask    hypervisor.Quiesce
		ends   types.BaseMethodFault // of the task, when it is canceled; nil: the guest came to rest after all
		stuck  bool                  // it does not even end then
		want   hypervisor.Consistency
		refuse *problem.Kind
		taken  int // how often a snapshot was asked for
	}{
		"preferred":                       {ask: hypervisor.QuiescePrefer, ends: &types.ApplicationQuiesceFault{}, want: hypervisor.CrashConsistent, taken: 2},
		"required":                        {ask: hypervisor.QuiesceRequire, ends: &types.ApplicationQuiesceFault{}, refuse: vsphere.QuiesceFailed, taken: 1},
		"preferred, and reached at last":  {ask: hypervisor.QuiescePrefer, want: hypervisor.Quiesced, taken: 1},
		"required, and reached at last":   {ask: hypervisor.QuiesceRequire, want: hypervisor.Quiesced, taken: 1},
		"preferred, and the task goes on": {ask: hypervisor.QuiescePrefer, stuck: true, refuse: vsphere.TaskLate, taken: 1},
		"required, and the task goes on":  {ask: hypervisor.QuiesceRequire, stuck: true, refuse: vsphere.TaskLate, taken: 1},
	} {
		t.Run(name, func(t *testing.T) {
			canceled, over := make(chan struct{}), make(chan struct{})
			var once sync.Once
			p := newPlatform(t, func(v *vcenter.Config) {
				v.Fault = func(call vcenter.Call) error {
					switch {
					case call.Task && call.Method == "CreateSnapshot_Task" && call.N == 1:
						wait := canceled
						if c.stuck {
							wait = over
						}
						<-wait
						if c.ends != nil {
							return vcenter.SOAPFault{Fault: c.ends, Message: "the guest did not answer"}
						}
					case call.Method == "CancelTask":
						once.Do(func() { close(canceled) })
					}
					return nil
				}
			})
			t.Cleanup(func() { close(over) })
			id := p.AddServer(t, "web", size)
			config := p.config()
			config.Limits.Quiesce, config.Limits.Task, config.Limits.Undo = 100*time.Millisecond, 5*time.Second, 100*time.Millisecond
			if c.stuck {
				config.Limits.Task = 500 * time.Millisecond
			}
			s, _ := p.source(t, config)
			var told []string
			ctx := hypervisor.WithWaits(t.Context(), func(what string) func() { told = append(told, what); return func() {} })
			refs, err := s.Snapshot(ctx, "r1", []hypervisor.ServerID{id}, c.ask)
			if !slices.Contains(told, "the guest of web has not come to rest for its snapshot yet") {
				t.Errorf("what is waited for is told as %q", told)
			}
			if n := p.Calls()["CreateSnapshot_Task"]; n != c.taken {
				t.Errorf("vSphere was asked for %d snapshots", n)
			}
			select {
			case <-canceled:
			default:
				t.Error("the task was not canceled")
			}
			if c.refuse != nil {
				has(t, err, c.refuse)
				return
			}
			must(t, err)
			if refs[0].Consistency != c.want || (c.want == hypervisor.CrashConsistent) != strings.Contains(refs[0].Note, "did not come to rest: it took too long") {
				t.Errorf("reached %q, noted %q", refs[0].Consistency, refs[0].Note)
			}
		})
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

func TestAnotherProductsWorkIsWaitedForAndThenTheSnapshotTaken(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	must(t, p.vm(t, id).Disable("CreateSnapshot_Task"))
	s, _ := p.source(t, p.config())
	ctx := hypervisor.WithWaits(t.Context(), func(string) func() {
		must(t, p.vm(t, id).Disable()) // the backup has ended
		return func() {}
	})
	_, err := s.Snapshot(ctx, "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	must(t, err)
}

func TestASnapshotOnADatastoreThatRunsFullIsUrgent(t *testing.T) {
	p := newPlatform(t)
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	snapshot(t, s, "r1", id, hypervisor.QuiesceNever)
	for _, c := range []struct {
		free int64 // of 100 TiB
		want string
	}{{3 << 40, ""}, {2 << 40, `datastore "datastore1" has 2048 of 102400 GiB free, less than 2.5 %`}} {
		must(t, p.SetDatastoreFree("datastore1", c.free))
		held, _, err := s.Held(t.Context())
		must(t, err)
		if len(held) != 1 || held[0].Urgent != c.want {
			t.Errorf("with %d TiB free the snapshots are %+v", c.free>>40, held)
		}
	}
}

func TestACallThatTheNetworkLostIsAProblemWithAHint(t *testing.T) {
	p := newPlatform(t, func(c *vcenter.Config) {
		c.Fault = func(call vcenter.Call) error {
			if !call.Task && (call.Method == "CreateSnapshot_Task" || call.Method == "RemoveSnapshot_Task") {
				return vcenter.ErrDropped
			}
			return nil
		}
	})
	id := p.AddServer(t, "web", size)
	s, _ := p.source(t, p.config())
	_, err := s.Snapshot(t.Context(), "r1", []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	has(t, err, vsphere.Unreachable)
	if got := p.OpenSnapshots(); len(got) != 0 {
		t.Errorf("snapshots are %q", got)
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
