package vsphere

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skylift/hypervisor"
)

// storm makes rounds of requests, as many at once as the pacer lets through of
// n, each taking as long as latency says for the number at work.
func storm(t *testing.T, p *pacer, rounds, n int, latency func(busy int64) time.Duration) (most int64) {
	var busy, peak atomic.Int64
	for range rounds {
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				turn, err := p.take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer turn.done()
				at := busy.Add(1)
				defer busy.Add(-1)
				for {
					if seen := peak.Load(); at <= seen || peak.CompareAndSwap(seen, at) {
						break
					}
				}
				took := latency(at)
				if err := sleep(t.Context(), took); err != nil {
					t.Error(err)
				}
				turn.answered("vcenter", took)
			})
		}
		all.Wait()
		most = peak.Swap(0)
	}
	return most
}

func constant(d time.Duration) func(int64) time.Duration {
	return func(int64) time.Duration { return d }
}

func TestADatastoreThatAnswersLateIsAskedForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer("ssd", 16, 20*time.Millisecond)
		for _, step := range []struct {
			name    string
			latency time.Duration
			rounds  int
			want    int64 // requests at once in the last round
		}{
			{"quick", 2 * time.Millisecond, 4, 16},
			{"a little late", 20 * time.Millisecond, 4, 16},
			{"too late", 45 * time.Millisecond, 10, 1},
			{"quick again", 2 * time.Millisecond, 20, 16},
		} {
			if got := storm(t, p, step.rounds, 16, constant(step.latency)); got != step.want {
				t.Errorf("%s: %d requests at once, want %d", step.name, got, step.want)
			}
		}
	})
}

func TestTheNumberOfRequestsSettlesWhereTheStorageKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer("disks", 16, 20*time.Millisecond)
		// Ten milliseconds for each request at work: more than three are too many.
		queueing := func(busy int64) time.Duration { return time.Duration(busy) * 10 * time.Millisecond }
		storm(t, p, 20, 16, queueing)
		for range 20 {
			if got := storm(t, p, 1, 16, queueing); got < 2 || got > 8 {
				t.Errorf("%d requests at once", got)
			}
		}
	})
}

func TestAFarAwayDatastoreIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer("overseas", 16, 20*time.Millisecond)
		if got := storm(t, p, 30, 16, constant(250*time.Millisecond)); got != 16 {
			t.Errorf("%d requests at once", got)
		}
	})
}

// TestALongerWayIsLearned has the way become longer for good: that looks like
// a slow datastore until the shorter way is forgotten.
func TestALongerWayIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer("moved", 8, 20*time.Millisecond)
		storm(t, p, 4, 8, constant(time.Millisecond))
		if got := storm(t, p, 10, 8, constant(80*time.Millisecond)); got != 1 {
			t.Errorf("%d requests at once while the old way is remembered", got)
		}
		storm(t, p, int(2*pacerMemory/(8*80*time.Millisecond))+1, 8, constant(80*time.Millisecond))
		if got := storm(t, p, 20, 8, constant(80*time.Millisecond)); got != 8 {
			t.Errorf("%d requests at once after the old way is forgotten", got)
		}
	})
}

// TestEachServerHasItsOwnWay reads through vCenter after the host was near.
func TestEachServerHasItsOwnWay(t *testing.T) {
	p := newPacer("ds", 4, 20*time.Millisecond)
	for i := range 4 * pacerSamples {
		turn, err := p.take(t.Context())
		must(t, err)
		if i%2 == 0 {
			turn.answered("esx-1", time.Millisecond)
		} else {
			turn.answered("vcenter", 60*time.Millisecond)
		}
		turn.done()
	}
	if p.allowed != 4 {
		t.Errorf("%d requests are allowed at once", p.allowed)
	}
}

func TestWhoWaitsForALateDatastoreSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer("san-2", 2, 20*time.Millisecond)
		storm(t, p, 10, 2, constant(5*time.Millisecond))
		storm(t, p, 10, 2, constant(50*time.Millisecond))
		turn, err := p.take(t.Context())
		must(t, err)
		var said []string
		over := 0
		ctx := hypervisor.WithWaits(t.Context(), func(what string) func() {
			said = append(said, what)
			return func() { over++ }
		})
		waited := make(chan error)
		go func() {
			next, err := p.take(ctx)
			if err == nil {
				next.done()
			}
			waited <- err
		}()
		synctest.Wait()
		if len(said) != 1 || !strings.Contains(said[0], `datastore "san-2" answers in 45ms, more than 20ms`) || over != 0 {
			t.Errorf("while it waits it says %q", said)
		}
		turn.done()
		must(t, <-waited)
		if over != 1 {
			t.Error("the wait is not over")
		}
	})
}

func TestACanceledWaitGivesItsPlaceAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer("ds", 1, 20*time.Millisecond)
		turn, err := p.take(t.Context())
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { _, err := p.take(ctx); ended <- err }()
		synctest.Wait()
		cancel()
		if <-ended == nil {
			t.Error("a pass was given to who had gone")
		}
		turn.done()
		next, err := p.take(t.Context())
		must(t, err)
		next.done()
		if p.used != 0 || len(p.queue) != 0 {
			t.Errorf("%d are at work and %d wait", p.used, len(p.queue))
		}
	})
}

// TestRequestsUnderWayDoNotCountAgainstAReduction has all answers late that
// were asked for at once: their number is halved once for it.
func TestRequestsUnderWayDoNotCountAgainstAReduction(t *testing.T) {
	p := newPacer("ds", 4*pacerSamples, 20*time.Millisecond)
	var turns []pass
	for range 4 * pacerSamples {
		turn, err := p.take(t.Context())
		must(t, err)
		turns = append(turns, turn)
	}
	turns[0].answered("vcenter", time.Millisecond)
	for _, turn := range turns[1:] {
		turn.answered("vcenter", time.Second)
		turn.done()
	}
	if p.allowed != 2*pacerSamples {
		t.Errorf("%d requests are allowed at once", p.allowed)
	}
}

// TestAPassThatComesTooLateIsGivenBack ends a wait in the moment of its success.
func TestAPassThatComesTooLateIsGivenBack(t *testing.T) {
	p := newPacer("ds", 1, 20*time.Millisecond)
	turn := make(chan struct{})
	p.queue = append(p.queue, turn)
	p.admit()
	p.leave(turn)
	if p.used != 0 {
		t.Errorf("%d are at work", p.used)
	}
}

// TestTheFirstByteDecidesHowLateADatastoreIs has quick first bytes of slow
// answers, which is the network's matter, and then slow first bytes.
func TestTheFirstByteDecidesHowLateADatastoreIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var before, after atomic.Int64
		f := &folder{content: randomBytes(2 * block)}
		f.odd = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			_ = sleep(r.Context(), time.Duration(before.Load()))
			w.Header().Set("Content-Range", "bytes 0-1048575/1048576")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(f.content[:block])
			_ = http.NewResponseController(w).Flush()
			_ = sleep(r.Context(), time.Duration(after.Load()))
			_, _ = w.Write(f.content[block:])
			return true
		}
		d := frozenDisk(t, f, Limits{})
		p := d.way.(*chainWay).files[0].pacer
		reads := func(n int) {
			for range n {
				if _, err := read(t.Context(), d, hypervisor.Extent{Length: 2 * block}); err != nil {
					t.Fatal(err)
				}
			}
		}
		after.Store(int64(time.Second))
		reads(2 * pacerSamples)
		if p.allowed != p.most {
			t.Errorf("%d requests are allowed at once after slow answers", p.allowed)
		}
		before.Store(int64(30 * time.Millisecond))
		reads(2 * pacerSamples)
		if p.allowed >= p.most || p.lateness != 30*time.Millisecond {
			t.Errorf("%d requests are allowed at once after late answers, %s late", p.allowed, p.lateness)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
