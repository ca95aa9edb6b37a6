package try

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestWhateverGoesWrongEndsInTheStatedOutcome has every incident happen to a
// server of its own, all at once, in the run behind the first; the run behind
// that has to be what is stated too.
func TestWhateverGoesWrongEndsInTheStatedOutcome(t *testing.T) {
	t.Parallel()
	table := incidents()
	var servers []labSpec
	for n, i := range table {
		by := flat
		if len(i.by) > 0 {
			by = i.by[0]
		}
		servers = append(servers, labSpec{name: fmt.Sprintf("srv-%02d", n), by: by, disks: []int64{4 << 20}})
	}
	l := newLab(t, servers)
	l.begin()
	l.note("%d servers are replicated in full", len(servers))
	errs := l.together(func(n int, g *guest) error { return g.suffer(table[n], rand.New(rand.NewPCG(uint64(n), 1))) })
	l.note("the runs have ended")
	for n, i := range table {
		t.Run(i.name, func(t *testing.T) {
			if errs[n] != nil {
				t.Error(errs[n])
			}
		})
	}
	l.atRest()
}

// suffer has the incident happen, and then nothing.
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
	if err := g.calm(); err != nil || i.last {
		return err
	}
	if err := g.write(rng); err != nil {
		return err
	}
	if run, err = g.again(); err != nil {
		return fmt.Errorf("the run behind it: %w", err)
	}
	next := i.next
	if next == (outcome{}) {
		next = incremental
	}
	if err := next.check(run); err != nil {
		return fmt.Errorf("the run behind it: %w", err)
	}
	return nil
}
