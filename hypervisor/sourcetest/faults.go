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
			if since := d.Info().ChangeID; since != "" {
				if _, err := changes(ctx, d, since); err != nil {
					if _, unusable := hypervisor.TrackingUnusable(err); !unusable {
						return fmt.Errorf("changes since the snapshot itself: %w", err)
					}
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
	anchor, err := s.Settle(ctx, refs[0])
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if err := s.Release(ctx, anchor); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// questions are what is asked outside of runs.
func questions(ctx context.Context, s hypervisor.Source, id hypervisor.ServerID) error {
	for _, ask := range []func() error{
		func() error { _, err := s.Check(ctx, id); return err },
		func() error { _, err := s.CheckSource(ctx); return err },
		func() error { _, err := s.Shares(ctx, id); return err },
		func() error { _, _, err := s.Held(ctx); return err },
	} {
		if err := ask(); err != nil {
			return err
		}
	}
	return nil
}

var errWrong = errors.New("the bytes are wrong")

// faultDisk keeps the cycles of the sweeps short.
const faultDisk = hypervisor.BlockSize + 4096

func faultGuest(t testing.TB, p Platform) (*guest, []byte) {
	g := &guest{p: p, id: p.AddServer(t, "one", faultDisk), disks: [][]byte{make([]byte, faultDisk)}}
	g.write(t, 0, 1000, []byte("some bytes"))
	g.write(t, 0, faultDisk-20, []byte("some more bytes"))
	return g, g.frozen()[0]
}

// calls counts what undisturbed work asks of the platform, and returns which of
// the calls are to be disturbed.
func calls(t testing.TB, p Platform, most int, work func(hypervisor.Source) error) (numbers []int) {
	t.Helper()
	var count atomic.Int64
	p.Intercept(func(n int) Fate { count.Store(int64(n)); return Pass })
	s, stop := p.Source(t)
	defer stop()
	if err := work(s); err != nil {
		t.Fatalf("undisturbed: %v", err)
	}
	p.Intercept(nil)
	n := int(count.Load())
	if n == 0 || n > most {
		t.Fatalf("it takes %d calls, at most %d were expected", n, most)
	}
	for at := 1; at <= n; at += max(1, p.Traits().Every) {
		numbers = append(numbers, at)
	}
	return numbers
}

func callsOfCycle(t testing.TB, p Platform, g *guest, want []byte) []int {
	t.Helper()
	return calls(t, p, p.Traits().Calls, func(s hypervisor.Source) error { return cycle(newContext(t), s, runID(0), g, want) })
}

// ended checks what a disturbed work leaves.
func ended(t testing.TB, p Platform, s hypervisor.Source, stop func()) {
	t.Helper()
	p.Intercept(nil)
	stop()
	sweep(t, p)
	eventually(t, "no goroutine of the source is left", func() bool { return goroutines(s) == 0 })
}

func faultAtEveryCall(t testing.TB, p Platform, fate Fate) {
	g, want := faultGuest(t, p)
	for _, at := range callsOfCycle(t, p, g, want) {
		s, stop := p.Source(t)
		p.Intercept(func(n int) Fate {
			if n == at {
				return fate
			}
			return Pass
		})
		err := cycle(newContext(t), s, runID(at), g, want)
		if errors.Is(err, errWrong) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a fault at call %d: %v", at, err)
		}
		ended(t, p, s, stop)
		if t.Failed() {
			return
		}
	}
}

// canceled runs work and cancels it at a call.
func canceled(t testing.TB, p Platform, at int, work func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.Intercept(func(n int) Fate {
		if n == at {
			cancel()
		}
		return Pass
	})
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	select {
	case err := <-done:
		if errors.Is(err, errWrong) {
			t.Errorf("canceled at call %d: %v", at, err)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("canceled at call %d: %v, want the context's error in it", at, err)
		}
	case <-time.After(patience):
		t.Fatalf("canceled at call %d: still not back", at)
	}
}

func cancelAtEveryCall(t testing.TB, p Platform) {
	g, want := faultGuest(t, p)
	for _, at := range callsOfCycle(t, p, g, want) {
		s, stop := p.Source(t)
		canceled(t, p, at, func(ctx context.Context) error { return cycle(ctx, s, runID(at), g, want) })
		ended(t, p, s, stop)
		if t.Failed() {
			return
		}
	}
}

func questionsEnd(t testing.TB, p Platform) {
	g, _ := faultGuest(t, p)
	all := calls(t, p, p.Traits().Calls, func(s hypervisor.Source) error { return questions(newContext(t), s, g.id) })
	for _, at := range all {
		s, stop := p.Source(t)
		canceled(t, p, at, func(ctx context.Context) error { return questions(ctx, s, g.id) })
		ended(t, p, s, stop)
		s, stop = p.Source(t)
		p.Intercept(func(n int) Fate {
			if n == at {
				return Refuse
			}
			return Pass
		})
		if err := questions(newContext(t), s, g.id); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a fault at call %d: %v", at, err)
		}
		ended(t, p, s, stop)
		if t.Failed() {
			return
		}
	}
}

func survivesExpiry(t testing.TB, p Platform) {
	g, want := faultGuest(t, p)
	for _, at := range callsOfCycle(t, p, g, want) {
		s, stop := p.Source(t)
		p.Intercept(func(n int) Fate {
			if n == at {
				p.ExpireSessions(t)
			}
			return Pass
		})
		if err := cycle(newContext(t), s, runID(at), g, want); err != nil {
			t.Errorf("sessions expired at call %d: %v", at, err)
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
