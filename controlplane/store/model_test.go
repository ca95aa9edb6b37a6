package store

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
)

// explorer goes through every order in which two connectors, two
// reconcilers, the clock, the source and bad luck can act.
type explorer struct {
	t        *testing.T
	shape    shape
	db       *modelDB
	steps    []replication.Step
	contents map[string]string // digest → content
	landings int
	broken   bool
}

// budget bounds what may go wrong in one history.
type budget struct{ expiries, crashes, losses, runs int }

// drained is how many steps of orderly work end any run.
const drained = 400

func TestRunsLandTheFrozenStateOfTheirSnapshotOrFailInEveryOrderOfEvents(t *testing.T) {
	for _, c := range []struct {
		name   string
		shape  shape
		budget budget
	}{
		{"one disk of two segments", shape{disks: 1, segments: 2, conditional: true}, budget{expiries: 2, losses: 1}},
		{"two disks", shape{disks: 2, segments: 1, conditional: true}, budget{expiries: 2}},
		{"a store without conditional writes", shape{disks: 1, segments: 2}, budget{expiries: 2}},
		{"connectors that record their snapshot late", shape{disks: 1, segments: 2, late: true}, budget{expiries: 1, crashes: 1}},
		{"a connector restarted while its old process goes on", shape{disks: 1, segments: 2, conditional: true, restarted: true}, budget{expiries: 2}},
		{"a second run on a store without conditional writes", shape{disks: 1, segments: 2}, budget{expiries: 1, runs: 1}},
		{"a second run on the first one's base", shape{disks: 1, segments: 2, conditional: true}, budget{expiries: 1, runs: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newExplorer(t, c.shape)
			e.explore(c.budget)
		})
	}
}

func newExplorer(t *testing.T, s shape) *explorer {
	e := &explorer{t: t, shape: s, db: newModelDB(t), contents: map[string]string{}}
	for version := range 32 {
		for d := range s.disks {
			content := s.content(version, d)
			e.contents[string(digestOf(content))] = content
		}
	}
	return e
}

func (e *explorer) contentOf(digest []byte) string { return e.contents[string(digest)] }

// check reports a broken rule with the story that led there.
func (e *explorer) check(ok bool, format string, args ...any) bool {
	if !ok && !e.broken {
		e.broken = true
		e.t.Errorf(format, args...)
	}
	return ok
}

// start makes the first world: one job whose first run is due.
func (e *explorer) start(b budget) world {
	ctx := context.Background()
	db := e.db.db
	for i := range 2 {
		code := access.Code{ID: connName(i), Expires: e.db.now.Add(time.Hour)}
		must(e.t, db.InsertCode(ctx, code))
		_, err := db.RedeemCode(ctx, code.ID, func(c *access.Code, _ bool, now time.Time) *catalog.Connector {
			return &catalog.Connector{ID: connName(i), AssociatedOn: now, LastSeen: now}
		})
		must(e.t, err)
		must(e.t, db.Announce(ctx, connName(i), catalog.Announcement{Sources: []catalog.Source{{ID: "vc"}}}))
	}
	must(e.t, db.SaveInventory(ctx, connName(0), catalog.Report{Source: "vc", Servers: []catalog.Server{
		{VM: "vm", Name: "web", Disks: []catalog.Disk{{ID: diskName(0)}, {ID: diskName(1)}}},
	}}))
	job, err := e.db.service.Create(ctx, replication.NewJob{Server: catalog.ServerID("vc", "vm"), Frequency: 24 * time.Hour})
	must(e.t, err)
	must(e.t, e.db.service.Schedule(ctx))
	later := e.db.now.Add(replication.MaxAhead)
	must(e.t, e.db.service.Update(ctx, job.ID, replication.JobChange{NextRun: &later}))
	return world{
		db: e.db.save(), staging: map[string]string{},
		expiries: b.expiries, crashes: b.crashes, losses: b.losses, runs: b.runs,
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a world to go on from, and how it was reached.
type node struct {
	world  world
	parent int
	event  string
}

func (e *explorer) explore(b budget) {
	start := e.start(b)
	nodes := []node{{world: start, parent: -1}}
	seen := map[[2]uint64]bool{start.key(): true}
	calm := map[[2]uint64]bool{}
	for i := 0; i < len(nodes); i++ {
		w := nodes[i].world
		e.drain(w, calm)
		for event, after := range e.events(w) {
			for _, next := range after {
				if k := next.key(); !seen[k] {
					seen[k] = true
					nodes = append(nodes, node{next, i, event})
				}
			}
			if e.broken {
				e.story(nodes, i, event)
				return
			}
		}
		if e.broken {
			e.story(nodes, i, "from here in good order")
			return
		}
		nodes[i].world = world{} // its memory can go
	}
	if e.landings == 0 {
		e.t.Error("nothing ever landed: the model shows nothing")
	}
	e.t.Logf("%d worlds, %d states of the rows, %d calls to the service", len(nodes), len(e.db.states), e.db.real)
}

func (e *explorer) story(nodes []node, i int, last string) {
	events := []string{last}
	for ; i >= 0; i = nodes[i].parent {
		events = append(events, nodes[i].event)
	}
	slices.Reverse(events)
	for n, event := range events {
		e.t.Logf("%3d %s", n, event)
	}
}

// events returns everything that can happen next. Of two actors that are idle
// only the first one acts: what the second would do is the same but for its name.
func (e *explorer) events(w world) map[string][]world {
	events := map[string][]world{}
	for i, c := range w.conns {
		if i == 1 && c.pc == "" && w.conns[0].pc == "" {
			continue
		}
		events[fmt.Sprintf("connector %d: %s of epoch %d", i, c.pc, c.epoch)] = e.connector(w, i)
		if c.pc != "" && w.crashes > 0 {
			dead := w
			dead.crashes--
			dead.conns[i] = modelConn{}
			events[fmt.Sprintf("connector %d dies", i)] = []world{dead}
		}
	}
	for i, b := range w.builds {
		if i == 1 && b.pc == "" && w.builds[0].pc == "" {
			continue
		}
		events[fmt.Sprintf("reconciler %d: %s", i, b.pc)] = e.builder(w, i)
		if b.pc != "" && w.crashes > 0 {
			dead := w
			dead.crashes--
			dead.builds[i] = modelBuild{}
			events[fmt.Sprintf("reconciler %d dies", i)] = []world{dead}
		}
	}
	if w.expiries > 0 && e.leased(w) {
		late := e.wait(w)
		late.expiries--
		events["leases end"] = []world{late}
	}
	if w.losses > 0 {
		for _, s := range w.source {
			lost := w.drop(s.id)
			lost.losses--
			events["the source loses "+s.id] = []world{lost}
		}
	}
	if len(w.source) > 0 {
		events["the janitor comes"] = []world{e.janitor(w)}
	}
	if row := e.db.states[w.db].row; w.runs > 0 && !row.Phase.Active() {
		events["another run is started"] = []world{e.another(w)}
	}
	return events
}

// leased reports whether somebody holds the run.
func (e *explorer) leased(w world) bool {
	s := e.db.states[w.db]
	return s.row.Owner != "" && s.row.LeaseUntil.After(s.now)
}

// wait lets an hour pass: every lease ends, every pause is over.
func (e *explorer) wait(w world) world {
	o := e.db.call(w.db, "wait", func() (any, error) {
		e.db.now = e.db.now.Add(time.Hour)
		return nil, nil
	})
	w.db = o.state
	return w
}

func (e *explorer) another(w world) world {
	o := e.db.call(w.db, "another", func() (any, error) {
		_, err := e.db.service.StartOnDemand(context.Background(), e.db.states[w.db].row.Job, "")
		return nil, err
	})
	must(e.t, o.err)
	w.db = o.state
	w.runs--
	return w
}

// janitor removes the snapshots that are judged dead; never one a run still needs.
func (e *explorer) janitor(w world) world {
	row := e.db.states[w.db].row
	for _, s := range slices.Clone(w.source) {
		o := e.db.call(w.db, fmt.Sprintf("judge %v", s), func() (any, error) {
			dead, _, err := e.db.service.Judge(context.Background(), []replication.Snapshot{{Run: s.run, ID: s.id}}, nil)
			return len(dead) > 0, err
		})
		must(e.t, o.err)
		if o.result == true {
			needed := row.Snapshot != nil && row.Snapshot.ID == s.id && (row.Phase == replication.Transferring || row.Phase == replication.Settling)
			e.check(!needed, "the janitor removed snapshot %s, which run %s is read from", s.id, row.ID)
			w = w.drop(s.id)
		}
	}
	return w
}

// drain checks that from any world a run comes to its end, with no snapshot
// left behind, when everybody dies once more and work goes on in good order.
func (e *explorer) drain(w world, calm map[[2]uint64]bool) {
	w.conns, w.builds = [2]modelConn{}, [2]modelBuild{}
	w.expiries, w.crashes, w.losses, w.runs = 0, 0, 0, 0
	w = e.wait(w)
	var passed [][2]uint64
	for range drained {
		k := w.key()
		if calm[k] {
			break
		}
		passed = append(passed, k)
		if row := e.db.states[w.db].row; !row.Phase.Active() {
			w = e.janitor(w)
			e.check(len(w.source) == 0, "run %s is %s and its snapshots %v stay", row.ID, row.Phase, w.source)
			break
		}
		w = e.connector(w, 0)[0]
		if w.conns[0].pc == "" {
			w = e.builder(w, 0)[0]
		}
	}
	row := e.db.states[w.db].row
	e.check(!row.Phase.Active() || calm[w.key()], "run %s does not come to its end: %s, owner %q", row.ID, row.Phase, row.Owner)
	for _, k := range passed {
		calm[k] = true
	}
}
