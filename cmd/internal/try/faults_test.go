package try

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// laneLength is how many incidents one server meets.
const laneLength = 3

// lane is what one server meets, one after the other.
type lane struct {
	labSpec
	incidents []incident
	errs      []error
}

// lanes share the incidents out among as few servers as need be.
func lanes() (out []*lane) {
	open := map[transport]*lane{}
	for _, i := range incidents() {
		by := flat
		if len(i.by) > 0 {
			by = i.by[0]
		}
		l := open[by]
		if l == nil || len(l.incidents) == laneLength {
			l = &lane{labSpec: labSpec{name: fmt.Sprintf("srv-%02d", len(out)), by: by, disks: []int64{4 << 20}}}
			open[by], out = l, append(out, l)
		}
		if l.incidents = append(l.incidents, i); i.last {
			open[by] = nil
		}
	}
	return out
}

// TestWhateverGoesWrongEndsInTheStatedOutcome has every incident happen in a
// run behind the first, to several servers at once, and holds the run to what
// is stated; the run behind one that failed has to be right too.
func TestWhateverGoesWrongEndsInTheStatedOutcome(t *testing.T) {
	t.Parallel()
	all := lanes()
	var servers []labSpec
	for _, lane := range all {
		servers = append(servers, lane.labSpec)
	}
	l := newLab(t, servers)
	l.begin()
	l.note("%d servers are replicated in full", len(servers))
	l.each(func(n int, g *guest) error {
		for k, i := range all[n].incidents {
			err := g.suffer(i, rand.New(rand.NewPCG(uint64(n), uint64(k))))
			all[n].errs = append(all[n].errs, err)
			if err != nil {
				break // what comes next would meet another server than it expects
			}
		}
		return nil
	})
	l.note("the runs have ended")
	for _, lane := range all {
		for k, i := range lane.incidents {
			t.Run(i.name, func(t *testing.T) {
				switch {
				case k >= len(lane.errs):
					t.Skip("an incident before it was not survived")
				case lane.errs[k] != nil:
					t.Error(lane.errs[k])
				}
			})
		}
	}
	l.atRest()
}

// suffer has the incident happen, and then nothing where that has to be shown.
func (g *guest) suffer(i incident, rng *rand.Rand) error {
	if err := g.write(rng); err != nil {
		return err
	}
	if err := i.strike(g, rng); err != nil {
		return fmt.Errorf("it could not be made to happen: %w", err)
	}
	run, err := g.again()
	if err != nil {
		return err
	}
	if err := i.want.check(run); err != nil {
		return err
	}
	if told := strings.Join(reasons(run), " "); !strings.Contains(told, i.why) {
		return fmt.Errorf("the run does not say %q: %s", i.why, told)
	}
	if err := g.calm(); err != nil {
		return err
	}
	next := i.next
	if next == (outcome{}) {
		next = incremental
		if i.last || run.State == "COMPLETED" {
			return nil
		}
	}
	if err := g.write(rng); err != nil {
		return err
	}
	if run, err = g.again(); err != nil {
		return fmt.Errorf("the run behind it: %w", err)
	}
	if err := next.check(run); err != nil {
		return fmt.Errorf("the run behind it: %w", err)
	}
	return nil
}
