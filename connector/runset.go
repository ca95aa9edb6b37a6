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
	cancel context.CancelFunc
	done   chan struct{}
}

func newRunSet() *runSet { return &runSet{runs: map[string]*running{}} }

// start runs work in a goroutine of its own. Work on the same run under an
// older lease is stopped first; a repeated or older command is ignored.
func (s *runSet) start(ctx context.Context, lease *linkv1.Lease, work func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older := s.runs[lease.Run]
	if older != nil && older.epoch >= lease.Epoch {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &running{epoch: lease.Epoch, cancel: cancel, done: make(chan struct{})}
	s.runs[lease.Run] = r
	s.all.Go(func() {
		defer close(r.done)
		defer cancel()
		if older != nil {
			older.cancel()
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

func (s *runSet) wait() { s.all.Wait() }
