package connector

import (
	"context"
	"sync"

	linkv1 "skylift/link/linkv1"
)

// runSet holds the runs under way: one of each, the one with the newest lease.
type runSet struct {
	mu   sync.Mutex
	runs map[string]*running
	all  sync.WaitGroup
}

type running struct {
	epoch  int64
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func newRunSet() *runSet { return &runSet{runs: map[string]*running{}} }

// start runs work in a goroutine of its own. Work on the same run under an
// older lease is stopped first, with errLeaseLost; a repeated or older command
// is ignored.
func (s *runSet) start(ctx context.Context, lease *linkv1.Lease, work func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older := s.runs[lease.Run]
	if older != nil && older.epoch >= lease.Epoch {
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r := &running{epoch: lease.Epoch, cancel: cancel, done: make(chan struct{})}
	s.runs[lease.Run] = r
	s.all.Go(func() {
		defer close(r.done)
		defer cancel(nil)
		if older != nil {
			older.cancel(errLeaseLost)
			<-older.done
		}
		work(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.runs[lease.Run] == r {
			delete(s.runs, lease.Run)
		}
	})
}

// has reports whether a run is under way here.
func (s *runSet) has(run string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[run] != nil
}

// stop ends the work on a run that is under way here, with cause.
func (s *runSet) stop(run string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.runs[run]; r != nil {
		r.cancel(cause)
	}
}

func (s *runSet) wait() { s.all.Wait() }
