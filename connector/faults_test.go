package connector_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/replication"
	"skylift/internal/problem"
)

// calls counts calls by name, and says when it is the turn of one of them.
type calls struct {
	mu   sync.Mutex
	made map[string]int
}

// turn counts a call, and reports whether it is the nth of that name.
func (c *calls) turn(name, wanted string, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made = map[string]int{}
	}
	c.made[name]++
	return name == wanted && c.made[name] == n
}

// fault is one failing call of a scenario.
type fault struct {
	name string
	n    int
}

func (f fault) String() string { return fmt.Sprintf("%s %d", f.name, f.n) }

// scenario does a full and an incremental run, and looks at the end.
func scenario(t *testing.T, p *plane, v *vcenter, start func() *daemon, end func(run replication.Run) bool) {
	g := v.add("web-01", 3*mib, mib+512)
	d := start()
	job := p.job(t, g)
	n := 1
	for completed := 0; completed < 2; n++ {
		if n > 1 {
			v.write(g, 0, 2*mib, 700)
			p.again(t, job.ID)
		}
		run := p.ended(t, job.ID, n)
		if run.Phase == replication.Completed {
			p.compare(t, v, run)
			completed++
		} else if !end(run) {
			t.Fatalf("run %d is %s: %s", n, run.Phase, run.Message)
		}
	}
	p.clean(t, v)
	d.stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reads != 0 {
		t.Errorf("%d reads go on behind the end", v.reads)
	}
}

func never(replication.Run) bool { return false }

// fatal is a problem that does not pass.
var fatal = &problem.Kind{Code: "test-fatal", Title: "the platform broke", Hint: "Mend it"}

func TestAFailingSourceCallEndsInAnExactImageOrAReason(t *testing.T) {
	t.Parallel()
	var faults []fault
	for name, n := range map[string]int{
		"Watch": 1, "after Watch": 1, "Watch event": 1, "Held": 3, "Snapshot": 2, "after Snapshot": 2, "Open": 2, "Changed": 4,
		"Read": 6, "Verify": 4, "Close": 2, "Settle": 2, "after Settle": 2, "Remove": 1, "Release": 1,
	} {
		for i := range n {
			faults = append(faults, fault{name, i + 1})
		}
	}
	for _, f := range faults {
		for _, lasting := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s lasting %t", f, lasting), func(t *testing.T) {
				t.Parallel()
				p, v := newPlane(t, replication.Limits{}), newVCenter()
				err := fmt.Errorf("the source stumbled in %s", f.name)
				if lasting {
					err = fatal.New(nil, "do %s", f.name)
				}
				var made calls
				v.setFault(func(_ context.Context, op string) error {
					if made.turn(op, f.name, f.n) {
						return err
					}
					return nil
				})
				scenario(t, p, v, func() *daemon { return p.start(t, v) }, func(run replication.Run) bool {
					return lasting && run.Phase == replication.Failed && strings.Contains(run.Message, err.Error()) && strings.Contains(run.Message, fatal.Hint)
				})
			})
		}
	}
}

func TestAFailingLinkCallEndsInAnExactImage(t *testing.T) {
	t.Parallel()
	var faults []fault
	for name, n := range map[string]int{
		"Hello": 1, "Commands": 1, "ReportInventory": 1, "Judge": 3, "Renew": 3, "RecordSnapshot": 2, "Seal": 2, "Finish": 2,
	} {
		for i := range n {
			faults = append(faults, fault{name, i + 1})
		}
	}
	for _, f := range faults {
		for _, answerLost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the answer %t", f, answerLost), func(t *testing.T) {
				t.Parallel()
				p, v := newPlane(t, replication.Limits{}), newVCenter()
				var made calls
				began := time.Now()
				scenario(t, p, v, func() *daemon {
					d := p.start(t, v)
					d.wire.spoil(func(_ *http.Request, procedure string) (bool, bool) {
						hit := made.turn(procedure, f.name, f.n)
						return hit && !answerLost, hit && answerLost
					})
					return d
				}, never)
				if limit := 10 * time.Second; f.name != "Commands" && time.Since(began) > 4*limit {
					t.Errorf("it took %s: a lease had to run out", time.Since(began))
				}
			})
		}
	}
}
