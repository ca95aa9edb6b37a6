package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"skylift/controlplane/replication"
)

// modelBuild is what a reconciler is about to do; it too goes on when its lease has ended.
type modelBuild struct {
	pc      string // empty: idle
	step    int    // index of the step among the explorer's
	disk    int
	sealed  [2]string // manifests read
	content [2]string // images made
}

func buildName(i int) string { return fmt.Sprintf("r-%d", i) }

// builder returns the worlds after reconciler i's next step.
func (e *explorer) builder(w world, i int) []world {
	b := w.builds[i]
	next := func(w world, b modelBuild) []world {
		w.builds[i] = b
		return []world{w}
	}
	if b.pc == "" {
		return e.claimStep(w, i)
	}
	step := e.steps[b.step]
	switch b.pc {
	case "manifest": // the sealed one, or none
		d := step.Build.Disks[b.disk]
		object := w.staging[manifestKey(step.Run, b.disk)]
		if string(modelHash(object)) != string(d.ManifestSHA256) {
			return next(w, modelBuild{pc: "fail", step: b.step})
		}
		b.sealed[b.disk], b.pc = object, "blocks"
		return next(w, b)
	case "blocks": // only those that the sealed map names
		content, ok := e.assemble(w, step, b)
		if !ok {
			return next(w, modelBuild{pc: "fail", step: b.step})
		}
		b.content[b.disk], b.pc = content, "manifest"
		if b.disk++; b.disk == e.shape.disks {
			b.pc = "land"
		}
		return next(w, b)
	case "land":
		return next(e.land(w, step, b), modelBuild{})
	case "fail":
		o := e.db.call(w.db, fmt.Sprintf("refuse %v", step.Lease), func() (any, error) {
			return nil, e.db.service.Fail(context.Background(), step.Lease, replication.Failure{Message: "refused"})
		})
		w.db = o.state
		return next(w, modelBuild{})
	case "purge":
		w = w.clone()
		for _, dead := range step.Purge.Dead {
			for key := range w.staging {
				if dead.Data && strings.HasPrefix(key, "data/"+dead.Run+"/") || dead.State && strings.HasPrefix(key, "state/"+dead.Run+"/") {
					delete(w.staging, key)
				}
			}
		}
		b.pc = "purged"
		return next(w, b)
	case "purged":
		o := e.db.call(w.db, fmt.Sprintf("purged %v", step.Lease), func() (any, error) {
			return nil, e.db.service.Purged(context.Background(), step.Lease, step.Purge, nil)
		})
		w.db = o.state
		return next(w, modelBuild{})
	}
	panic(b.pc)
}

func (e *explorer) claimStep(w world, i int) []world {
	o := e.db.call(w.db, "step "+buildName(i), func() (any, error) {
		step, ok, err := e.db.service.ClaimStep(context.Background(), buildName(i))
		if !ok {
			return nil, err
		}
		e.steps = append(e.steps, step)
		return len(e.steps) - 1, err
	})
	if o.err != nil {
		e.t.Fatal(o.err)
	}
	w.db = o.state
	if n, ok := o.result.(int); ok {
		w.builds[i] = modelBuild{pc: "purge", step: n}
		if e.steps[n].Kind == replication.BuildStep {
			w.builds[i].pc = "manifest"
		}
	}
	return []world{w}
}

// assemble makes a disk's image of its base's and of the run's blocks: each
// that differs from the base must be there under the sealed plan with the map's value.
func (e *explorer) assemble(w world, step replication.Step, b modelBuild) (string, bool) {
	plan := manifestPlan(b.sealed[b.disk])
	content, ok := w.staging[mapKey(step.Run, b.disk, manifestContent(b.sealed[b.disk]))]
	if !ok {
		return "", false
	}
	base := step.Build.Disks[b.disk].BaseImage
	units := make([]string, e.shape.segments)
	for n := range units {
		units[n] = strconv.Itoa(unitIn(base, n))
		value := unitIn(content, n)
		if value == unitIn(base, n) {
			continue
		}
		object := w.staging[segKey(step.Run, b.disk, n)]
		if !segIsOf(object, plan) || segValue(object) != strconv.Itoa(value) {
			return "", false
		}
		units[n] = segValue(object)
	}
	return strings.Join(units, ","), true
}

// unitIn is the value of a segment in a disk's content; zero in none.
func unitIn(content string, n int) int {
	if content == "" {
		return 0
	}
	v, _ := strconv.Atoi(strings.Split(content, ",")[n])
	return v
}

// land lands what was built, and holds it against what must be.
func (e *explorer) land(w world, step replication.Step, b modelBuild) world {
	built := replication.Built{Image: "image of " + step.Run}
	for d := range e.shape.disks {
		built.Disks = append(built.Disks, replication.BuiltDisk{Disk: diskName(d), Image: b.content[d], Digest: digestOf(b.content[d])})
	}
	before := e.db.states[w.db]
	o := e.db.call(w.db, fmt.Sprintf("land %v %v", step.Lease, b.content), func() (any, error) {
		return nil, e.db.service.Land(context.Background(), step.Lease, built)
	})
	w.db = o.state
	if o.err != nil {
		return w
	}
	e.landings++
	row := before.row
	e.check(row.ID == step.Run && row.Epoch == step.Epoch && row.Owner == step.Owner, "%s landed run %s under the stale epoch %d", step.Owner, step.Run, step.Epoch)
	if !e.check(row.Snapshot != nil, "run %s landed without a recorded snapshot", row.ID) {
		return w
	}
	version := e.version(row.Snapshot.ID)
	for d := range e.shape.disks {
		e.check(b.content[d] == e.shape.content(version, d), "disk %d of run %s landed as %q; its snapshot %s holds %q",
			d, step.Run, b.content[d], row.Snapshot.ID, e.shape.content(version, d))
		e.checkChain(row, before.land, d)
		e.check(slices.ContainsFunc(e.db.states[w.db].land, func(l replication.Landed) bool {
			return l.Disk == diskName(d) && l.Run == row.ID && string(l.Digest) == string(digestOf(b.content[d]))
		}), "disk %d of run %s landed, but is not the base of the next run", d, row.ID)
	}
	return w
}

// checkChain holds a landing's base against what had landed before.
func (e *explorer) checkChain(row *replication.Row, before []replication.Landed, d int) {
	sealed := row.Seal[d]
	for _, l := range before {
		if l.Disk == sealed.Disk {
			e.check(sealed.BaseRun == "" || sealed.BaseRun == l.Run && string(sealed.BaseDigest) == string(l.Digest) && l.Run != row.ID,
				"disk %s of run %s landed on the base %s, but run %s had landed last", sealed.Disk, row.ID, sealed.BaseRun, l.Run)
			return
		}
	}
	e.check(sealed.BaseRun == "", "disk %s of run %s landed on the base %s, which never landed", sealed.Disk, row.ID, sealed.BaseRun)
}

// version is what a snapshot froze: it is in its name.
func (e *explorer) version(snapshot string) int {
	v, err := strconv.Atoi(strings.TrimPrefix(snapshot, "snap"))
	if err != nil {
		e.t.Fatal(err)
	}
	return v
}
