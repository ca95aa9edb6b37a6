package store

import (
	"context"
	"fmt"
	"slices"

	"skylift/controlplane/replication"
	"skylift/internal/problem"
)

// modelConn is what a connector is about to do. It never asks whether its
// lease still holds: every lease that ends makes it a zombie that goes on.
type modelConn struct {
	pc       string // empty: idle
	run      string
	epoch    int64
	sealed   bool
	recorded string // by an earlier epoch
	snap     string
	version  int
	bases    [2]string // each disk's base: its run
	digests  [2]string // and its content
	plans    [2]string
	manifest [2]string
	disk, n  int
}

func (e *explorer) lease(c modelConn, i int) replication.Lease {
	return replication.Lease{Run: c.run, Owner: e.owner(i), Epoch: c.epoch}
}

func connName(i int) string { return fmt.Sprintf("c-%d", i) }

// owner is the name that connector i goes by.
func (e *explorer) owner(i int) string {
	if e.shape.restarted {
		return connName(0)
	}
	return connName(i)
}

func (c modelConn) at(pc string) modelConn {
	c.pc = pc
	return c
}

// disk moves to the first or next disk, or to pc behind the last one.
func (e *explorer) eachDisk(c modelConn, step, then string) modelConn {
	if c.disk++; c.disk < e.shape.disks {
		c.n = 0
		return c.at(step)
	}
	c.disk, c.n = 0, 0
	return c.at(then)
}

// connector returns the worlds after connector i's next step.
func (e *explorer) connector(w world, i int) []world {
	c := w.conns[i]
	next := func(w world, c modelConn) []world {
		w.conns[i] = c
		return []world{w}
	}
	switch c.pc {
	case "":
		return e.claim(w, i)
	case "look":
		if c.recorded != "" && !e.shape.late {
			s, ok := w.snapshot(c.recorded)
			if !ok {
				return next(w, c.at("fail"))
			}
			c.snap, c.version = s.id, s.version
			return next(w, c.at("plan"))
		}
		var found []world // any of those there, if there are several
		for _, s := range w.source {
			if s.run == c.run {
				c.snap, c.version = s.id, s.version
				found = append(found, next(w, c.at(e.afterSnapshot()))...)
			}
		}
		if found == nil {
			return next(w, c.at("create"))
		}
		return found
	case "create":
		w = w.clone()
		w.taken++
		c.snap, c.version = fmt.Sprintf("snap%d", w.taken), w.taken
		w.source = append(w.source, modelSnapshot{c.snap, c.run, c.version})
		return next(w, c.at(e.afterSnapshot()))
	case "record":
		o := e.db.call(w.db, fmt.Sprintf("record %v %s", e.lease(c, i), c.snap), func() (any, error) {
			return nil, e.db.service.RecordSnapshot(context.Background(), e.lease(c, i), replication.Snapshot{Run: c.run, ID: c.snap})
		})
		if was := e.db.states[w.db].row; o.err == nil && was.ID == c.run && was.Snapshot != nil {
			e.check(was.Snapshot.ID == c.snap, "run %s recorded %s after %s", c.run, c.snap, was.Snapshot.ID)
		}
		w.db = o.state
		if e.shape.late {
			return next(w, c.after(o.err, "seal"))
		}
		return next(w, c.after(o.err, "plan"))
	case "plan", "put plan":
		return next(e.plan(w, c))
	case "segment":
		return next(e.segment(w, c))
	case "verify": // the snapshot seen again, before anything is sealed
		if _, ok := w.snapshot(c.snap); !ok {
			return next(w, c.at("fail"))
		}
		return next(w, c.at("map"))
	case "map":
		content := e.shape.content(c.version, c.disk)
		return next(w.put(mapKey(c.run, c.disk, content), content), c.at("manifest"))
	case "manifest", "put manifest":
		return next(e.manifest(w, c))
	case "seal":
		return next(e.seal(w, c, i))
	case "settle":
		return next(w.drop(c.snap), c.at("settled"))
	case "settled":
		o := e.db.call(w.db, fmt.Sprintf("settled %v", e.lease(c, i)), func() (any, error) {
			return nil, e.db.service.Settled(context.Background(), e.lease(c, i), nil)
		})
		w.db = o.state
		return next(w, modelConn{})
	case "fail":
		o := e.db.call(w.db, fmt.Sprintf("fail %v", e.lease(c, i)), func() (any, error) {
			return nil, e.db.service.Fail(context.Background(), e.lease(c, i), replication.Failure{Message: "gone"})
		})
		w.db = o.state
		return next(w, modelConn{})
	}
	panic(c.pc)
}

func (e *explorer) afterSnapshot() string {
	if e.shape.late {
		return "plan"
	}
	return "record"
}

// after goes on to pc, gives up on a stale lease, or ends the run it may not go on with.
func (c modelConn) after(err error, pc string) modelConn {
	switch {
	case err == nil:
		return c.at(pc)
	case problem.Has(err, replication.StaleLease):
		return modelConn{}
	}
	return c.at("fail")
}

func (e *explorer) claim(w world, i int) []world {
	o := e.db.call(w.db, "claim "+e.owner(i), func() (any, error) {
		a, ok, err := e.db.service.Claim(context.Background(), e.owner(i), 1)
		if !ok {
			return nil, err
		}
		return a, err
	})
	if o.err != nil {
		e.t.Fatal(o.err)
	}
	w.db = o.state
	a, ok := o.result.(replication.Assignment)
	if !ok {
		return []world{w}
	}
	c := modelConn{pc: "look", run: a.Run, epoch: a.Epoch, sealed: a.Sealed}
	if a.Snapshot != nil {
		c.recorded = a.Snapshot.ID
	}
	for _, b := range a.Bases {
		d := slices.Index([]string{diskName(0), diskName(1)}, b.Disk)
		c.bases[d], c.digests[d] = b.Run, e.contentOf(b.Digest)
		_, hasMap := w.staging[mapKey(b.Run, d, c.digests[d])]
		manifest := w.staging[manifestKey(b.Run, d)]
		sound := hasMap && string(modelHash(manifest)) == string(b.ManifestSHA256)
		e.check(sound || a.Sealed || !e.shape.conditional,
			"run %s is to start from run %s, whose state is gone or not what was sealed", a.Run, b.Run)
		if !sound { // written over by a zombie: the disk is transferred in full
			c.bases[d], c.digests[d] = "", ""
		}
	}
	if a.Sealed {
		c.snap = c.recorded
		c.pc = "settle"
	}
	w.conns[i] = c
	return []world{w}
}

// plan writes the disk's plan, or takes the one there for its own if it is
// of the same snapshot and base.
func (e *explorer) plan(w world, c modelConn) (world, modelConn) {
	key, mine := planKey(c.run, c.disk), planObject(c.snap, c.bases[c.disk])
	there, exists := w.staging[key]
	switch {
	case exists && there == mine:
	case c.pc == "plan" && (exists || !e.shape.conditional):
		return w, c.at("put plan") // seen; somebody else may write before this one does
	default:
		w = w.put(key, mine)
	}
	c.plans[c.disk] = mine
	return w, c.at("segment")
}

// segment reads a segment's blocks and writes those that differ from the
// base's, unless a segment of this plan is there.
func (e *explorer) segment(w world, c modelConn) (world, modelConn) {
	key, plan := segKey(c.run, c.disk, c.n), c.plans[c.disk]
	value := e.shape.unit(c.version, c.disk, c.n)
	there := w.staging[key]
	if changed := value != e.baseUnit(c); changed && !segIsOf(there, plan) {
		if _, ok := w.snapshot(c.snap); !ok {
			return w, c.at("fail") // nothing to read from
		}
		w = w.put(key, segObject(plan, value))
	}
	if c.n++; c.n < e.shape.segments {
		return w, c
	}
	return w, e.eachDisk(c, "plan", "verify")
}

// baseUnit is the value of the connector's present segment in its base; zero without one.
func (e *explorer) baseUnit(c modelConn) int { return unitIn(c.digests[c.disk], c.n) }

// manifest writes the disk's manifest, or takes the one there for its own if
// it is of the same plan.
func (e *explorer) manifest(w world, c modelConn) (world, modelConn) {
	key := manifestKey(c.run, c.disk)
	mine := manifestObject(c.plans[c.disk], e.shape.content(c.version, c.disk), c.epoch)
	there, exists := w.staging[key]
	switch {
	case exists && manifestPlan(there) == c.plans[c.disk]:
		mine = there
	case c.pc == "manifest" && (exists || !e.shape.conditional):
		return w, c.at("put manifest")
	default:
		w = w.put(key, mine)
	}
	c.manifest[c.disk] = mine
	if e.shape.late {
		return w, e.eachDisk(c, "map", "record")
	}
	return w, e.eachDisk(c, "map", "seal")
}

func (e *explorer) seal(w world, c modelConn, i int) (world, modelConn) {
	var disks []replication.SealedDisk
	for d := range e.shape.disks {
		disk := replication.SealedDisk{
			Disk: diskName(d), Key: fmt.Sprint(d), Size: 1 << 20,
			ManifestSHA256: modelHash(c.manifest[d]), Digest: digestOf(manifestContent(c.manifest[d])),
			BaseRun: c.bases[d],
		}
		if c.bases[d] != "" {
			disk.BaseDigest = digestOf(c.digests[d])
		}
		disks = append(disks, disk)
	}
	before := e.db.states[w.db].row
	o := e.db.call(w.db, fmt.Sprintf("seal %v %v", e.lease(c, i), c.manifest), func() (any, error) {
		return nil, e.db.service.Seal(context.Background(), e.lease(c, i), disks)
	})
	w.db = o.state
	if o.err == nil {
		e.check(before.ID == c.run && before.Epoch == c.epoch && before.Owner == e.owner(i) && before.LeaseUntil.After(e.db.states[w.db].now),
			"epoch %d of %s sealed run %s, which %s holds under epoch %d", c.epoch, e.owner(i), c.run, before.Owner, before.Epoch)
	}
	return w, c.after(o.err, "settle")
}
