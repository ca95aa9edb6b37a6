package try

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"skylift/internal/simulator/s3"
	"skylift/internal/simulator/vcenter"
)

// incident is something that goes wrong in or before a run of one server.
type incident struct {
	name string
	by   []transport // that it can happen to; all where empty
	// strike has it happen, or readies it to.
	strike func(g *guest, rng *rand.Rand) error
	want   outcome // of the run
	next   outcome // of the run behind it; incremental where empty
	why    string  // that the run's reasons tell
	last   bool    // there is no run behind it
}

func (i incident) fits(t transport) bool { return len(i.by) == 0 || slices.Contains(i.by, t) }

var (
	incremental = completed("incremental")
	comparing   = completed("comparing")
)

// incidents are all that is tried. Every one of them ends in the outcome that
// is stated, and with an image of what was frozen or the reason why not.
func incidents() []incident {
	return slices.Concat(storageIncidents(), platformIncidents(), trackingIncidents(), ownersIncidents())
}

// spoil has some of the run's requests to the storage meet the fault: those
// that which is true for, told how many of their method and kind came before.
func spoil(fault s3.Fault, which func(r s3.Request, before int) bool) func(*guest, *rand.Rand) error {
	return func(g *guest, _ *rand.Rand) error {
		var mu sync.Mutex
		seen := map[string]int{}
		g.onRequest(func(r s3.Request) s3.Fault {
			mu.Lock()
			defer mu.Unlock()
			kind := r.Method + " " + objectKind(r.Key)
			before := seen[kind]
			seen[kind]++
			if which(r, before) {
				return fault
			}
			return s3.Fault{}
		})
		return nil
	}
}

func firstTwo(_ s3.Request, before int) bool { return before < 2 }
func everyOther(_ s3.Request, n int) bool    { return n%2 == 0 }
func always(s3.Request, int) bool            { return true }

// of lets only requests of one method through to which.
func onlyOf(method string, which func(s3.Request, int) bool) func(s3.Request, int) bool {
	return func(r s3.Request, before int) bool { return r.Method == method && which(r, before) }
}

func storageIncidents() []incident {
	return []incident{
		{name: "the storage answers 500", strike: spoil(s3.Fault{Status: 500, Code: "InternalError"}, firstTwo), want: incremental},
		{name: "the storage asks to slow down", strike: spoil(s3.Fault{Status: 503, Code: "SlowDown"}, everyOther), want: incremental},
		{name: "the storage is slow", strike: spoil(s3.Fault{Wait: 30 * time.Millisecond, Rate: 4 << 20}, always), want: incremental},
		{name: "the storage resets connections", strike: spoil(s3.Fault{Reset: true}, everyOther), want: incremental},
		{name: "the storage's answers are lost", strike: spoil(s3.Fault{Lost: true}, everyOther), want: incremental},
		{name: "the storage's answers are cut short", strike: spoil(s3.Fault{Truncate: 20}, onlyOf("GET", everyOther)), want: incremental},
		{name: "bytes change on their way to the storage", strike: spoil(s3.Fault{Flip: true}, onlyOf("PUT", everyOther)), want: incremental},
		{name: "bytes change on their way from the storage", strike: spoil(s3.Fault{Flip: true}, func(r s3.Request, _ int) bool {
			return r.Method == "GET" && objectKind(r.Key) == "segment"
		}), want: failed("run-build-refused")},
		{name: "the storage's credentials expire", strike: spoil(s3.Fault{Status: 403, Code: "ExpiredToken"}, func(r s3.Request, before int) bool { return before == 0 }), want: incremental},
		{name: "the storage refuses access", strike: spoil(s3.Fault{Status: 403, Code: "AccessDenied"}, onlyOf("PUT", always)), want: failed("bucket-access-denied")},
	}
}

// script has the vCenter's calls about the guest meet what the lines say; see
// package vcenter.
func script(text string) func(*guest, *rand.Rand) error {
	return func(g *guest, _ *rand.Rand) error {
		f, err := vcenter.ParseScript(text)
		g.onCall(f)
		return err
	}
}

// atFirst answers every method's first call with err, whoever it is about.
func atFirst(g *guest, err error) {
	var mu sync.Mutex
	seen := map[string]bool{"Login": true, "WaitForUpdatesEx": true}
	g.onAnyCall(func(c vcenter.Call) error {
		mu.Lock()
		defer mu.Unlock()
		if c.Task || seen[c.Method] {
			return nil
		}
		seen[c.Method] = true
		return err
	})
}

func platformIncidents() []incident {
	return []incident{
		{name: "the session ends at every call", want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			var mu sync.Mutex
			seen := map[string]int{}
			g.onAnyCall(func(c vcenter.Call) error {
				mu.Lock()
				defer mu.Unlock()
				seen[c.Method]++
				// What is asked again in a new session is let through.
				if n := seen[c.Method]; !c.Task && c.Method != "Login" && (n == 1 || n == 3) {
					g.lab.source.sim.ExpireSessions()
					g.lab.tell("session ended")
				}
				return nil
			})
			return nil
		}},
		{name: "the vCenter answers 503 to every method once", want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			atFirst(g, vcenter.HTTPStatus(503))
			return nil
		}},
		{name: "the vCenter drops every method's first call", want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			atFirst(g, vcenter.ErrDropped)
			return nil
		}},
		{name: "the vCenter's answers are lost", want: incremental, strike: script("* @every 3: answer lost")},
		{name: "taking the snapshot fails twice", want: incremental, strike: script("CreateSnapshot_Task @1-2 task: fault FileFault the disk is busy")},
		{name: "taking the snapshot fails always", want: failed("vsphere-snapshot-failed"), strike: script("CreateSnapshot_Task task: fault FileFault the disk is broken")},
		{name: "removing the snapshot fails twice", want: incremental, strike: script("RemoveSnapshot_Task @1-2 task: fault FileFault the disk is busy")},
		{name: "the answer about the snapshot's making is lost", want: incremental, strike: script("CreateSnapshot_Task @1: answer lost")},
		{name: "the answer about the snapshot's removal is lost", want: incremental, strike: script("RemoveSnapshot_Task @1: answer lost")},
		{name: "snapshots and their consolidation take long", want: incremental, strike: quirk(func(q *vcenter.Quirks) {
			q.SnapshotTakes, q.ConsolidationTakes = 300*time.Millisecond, 700*time.Millisecond
		})},
		{name: "the guest cannot be quiesced", want: incremental, strike: quirk(func(q *vcenter.Quirks) { q.QuiesceFails = true })},
		{name: "another product holds the server for a while", want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			time.AfterFunc(time.Second, func() { g.lab.stray(g.vm.Disable()) })
			return g.vm.Disable("CreateSnapshot_Task")
		}},
		{name: "the datastore is nearly full", want: failed("vsphere-datastore-full"), strike: func(g *guest, _ *rand.Rand) error {
			sim := g.lab.source.sim
			g.later(func() error { return sim.SetDatastoreFree(g.store, 50<<40) })
			return sim.SetDatastoreFree(g.store, 1<<40)
		}},
		{name: "file requests are cut short", by: []transport{flat, chain}, want: incremental, strike: script("GET /folder @every 3: after 70000 drop")},
		{name: "files are answered 503", by: []transport{flat, chain}, want: incremental, strike: script("GET /folder @every 4: 503")},
		{name: "the host dies while files are read", by: []transport{flat, chain}, want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			g.later(func() error { return g.host.SetReachable(true) })
			g.whileUploading(func() error { return g.host.SetReachable(false) })
			return nil
		}},
		{name: "the export is cut short", by: []transport{export}, want: incremental, strike: script("GET /nfc @1-2: after 300000 drop")},
		{name: "the host is away for a while during an export", by: []transport{export}, want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			g.whileUploading(func() error {
				time.AfterFunc(700*time.Millisecond, func() { g.lab.stray(g.host.SetReachable(true)) })
				return g.host.SetReachable(false)
			})
			return nil
		}},
		{name: "the NBD server is killed and comes back", by: []transport{nbdkit}, want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			g.whileUploading(func() error {
				g.lab.nbd.kill()
				time.AfterFunc(500*time.Millisecond, func() { g.lab.stray(g.lab.nbd.start()) })
				return nil
			})
			return nil
		}},
	}
}

// quirk changes what is wrong with the server until the run has ended.
func quirk(change func(*vcenter.Quirks)) func(*guest, *rand.Rand) error {
	return func(g *guest, _ *rand.Rand) error {
		q := g.quirks()
		change(&q)
		g.later(func() error { return g.vm.SetQuirks(g.quirks()) })
		return g.vm.SetQuirks(q)
	}
}

func trackingIncidents() []incident {
	return []incident{
		{name: "tracking is reset", want: comparing, why: "reset", strike: func(g *guest, _ *rand.Rand) error { return g.vm.ResetTracking() }},
		{name: "tracking does not tell of all changes", want: comparing, why: "lied", strike: quirk(func(q *vcenter.Quirks) {
			q.OmitChange = func(int32, vcenter.Extent) bool { return true }
		})},
		{name: "the vCenter cannot tell what changed", want: comparing, why: "cannot tell", strike: script("QueryChangedDiskAreas: fault FileFault no tracking file")},
		{name: "the server was reverted to a foreign snapshot", want: comparing, strike: func(g *guest, rng *rand.Rand) error {
			g.later(g.tidy)
			return g.revert(rng)
		}},
	}
}

func ownersIncidents() []incident {
	return []incident{
		{name: "somebody deletes all snapshots during the run", want: failed("snapshot-gone"), strike: func(g *guest, _ *rand.Rand) error {
			g.later(g.tidy)
			g.whileUploading(g.vm.RemoveAllSnapshots)
			return nil
		}},
		// What was frozen stays frozen: only tracking begins anew.
		{name: "somebody reverts the server during the run", by: []transport{flat, chain, nbdkit}, want: incremental, next: comparing, strike: func(g *guest, rng *rand.Rand) error {
			g.later(g.tidy)
			g.whileUploading(func() error { return g.revert(rng) })
			return nil
		}},
		{name: "a foreign snapshot appeared", by: []transport{flat, export, nbdkit}, want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			g.later(g.tidy)
			return g.vm.TakeSnapshot(foreign)
		}},
		{name: "a disk was added", want: completed("full"), strike: func(g *guest, rng *rand.Rand) error {
			d, err := g.vm.AddDisk(vcenter.DiskSpec{Size: 3 << 20, Datastore: g.store})
			if err != nil {
				return err
			}
			g.later(d.Remove)
			return g.write(rng)
		}},
		{name: "a disk has grown", by: []transport{flat, export, nbdkit}, want: comparing, why: "grown", strike: func(g *guest, _ *rand.Rand) error {
			return g.vm.Disk(0).Grow(g.vm.Disk(0).Size() + 1<<20)
		}},
		{name: "the server moves to another host during the run", by: []transport{flat, chain, nbdkit}, want: incremental, strike: func(g *guest, _ *rand.Rand) error {
			g.later(func() error { return g.lab.source.sim.Move(g.name, g.host.Name(), "") })
			g.whileUploading(func() error { return g.lab.source.sim.Move(g.name, spareHost, "") })
			return nil
		}},
		{name: "the server's disks move to another datastore during the run", by: []transport{flat, chain, nbdkit}, want: failed("snapshot-gone"), next: comparing, strike: func(g *guest, _ *rand.Rand) error {
			from, to := g.store, "spare-"+g.name
			g.later(func() error { return g.lab.source.sim.Move(g.name, "", from) })
			g.whileUploading(func() error { return g.lab.source.sim.Move(g.name, "", to) })
			return nil
		}},
		{name: "the server is deleted during the run", want: failed("snapshot-gone"), last: true, strike: func(g *guest, _ *rand.Rand) error {
			g.whileUploading(func() error { return g.lab.source.sim.RemoveServer(g.name) })
			return nil
		}},
	}
}

// quirks are what is wrong with the server by its transport.
func (g *guest) quirks() vcenter.Quirks { return g.by.quirks() }

func (t transport) quirks() vcenter.Quirks {
	return vcenter.Quirks{FlatLocked: t == export || t == nbdkit, ExportFails: t == nbdkit}
}

// revert goes back to a foreign snapshot, behind which the guest wrote.
func (g *guest) revert(rng *rand.Rand) error {
	if g.by != chain {
		if err := g.vm.TakeSnapshot(foreign); err != nil {
			return err
		}
	}
	if err := g.write(rng); err != nil {
		return err
	}
	if err := g.vm.Revert(foreign); err != nil {
		return err
	}
	return g.vm.SetPower("poweredOn")
}

// tidy leaves those foreign snapshots that the server began with.
func (g *guest) tidy() error {
	if err := g.vm.RemoveAllSnapshots(); err != nil {
		return fmt.Errorf("remove what others left: %w", err)
	}
	if g.by == chain {
		return g.vm.TakeSnapshot(foreign)
	}
	return nil
}
