package vcenter

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Latency is what passes before the first byte of an answer.
type Latency struct {
	File time.Duration // of a file's answer
	Call time.Duration // of a SOAP call's
}

// slowness is what can change while the simulator runs.
type slowness struct {
	mu sync.Mutex
	Latency
	stores map[string]time.Duration // what a datastore adds
}

// SetLatency replaces Config.Latency from now on: what passes before the first
// byte of each file's answer, and of each SOAP call's.
func (s *Server) SetLatency(file, call time.Duration) {
	s.slowness.mu.Lock()
	defer s.slowness.mu.Unlock()
	s.slowness.Latency = Latency{file, call}
}

// SetDatastoreLatency makes the files of one datastore slower than others by
// so much.
func (s *Server) SetDatastoreLatency(name string, d time.Duration) error {
	if s.places.datastores[name] == nil {
		return fmt.Errorf("there is no datastore %q", name)
	}
	s.slowness.mu.Lock()
	defer s.slowness.mu.Unlock()
	stores := maps.Clone(s.slowness.stores)
	if stores == nil {
		stores = map[string]time.Duration{}
	}
	stores[name] = d
	s.slowness.stores = stores
	return nil
}

func (s *Server) callLatency() time.Duration {
	s.slowness.mu.Lock()
	defer s.slowness.mu.Unlock()
	return s.slowness.Call
}

func (s *Server) fileLatency(store string) time.Duration {
	s.slowness.mu.Lock()
	defer s.slowness.mu.Unlock()
	return s.slowness.File + s.slowness.stores[store]
}

// pause lets time pass, and is false when the client went away or the simulator
// closes before that.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-s.closing:
	}
	return false
}

// takeTransfer claims one of the host's file transfers; release it when the
// answer is given. It is nil where all are taken: ESXi does not let clients
// wait, it answers 503.
func (h *Host) takeTransfer() (release func()) {
	if h == nil || h.free == nil {
		return func() {}
	}
	select {
	case <-h.free:
		return func() { h.free <- struct{}{} }
	default:
		return nil
	}
}
