package try

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"skylift/internal/simulator/vcenter"
)

// crash is a step of a run at which daemons die, and which.
type crash struct {
	step string
	whom daemons
	is   func(g *guest) func(vcenter.Call) bool
}

// crashes are the steps of a run in their order; see the format's write order
// in docs/staging-format.md.
func crashes() []crash {
	connector, plane := daemons{connector: true}, daemons{controlPlane: true}
	// Calls of the vCenter about the guest, or the tasks they start.
	asking := func(method string, task bool) func(*guest) func(vcenter.Call) bool {
		return func(g *guest) func(vcenter.Call) bool {
			return func(c vcenter.Call) bool { return c.Method == method && c.Task == task && g.concerns(c) }
		}
	}
	// Requests to the storage about a kind of object; those that delete name none.
	storing := func(what string, nth int) func(*guest) func(vcenter.Call) bool {
		return func(g *guest) func(vcenter.Call) bool {
			seen := 0
			return func(c vcenter.Call) bool {
				if c.Method != what || c.Path != "" && !strings.Contains(c.Path, "/"+g.job+"/") {
					return false
				}
				seen++
				return seen == nth
			}
		}
	}
	behind := func(method string) func(*guest) func(vcenter.Call) bool {
		return func(g *guest) func(vcenter.Call) bool {
			first, then := asking(method, true)(g), false
			return func(c vcenter.Call) bool {
				if then {
					return !c.Task
				}
				then = first(c)
				return false
			}
		}
	}
	return []crash{
		{"before the snapshot", connector, asking("CreateSnapshot_Task", false)},
		{"while the snapshot is taken", connector, asking("CreateSnapshot_Task", true)},
		{"before the snapshot is recorded", connector, behind("CreateSnapshot_Task")},
		{"while changes are asked for", daemons{true, true}, asking("QueryChangedDiskAreas", false)},
		{"before the plan", connector, storing("PUT plan", 1)},
		{"at the first segment", connector, storing("PUT segment", 1)},
		{"behind the first segment", connector, storing("PUT segment", 2)},
		{"at the block map", connector, storing("PUT map", 1)},
		{"at the manifest", connector, storing("PUT manifest", 1)},
		{"when the manifest is read back", plane, storing("GET manifest", 2)},
		{"when the snapshot is to be removed", daemons{true, true}, asking("RemoveSnapshot_Task", false)},
		{"while the snapshot is removed", connector, asking("RemoveSnapshot_Task", true)},
		{"before the end is told", connector, behind("RemoveSnapshot_Task")},
		{"while the image is built", plane, storing("GET segment", 1)},
		{"while staging is purged", plane, storing("POST ", 1)},
	}
}

// TestACrashAtEachStepOfARunOnEachTransportCostsNothingButTime kills daemons in
// the run of one server, while those of the other transports run too; all of
// them end well. SKYLIFT_SOAK=1 has it go through all steps on all transports.
func TestACrashAtEachStepOfARunOnEachTransportCostsNothingButTime(t *testing.T) {
	t.Parallel()
	// Each disk makes a second segment where all of it is new.
	l := newLab(t, []labSpec{
		{name: "flat", by: flat, disks: []int64{12 << 20}},
		{name: "chain", by: chain, disks: []int64{12 << 20}},
		{name: "export", by: export, disks: []int64{12 << 20}},
		{name: "nbdkit", by: nbdkit, disks: []int64{12 << 20}},
	})
	l.begin()
	all := os.Getenv("SKYLIFT_SOAK") == "1"
	for n, c := range crashes() {
		for k, g := range l.guests {
			if !all && k != n%len(l.guests) || !all && n%3 != 0 {
				continue
			}
			t.Run(c.step+", "+string(g.by), func(t *testing.T) { l.crash(t, c, g, uint64(n*10+k)) })
		}
	}
	l.atRest()
}

func (l *lab) crash(t *testing.T, c crash, victim *guest, seed uint64) {
	held := l.trap.arm(c.is(victim))
	over, died := make(chan struct{}), make(chan error, 1)
	go func() {
		select {
		case <-held:
			died <- l.killed(c.whom)
		case <-over:
			l.trap.release()
			died <- fmt.Errorf("the step never came")
		}
	}()
	began := time.Now()
	errs := l.together(func(n int, g *guest) error {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		for _, d := range g.vm.Disks() {
			if err := g.fill(rng, d); err != nil {
				return err
			}
		}
		run, err := g.again()
		if err != nil {
			return err
		}
		return errors.Join(incremental.check(run), g.asMeant(run))
	})
	close(over)
	if err := <-died; err != nil {
		t.Error(err)
	}
	for n, err := range errs {
		if err != nil {
			t.Errorf("%s: %v", l.guests[n].by, err)
		}
	}
	t.Logf("%.1f s", time.Since(began).Seconds())
}
