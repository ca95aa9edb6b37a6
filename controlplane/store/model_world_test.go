package store

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// world is everything there is: rows, staging, the source's snapshots, and
// what connectors and builders are about to do. It is a value: a step makes a copy.
type world struct {
	db      int
	staging map[string]string // key → object
	source  []modelSnapshot   // snapshots that exist, of all runs
	taken   int               // snapshots ever taken: the next one's version
	conns   [2]modelConn
	builds  [2]modelBuild
	// budgets of what may still go wrong
	expiries, crashes, losses, runs int
}

// modelSnapshot is a frozen state: version n of the guest's bytes.
type modelSnapshot struct {
	id      string
	run     string
	version int
}

func (w world) clone() world {
	w.staging = maps.Clone(w.staging)
	w.source = slices.Clone(w.source)
	return w
}

func (w world) put(key, object string) world {
	w = w.clone()
	w.staging[key] = object
	return w
}

func (w world) snapshot(id string) (modelSnapshot, bool) {
	i := slices.IndexFunc(w.source, func(s modelSnapshot) bool { return s.id == id })
	if i < 0 {
		return modelSnapshot{}, false
	}
	return w.source[i], true
}

func (w world) drop(id string) world {
	w = w.clone()
	w.source = slices.DeleteFunc(w.source, func(s modelSnapshot) bool { return s.id == id })
	return w
}

var modelSeed, otherSeed = maphash.MakeSeed(), maphash.MakeSeed()

// key is the world's identity; two hashes make a chance collision of no concern.
func (w world) key() [2]uint64 {
	b := make([]byte, 0, 1024)
	for _, n := range []int{w.db, w.taken, w.expiries, w.crashes, w.losses, w.runs} {
		b = append(strconv.AppendInt(b, int64(n), 10), ',')
	}
	for _, s := range w.source {
		b = join(b, s.id, s.run)
	}
	for _, c := range w.conns {
		b = join(b, c.pc, c.run, c.recorded, c.snap, c.bases[0], c.bases[1], c.digests[0], c.digests[1],
			c.plans[0], c.plans[1], c.manifest[0], c.manifest[1])
		b = append(b, byte(c.epoch), byte(c.version), byte(c.disk), byte(c.n))
	}
	for _, r := range w.builds {
		b = join(b, r.pc, r.sealed[0], r.sealed[1], r.content[0], r.content[1])
		b = append(b, byte(r.step), byte(r.step>>8), byte(r.disk))
	}
	for _, k := range slices.Sorted(maps.Keys(w.staging)) {
		b = join(b, k, w.staging[k])
	}
	return [2]uint64{maphash.Bytes(modelSeed, b), maphash.Bytes(otherSeed, b)}
}

func join(b []byte, parts ...string) []byte {
	for _, p := range parts {
		b = append(append(b, p...), 0)
	}
	return b
}

// shape is the size of the modeled server, and what its connectors and its
// object store are like.
type shape struct {
	disks, segments int
	conditional     bool // the store has conditional writes
	late            bool // connectors record their snapshot only before the seal,
	// and look for one by the run's name even when another one is recorded
	restarted bool // both connectors are one: a new process and the old one that goes on
}

// unit is the value of one segment's blocks in a version of the guest: the
// first changes with each version, the next with every second one.
func (s shape) unit(version, disk, segment int) int { return version >> (disk*s.segments + segment) }

// content is a disk's bytes in a version, digest what stands for them.
func (s shape) content(version, disk int) string {
	units := make([]string, s.segments)
	for n := range units {
		units[n] = fmt.Sprint(s.unit(version, disk, n))
	}
	return strings.Join(units, ",")
}

func digestOf(content string) []byte { return modelHash("digest " + content) }
func diskName(d int) string          { return fmt.Sprintf("disk%d", d) }

func planKey(run string, d int) string     { return fmt.Sprintf("data/%s/%d/plan", run, d) }
func segKey(run string, d, n int) string   { return fmt.Sprintf("data/%s/%d/segment-%d", run, d, n) }
func manifestKey(run string, d int) string { return fmt.Sprintf("state/%s/%d/manifest", run, d) }
func mapKey(run string, d int, content string) string {
	return fmt.Sprintf("state/%s/%d/map-%s", run, d, content)
}

// Objects are written as text. A plan names the snapshot and the base; a
// segment names its plan and holds a value; a manifest names its plan, the map
// and who wrote it, so that no two attempts write the same bytes.
func planObject(snapshot, base string) string { return fmt.Sprintf("plan(%s from %s)", snapshot, base) }

func segObject(plan string, value int) string { return fmt.Sprintf("%s:%d", plan, value) }

func segIsOf(object, plan string) bool { return strings.HasPrefix(object, plan+":") }

func segValue(object string) string { return object[strings.LastIndex(object, ":")+1:] }

func manifestObject(plan, content string, epoch int64) string {
	return fmt.Sprintf("%s|%s|%d", plan, content, epoch)
}

func manifestPlan(object string) string    { return strings.Split(object, "|")[0] }
func manifestContent(object string) string { return strings.Split(object, "|")[1] }
