package connector

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"skylift/hypervisor"
)

// shares deals out what several runs use at once on one source. Who wants
// several shares gets all of them or none, so that nobody holds one while
// waiting for another, and nobody is overtaken for ever: those that came later
// pass only where they take nothing that an earlier one waits for.
type shares struct {
	mu      sync.Mutex
	used    map[shareKey]int
	waiting []*waiter // in the order in which they came
}

type shareKey struct{ kind, name, of string }

func keyOf(s hypervisor.Share) shareKey { return shareKey{s.Kind, s.Name, s.Of} }

type waiter struct {
	wants   []hypervisor.Share
	granted chan struct{}
}

func newShares() *shares { return &shares{used: map[shareKey]int{}} }

// take waits for one part of every share; leave gives them back. What it waits
// for is told to whoever responsible for ctx wants to know.
func (s *shares) take(ctx context.Context, wants ...hypervisor.Share) (leave func(), err error) {
	w := &waiter{wants: distinct(wants), granted: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.grant()
	reason := s.reason(w)
	s.mu.Unlock()
	if reason != "" {
		defer hypervisor.Waiting(ctx, reason)()
	}
	select {
	case <-w.granted:
		return func() { s.giveBack(w.wants) }, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.waiting, w)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		s.grant()
	}
	s.mu.Unlock()
	if i < 0 { // granted in the same moment
		s.giveBack(w.wants)
	}
	return nil, ctx.Err()
}

// join takes a part of every share whether or not one is left: for what exists
// already, and has to be counted.
func (s *shares) join(has ...hypervisor.Share) (leave func()) {
	has = distinct(has)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range has {
		s.used[keyOf(h)]++
	}
	return func() { s.giveBack(has) }
}

func (s *shares) giveBack(wants []hypervisor.Share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range wants {
		k := keyOf(w)
		if s.used[k]--; s.used[k] == 0 {
			delete(s.used, k)
		}
	}
	s.grant()
}

// grant lets those in who can be, the earliest first. The caller holds mu.
func (s *shares) grant() {
	wanted := map[shareKey]int{} // by earlier ones, who go on waiting
	s.waiting = slices.DeleteFunc(s.waiting, func(w *waiter) bool {
		free := !slices.ContainsFunc(w.wants, func(h hypervisor.Share) bool {
			k := keyOf(h)
			return s.used[k]+wanted[k] >= max(h.Limit, 1)
		})
		for _, h := range w.wants {
			if free {
				s.used[keyOf(h)]++
			} else {
				wanted[keyOf(h)]++
			}
		}
		if free {
			close(w.granted)
		}
		return free
	})
}

// reason says what w waits for; nothing when it does not wait. The caller
// holds mu.
func (s *shares) reason(w *waiter) string {
	if !slices.Contains(s.waiting, w) {
		return ""
	}
	for _, h := range w.wants {
		if limit := max(h.Limit, 1); s.used[keyOf(h)] >= limit {
			return fmt.Sprintf("%s %s has %d of %d %s", h.Kind, h.Name, s.used[keyOf(h)], limit, h.Of)
		}
	}
	return fmt.Sprintf("%s %s is kept for runs that came earlier", w.wants[0].Kind, w.wants[0].Name)
}

// distinct drops shares that are named twice: one user takes one part of each.
func distinct(wants []hypervisor.Share) (out []hypervisor.Share) {
	seen := map[shareKey]bool{}
	for _, w := range wants {
		if !seen[keyOf(w)] {
			seen[keyOf(w)] = true
			out = append(out, w)
		}
	}
	return out
}
