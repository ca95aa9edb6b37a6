package vsphere

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"skylift/hypervisor"
)

const (
	// pacerSamples is how many answers are judged together: the median of
	// fewer would follow single slow ones.
	pacerSamples = 8
	// pacerMemory is how long, at least, the quickest answer is remembered.
	// A way to the datastore that has become longer is known for what it is
	// after twice that.
	pacerMemory = 5 * time.Minute
)

// pacer bounds how many requests a datastore is given at once. Answers whose
// first byte comes much later than the quickest one mean that the storage
// cannot keep up: then half as many are allowed, and one more again for every
// few that come in time. The quickest answer stands for the way there, so that
// a datastore is not spared for being far away.
type pacer struct {
	name string        // of the datastore, for people
	most int           // requests at once
	late time.Duration // more than that over the quickest is too late

	mu       sync.Mutex
	allowed  int
	used     int
	queue    []chan struct{} // who waits, the first in front
	epoch    int             // counts reductions
	samples  []time.Duration // over the quickest, since the last judgment
	lateness time.Duration   // by the last judgment
	quickest map[string]*quickest
}

// quickest is the shortest time to the first byte of one server's answers, in
// this period and in the one before.
type quickest struct {
	now, before time.Duration
	since       time.Time
}

// pacer returns the one of a datastore; nil where the back-off is switched off.
func (s *Source) pacer(r ref, name string) *pacer {
	if s.limits.Latency < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pacers[r]
	if p == nil {
		p = newPacer(name, s.limits.Connections, s.limits.Latency)
		s.pacers[r] = p
	}
	return p
}

func newPacer(name string, most int, late time.Duration) *pacer {
	return &pacer{name: name, most: most, late: late, allowed: most, quickest: map[string]*quickest{}}
}

// pass is the right to make one request.
type pass struct {
	pacer *pacer
	epoch int // that the request was made in
}

// take waits for a pass and says so, where it has to wait because answers are
// late. The pass is given back by its done.
func (p *pacer) take(ctx context.Context) (pass, error) {
	if p == nil {
		return pass{}, nil
	}
	p.mu.Lock()
	if p.used < p.allowed && len(p.queue) == 0 {
		p.used++
		epoch := p.epoch
		p.mu.Unlock()
		return pass{p, epoch}, nil
	}
	turn := make(chan struct{})
	p.queue = append(p.queue, turn)
	why := ""
	if p.allowed < p.most {
		why = fmt.Sprintf("datastore %q answers in %s, more than %s: fewer reads at a time", p.name, p.lateness.Round(time.Millisecond), p.late)
	}
	p.mu.Unlock()
	if why != "" {
		defer hypervisor.Waiting(ctx, why)()
	}
	select {
	case <-turn:
	case <-ctx.Done():
		p.leave(turn)
		return pass{}, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return pass{p, p.epoch}, nil
}

// leave gives up a place in the queue, or the pass that came in that moment.
func (p *pacer) leave(turn chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, turn); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		return
	}
	p.used--
	p.admit()
}

func (g pass) done() {
	if g.pacer == nil {
		return
	}
	g.pacer.mu.Lock()
	defer g.pacer.mu.Unlock()
	g.pacer.used--
	g.pacer.admit()
}

// admit lets the first ones in the queue go. The caller holds mu.
func (p *pacer) admit() {
	for p.used < p.allowed && len(p.queue) > 0 {
		close(p.queue[0])
		p.queue = p.queue[1:]
		p.used++
	}
}

// answered tells how long the first byte of the pass's answer took to come
// from the server. Requests that were made before the last reduction tell
// nothing about its success.
func (g pass) answered(server string, took time.Duration) {
	p := g.pacer
	if p == nil || took < 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	lateness := took - p.lowest(server, took)
	if g.epoch != p.epoch {
		return
	}
	if p.samples = append(p.samples, lateness); len(p.samples) < pacerSamples {
		return
	}
	slices.Sort(p.samples)
	p.lateness = p.samples[len(p.samples)/2]
	p.samples = p.samples[:0]
	if p.lateness > p.late {
		p.allowed = max(1, p.allowed/2)
		p.epoch++
		return
	}
	p.allowed = min(p.allowed+1, p.most)
	p.admit()
}

// lowest is the quickest answer of the server, this one included.
func (p *pacer) lowest(server string, took time.Duration) time.Duration {
	now := time.Now()
	q := p.quickest[server]
	switch {
	case q == nil:
		q = &quickest{now: took, before: took, since: now}
		p.quickest[server] = q
	case now.Sub(q.since) >= 2*pacerMemory: // nobody has asked for long
		q.now, q.before, q.since = took, took, now
	case now.Sub(q.since) >= pacerMemory:
		q.now, q.before, q.since = took, q.now, now
	}
	q.now = min(q.now, took)
	return min(q.now, q.before)
}
