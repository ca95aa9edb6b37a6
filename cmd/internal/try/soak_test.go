package try

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"skylift/internal/simulator/s3"
	"skylift/internal/simulator/vcenter"
)

// soakServers are read in all ways, some with several disks.
func soakServers() []labSpec {
	return []labSpec{
		{name: "flat-1", by: flat, disks: []int64{6 << 20}},
		{name: "flat-2", by: flat, disks: []int64{3<<20 + 512, 2 << 20}},
		{name: "chain-1", by: chain, disks: []int64{5 << 20}},
		{name: "chain-2", by: chain, disks: []int64{4 << 20, 3 << 20}, cowd: true},
		{name: "export-1", by: export, disks: []int64{5 << 20}},
		{name: "export-2", by: export, disks: []int64{20 << 20, 1 << 20}},
		{name: "nbdkit-1", by: nbdkit, disks: []int64{6 << 20}},
		{name: "nbdkit-2", by: nbdkit, disks: []int64{2 << 20, 4<<20 + 4096}},
	}
}

// soakRounds is how many runs of each server a lab lives for, soakLabs how many
// labs there are at once: killed daemons cost time, and little else.
const (
	soakRounds = 12
	soakLabs   = 4
)

// figures is what a soak came to.
type figures struct {
	mu       sync.Mutex
	runs     int
	outcomes map[string]int
	told     map[string]int // faults, kills and comparisons of the labs
}

func (f *figures) enough(runs int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs >= runs
}

func (f *figures) count(o outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs++
	f.outcomes[o.String()]++
}

func (f *figures) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d runs: %s; %s", f.runs, counted(f.outcomes), counted(f.told))
}

// TestSoak has random runs of one seed, or as many as SKYLIFT_SOAK_RUNS says
// from SKYLIFT_SOAK_SEED on. A seed is a lab of its own: what happens to a
// server in it, and at which call or request daemons are killed, follows from
// the seed alone.
func TestSoak(t *testing.T) {
	t.Parallel()
	number := func(name string, otherwise uint64) uint64 {
		n, err := strconv.ParseUint(os.Getenv(name), 10, 64)
		if err != nil {
			return otherwise
		}
		return n
	}
	runs, rounds, labs := int(number("SKYLIFT_SOAK_RUNS", 0)), soakRounds, soakLabs
	if runs == 0 {
		runs, rounds, labs = 1, 2, 1
	}
	sum := &figures{outcomes: map[string]int{}, told: map[string]int{}}
	began := time.Now()
	var seed, failed atomic.Uint64
	seed.Store(number("SKYLIFT_SOAK_SEED", 1) - 1)
	var working sync.WaitGroup
	for range labs {
		working.Go(func() {
			for !sum.enough(runs) && failed.Load() == 0 {
				n := seed.Add(1)
				if !t.Run(fmt.Sprintf("seed %d", n), func(t *testing.T) { soak(t, n, rounds, sum) }) {
					failed.Store(n)
				}
				t.Logf("%s, in %.0f s", sum, time.Since(began).Seconds())
			}
		})
	}
	working.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("it can be had again with: make soak SEED=%d RUNS=1", n)
	}
}

func counted(m map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%d %s", m[k], k))
	}
	return strings.Join(out, ", ")
}

// soak is one lab's life.
func soak(t *testing.T, seed uint64, rounds int, sum *figures) {
	l := newLab(t, soakServers())
	l.begin()
	for range l.guests {
		sum.count(completed("full"))
	}
	for round := range rounds {
		dice := rand.New(rand.NewPCG(seed, uint64(round)))
		stop := l.killSomebody(dice)
		errs := l.together(func(n int, g *guest) error {
			got, err := g.endure(rand.New(rand.NewPCG(seed, uint64(1000*(n+1)+round))))
			sum.count(got)
			return err
		})
		stop()
		if err := errors.Join(errs...); err != nil {
			l.Fatalf("round %d: %v", round, err)
		}
		l.note("round %d", round)
	}
	l.atRest()
	l.mu.Lock()
	defer l.mu.Unlock()
	sum.mu.Lock()
	defer sum.mu.Unlock()
	for k, n := range l.count {
		sum.told[k] += n
	}
}

// endure is one run in which something may go wrong, or several things.
func (g *guest) endure(dice *rand.Rand) (outcome, error) {
	var suffered []string
	fail := func(err error) (outcome, error) {
		return outcome{}, fmt.Errorf("%s, with %q: %w", g.name, suffered, err)
	}
	if err := g.write(dice); err != nil {
		return fail(err)
	}
	g.disorder(dice)
	if dice.IntN(4) > 0 {
		fitting := slices.DeleteFunc(incidents(), func(i incident) bool { return i.last || !i.fits(g.by) })
		i := fitting[dice.IntN(len(fitting))]
		suffered = append(suffered, i.name)
		if err := i.strike(g, dice); err != nil {
			return fail(err)
		}
		g.lab.tell("incidents")
	}
	run, err := g.again()
	if err = errors.Join(err, g.calm()); err != nil {
		return fail(err)
	}
	return of(run), nil
}

// disorder delays what the run asks for now and then, so that it arrives in
// another order.
func (g *guest) disorder(dice *rand.Rand) {
	script, err := vcenter.ParseScript(fmt.Sprintf("* @every %d: latency %dms\nGET /folder @every %d: latency %dms",
		2+dice.IntN(9), 1+dice.IntN(60), 1+dice.IntN(4), 1+dice.IntN(80)))
	g.lab.stray(err)
	every, wait := int64(1+dice.IntN(5)), time.Duration(1+dice.IntN(60))*time.Millisecond
	g.onCall(script)
	g.onRequest(func(r s3.Request) s3.Fault {
		if r.N%every == 0 {
			return s3.Fault{Wait: wait}
		}
		return s3.Fault{}
	})
}

// killSomebody kills a daemon, or both, in two rounds of three: at the call or
// request of the number that the dice tell. The returned function ends the
// waiting for it.
func (l *lab) killSomebody(dice *rand.Rand) (stop func()) {
	at, whom := dice.IntN(250), []daemons{{connector: true}, {connector: true}, {controlPlane: true}, {true, true}}[dice.IntN(4)]
	if dice.IntN(3) == 0 {
		return func() {}
	}
	held := l.trap.arm(func(c vcenter.Call) bool { at--; return at < 0 })
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-held:
			l.note("killing the %s", whom)
			if err := l.killed(whom); err != nil {
				l.stray(err)
			}
		case <-over:
			l.trap.release()
		}
	}()
	return func() { close(over); <-done }
}
