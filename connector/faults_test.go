package connector_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"skylift/controlplane/replication"
	"skylift/hypervisor"
	"skylift/internal/problem"
)

// calls fails the nth call of a name, once.
type calls struct {
	mu   sync.Mutex
	name string
	left int
	hit  bool
	done chan struct{} // closed when hit
}

func (c *calls) arm(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.left, c.hit, c.done = name, n, false, make(chan struct{})
}

// await blocks while the call of that name is still to fail.
func (c *calls) await(ctx context.Context, name string) {
	c.mu.Lock()
	armed, done := c.name == name && !c.hit, c.done
	c.mu.Unlock()
	if !armed {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (c *calls) fails(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name != c.name || c.hit {
		return false
	}
	c.left--
	if c.hit = c.left == 0; c.hit {
		close(c.done)
	}
	return c.hit
}

func (c *calls) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hit
}

// rounds has one run of a server after the other, each with something to
// clear away beside it.
type rounds struct {
	*plane
	source       *vcenter
	guest, other *guest
	job          string
	n            int
}

func newRounds(t *testing.T, p *plane, v *vcenter) *rounds {
	r := &rounds{plane: p, source: v, guest: v.add("web-01", 2*mib, mib+512), other: v.add("other", mib)}
	r.job = p.job(t, r.guest).ID
	r.n = 1
	p.completed(t, v, r.job, 1)
	return r
}

// next does a run in which the call fails, and returns it with the source clean.
func (r *rounds) next(t *testing.T, made *calls, name string, n int) replication.Run {
	t.Helper()
	r.n++
	r.source.write(r.guest, 0, mib/4, 700)
	if _, _, err := r.source.take(hypervisor.RunID(fmt.Sprintf("sms-run-dead-%d", r.n)), r.other.server.ID); err != nil {
		t.Fatal(err)
	}
	made.arm(name, n)
	r.again(t, r.job)
	run := r.ended(t, r.job, r.n)
	r.clean(t, r.source)
	r.until(t, fmt.Sprintf("call %d of %s has failed", n, name), made.failed)
	r.source.mu.Lock()
	reads := r.source.reads
	r.source.mu.Unlock()
	if reads != 0 {
		t.Errorf("%d reads go on behind the end of the run", reads)
	}
	if run.Phase == replication.Completed {
		r.compare(t, r.source, run)
	}
	return run
}

func TestAFailingSourceCallEndsInAnExactImageOrAReason(t *testing.T) {
	t.Parallel()
	fatal := &problem.Kind{Code: "test-fatal", Title: "the platform broke", Hint: "Mend it"}
	p, v := newPlane(t, replication.Limits{OnDemandPerDay: 1000}), newVCenter()
	var made calls
	var failure error
	v.setFault(func(_ context.Context, op string) error {
		if made.fails(op) {
			return failure
		}
		return nil
	})
	p.start(t, v)
	r := newRounds(t, p, v)
	for _, c := range []struct {
		op    string
		calls int
		ends  bool // a lasting failure ends the run
	}{
		{"Snapshot", 1, true}, {"after Snapshot", 1, true}, {"Open", 1, true}, {"Changed", 2, true}, {"Read", 2, true},
		{"Verify", 2, true}, {"Close", 1, false}, {"Settle", 1, false}, {"after Settle", 1, false},
		{"Held", 2, false}, {"Remove", 1, false}, {"Release", 1, false},
	} {
		for n := range c.calls {
			failure = fmt.Errorf("the source stumbled in %s", c.op)
			if run := r.next(t, &made, c.op, n+1); run.Phase != replication.Completed {
				t.Errorf("a passing failure of %s %d: the run is %s: %s", c.op, n+1, run.Phase, run.Message)
			}
			failure = fatal.New(nil, "do %s", c.op)
			run := r.next(t, &made, c.op, n+1)
			if !c.ends && run.Phase != replication.Completed {
				t.Errorf("a lasting failure of %s %d: the run is %s: %s", c.op, n+1, run.Phase, run.Message)
			}
			if c.ends && (run.Phase != replication.Failed || !strings.Contains(run.Message, failure.Error()+". Mend it [test-fatal]")) {
				t.Errorf("a lasting failure of %s %d: the run is %s: %s", c.op, n+1, run.Phase, run.Message)
			}
		}
	}
}

// spoiled is a wire that fails calls.
func (c *calls) spoiled(answerLost bool) func(*http.Request, string) (bool, bool) {
	return func(_ *http.Request, procedure string) (bool, bool) {
		hit := c.fails(procedure)
		return hit && !answerLost, hit && answerLost
	}
}

func TestAFailingCallOfTheControlPlaneCostsNoAttempt(t *testing.T) {
	t.Parallel()
	// No lease runs out within the test: what got lost is sent again.
	p, v := newPlane(t, replication.Limits{OnDemandPerDay: 1000, Lease: 10 * patience, Attempts: 1}), newVCenter()
	var made calls
	// A run is over soon: it has to last until its lease was renewed.
	v.setFault(func(ctx context.Context, op string) error {
		if op == "Settle" {
			made.await(ctx, "Renew")
		}
		return nil
	})
	d := p.start(t, v)
	r := newRounds(t, p, v)
	for _, answerLost := range []bool{false, true} {
		d.wire.spoil(made.spoiled(answerLost))
		for _, c := range []struct {
			procedure string
			calls     int
		}{{"Renew", 2}, {"RecordSnapshot", 1}, {"Seal", 1}, {"Finish", 1}, {"Judge", 2}} {
			for n := range c.calls {
				if run := r.next(t, &made, c.procedure, n+1); run.Phase != replication.Completed {
					t.Errorf("%s %d, the answer lost %t: the run is %s: %s", c.procedure, n+1, answerLost, run.Phase, run.Message)
				}
			}
		}
	}
}

func TestAConnectorStartsOverALinkThatLosesCalls(t *testing.T) {
	t.Parallel()
	p := newPlane(t, replication.Limits{})
	for i, c := range []struct {
		procedure  string
		answerLost bool
	}{{"Hello", false}, {"Hello", true}, {"Commands", false}, {"Commands", true}, {"ReportInventory", false}, {"ReportInventory", true}} {
		v := newVCenter()
		g := v.add(fmt.Sprintf("web-%d", i), mib)
		var made calls
		made.arm(c.procedure, 1)
		d := p.start(t, v)
		d.wire.spoil(made.spoiled(c.answerLost))
		p.completed(t, v, p.job(t, g).ID, 1)
		d.stop()
	}
}
