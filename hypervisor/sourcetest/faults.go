package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"skylift/hypervisor"
)

// cycle is a run's dealings with its source: snapshot, read, settle. What it
// reads must be right whenever it says so.
func cycle(ctx context.Context, s hypervisor.Source, run hypervisor.RunID, g *guest, want []byte) error {
	refs, err := s.Snapshot(ctx, run, []hypervisor.ServerID{g.id}, hypervisor.QuiescePrefer)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	sn, err := s.Open(ctx, refs[0])
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	err = func() error {
		for _, d := range sn.Disks() {
			told, err := changes(ctx, d, "")
			if err != nil {
				return fmt.Errorf("changes: %w", err)
			}
			for off, b := range want {
				if b != 0 && !covered(hypervisor.Extent{Offset: int64(off), Length: 1}, told) {
					return errWrong
				}
			}
			got, err := readWhole(ctx, d)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			if !bytes.Equal(got, want) {
				return errWrong
			}
		}
		return sn.Verify(ctx)
	}()
	if err = errors.Join(err, sn.Close()); err != nil {
		return err
	}
	_, err = s.Settle(ctx, refs[0])
	return err
}

var errWrong = errors.New("the bytes are wrong")

// faultDisk keeps the cycles of the sweeps short.
const faultDisk = hypervisor.BlockSize + 4096

func faultGuest(t *testing.T, p Platform) (*guest, []byte) {
	g := &guest{p: p, id: p.AddServer(t, "one", faultDisk), disks: [][]byte{make([]byte, faultDisk)}}
	g.write(t, 0, 1000, []byte("some bytes"))
	g.write(t, 0, faultDisk-20, []byte("some more bytes"))
	return g, g.frozen()[0]
}

// callsOfCycle counts what an undisturbed cycle asks of the platform.
func callsOfCycle(t *testing.T, p Platform, g *guest, want []byte) int {
	t.Helper()
	var calls atomic.Int64
	p.Intercept(func(n int) Fate { calls.Store(int64(n)); return Pass })
	s, stop := p.Source(t)
	defer stop()
	if err := cycle(newContext(t), s, runID(0), g, want); err != nil {
		t.Fatalf("an undisturbed cycle: %v", err)
	}
	p.Intercept(nil)
	n := int(calls.Load())
	if n == 0 || n > p.Traits().Calls {
		t.Fatalf("a cycle takes %d calls, at most %d were expected", n, p.Traits().Calls)
	}
	return n
}

func faultAtEveryCall(t *testing.T, p Platform, fate Fate) {
	g, want := faultGuest(t, p)
	for at := range callsOfCycle(t, p, g, want) {
		s, stop := p.Source(t)
		p.Intercept(func(n int) Fate {
			if n == at+1 {
				return fate
			}
			return Pass
		})
		err := cycle(newContext(t), s, runID(at+1), g, want)
		p.Intercept(nil)
		stop()
		if errors.Is(err, errWrong) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a fault at call %d: %v", at+1, err)
		}
		sweep(t, p)
		eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
		if t.Failed() {
			return
		}
	}
}

func cancelAtEveryCall(t *testing.T, p Platform) {
	g, want := faultGuest(t, p)
	for at := range callsOfCycle(t, p, g, want) {
		s, stop := p.Source(t)
		ctx, cancel := context.WithCancel(context.Background())
		p.Intercept(func(n int) Fate {
			if n == at+1 {
				cancel()
			}
			return Pass
		})
		done := make(chan error, 1)
		go func() { done <- cycle(ctx, s, runID(at+1), g, want) }()
		select {
		case err := <-done:
			if errors.Is(err, errWrong) {
				t.Errorf("canceled at call %d: %v", at+1, err)
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("canceled at call %d: %v, want the context's error in it", at+1, err)
			}
		case <-time.After(patience):
			t.Fatalf("canceled at call %d: still not back", at+1)
		}
		cancel()
		p.Intercept(nil)
		stop()
		sweep(t, p)
		eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
		if t.Failed() {
			return
		}
	}
}

func survivesExpiry(t *testing.T, p Platform) {
	g, want := faultGuest(t, p)
	for at := range callsOfCycle(t, p, g, want) {
		s, stop := p.Source(t)
		p.Intercept(func(n int) Fate {
			if n == at+1 {
				p.ExpireSessions(t)
			}
			return Pass
		})
		if err := cycle(newContext(t), s, runID(at+1), g, want); err != nil {
			t.Errorf("sessions expired at call %d: %v", at+1, err)
		}
		p.Intercept(nil)
		if _, _, err := s.Held(newContext(t)); err != nil {
			t.Errorf("held: %v", err)
		}
		stop()
		sweep(t, p)
		if t.Failed() {
			return
		}
	}
}
