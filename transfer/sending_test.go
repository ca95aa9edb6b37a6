package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	"skylift/internal/problem"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// slowStore is a store at the end of a line of so many bytes a second, and
// notes when it was written to.
type slowStore struct {
	*stagingtest.Memory
	speed float64
	// hook, where there is one, comes before each write.
	hook func(ctx context.Context, key string) error

	mu     sync.Mutex
	next   time.Time
	writes []time.Time
}

func (s *slowStore) Put(ctx context.Context, key string, p []byte) error {
	if err := s.send(ctx, key, p); err != nil {
		return err
	}
	return s.Memory.Put(ctx, key, p)
}

func (s *slowStore) Create(ctx context.Context, key string, p []byte) error {
	if err := s.send(ctx, key, p); err != nil {
		return err
	}
	return s.Memory.Create(ctx, key, p)
}

func (s *slowStore) send(ctx context.Context, key string, p []byte) error {
	if s.hook != nil {
		if err := s.hook(ctx, key); err != nil {
			return err
		}
	}
	s.mu.Lock()
	now := time.Now()
	if s.next.Before(now) {
		s.next = now
	}
	s.next = s.next.Add(time.Duration(float64(len(p)) / s.speed * float64(time.Second)))
	wait := s.next.Sub(now)
	s.mu.Unlock()
	if err := pause(ctx, wait); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, time.Now())
	return nil
}

// between tells how many writes were done in a time.
func (s *slowStore) between(from, to time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.writes {
		if w.After(from) && w.Before(to) {
			n++
		}
	}
	return n
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func timetable(t *testing.T, text string) bandwidth.Timetable {
	t.Helper()
	table, err := bandwidth.Parse(text, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// waits collects what a run says it waits for.
type waits struct {
	mu   sync.Mutex
	said []string
	open int
}

func (w *waits) under(ctx context.Context) context.Context {
	return hypervisor.WithWaits(ctx, func(what string) func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open++
		if !slices.Contains(w.said, what) {
			w.said = append(w.said, what)
		}
		return func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.open--
		}
	})
}

// held returns the bytes of the slabs that somebody has.
func held(m *Mover) int64 {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.pool.used
}

func TestNothingIsSentAndNothingHeldWhileTheTimetableIsShut(t *testing.T) {
	onBothKinds(t, func(t *testing.T, stream bool) {
		g := newGuest(t, 40*mib, 31)
		g.stream, g.raw = stream, true
		g.writeAt(0, 40*mib, 0)
		synctest.Test(t, func(t *testing.T) {
			// A bubble begins on a Saturday at midnight. At 1 MiB/s nothing is stored before it shuts.
			table := timetable(t, "Fri-00:00,off Sat-00:01,shut Sat-00:30,off")
			limiter := bandwidth.New(table, func() time.Time { return time.Now().Add(53 * time.Second) })
			mover := newMover(t, Config{Bandwidth: limiter, Parallel: 1})
			store := &slowStore{Memory: newStore(), speed: mib}
			d, w, p := g.freeze(), new(waits), new(Progress)
			d.info.Patience = 2 * time.Minute
			start := time.Now()
			time.AfterFunc(20*time.Minute, func() {
				if held(mover) != 0 || d.open() != 0 {
					t.Errorf("while it is shut, %d bytes of memory are held and %d reads under way", held(mover), d.open())
				}
			})
			sealed, err := mover.Move(w.under(t.Context()), g.task(d, store, p))
			if err != nil {
				t.Fatal(err)
			}
			// Two slices at most were read in vain, and a piece of a third.
			if p.Read.Load() > (40+18)*mib || p.Sent.Load() != 40*mib || p.Changed.Load() != 40*mib {
				t.Errorf("read %d, sent %d, changed %d bytes", p.Read.Load(), p.Sent.Load(), p.Changed.Load())
			}
			shut := start.Add(7 * time.Second)
			if store.between(start, shut) == 0 || store.between(shut.Add(time.Second), shut.Add(29*time.Minute)) != 0 {
				t.Errorf("writes: %v", store.writes)
			}
			if !slices.Equal(w.said, []string{"the bandwidth timetable is shut until Sat 00:30"}) || w.open != 0 {
				t.Errorf("it says that it waits for %q, and %d of it is not over", w.said, w.open)
			}
			g.t = t
			g.land(d, store.Memory, sealed)
		})
	})
}

func TestARunThatIsSlowedSaysSo(t *testing.T) {
	g := newGuest(t, 20*mib, 33)
	g.raw = true
	g.writeAt(0, 20*mib, 0)
	synctest.Test(t, func(t *testing.T) {
		limiter := bandwidth.New(timetable(t, "2M"), nil)
		line := limiter.Conn(discard{})
		store := &slowStore{Memory: newStore(), speed: 1 << 40, hook: func(context.Context, string) error {
			_, err := line.Write(make([]byte, 4*mib))
			return err
		}}
		w := new(waits)
		if _, err := newMover(t, Config{Bandwidth: limiter, Parallel: 1}).Move(w.under(t.Context()), g.task(g.freeze(), store, nil)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.said, []string{"the bandwidth is set to 2 MiB/s"}) || w.open != 0 {
			t.Errorf("it says that it waits for %q, and %d of it is not over", w.said, w.open)
		}
	})
}

func TestWhatWasCreatedBeforeItWasBrokenOffIsTaken(t *testing.T) {
	for _, object := range []string{"/plan", "/manifest"} {
		g := newGuest(t, 20*mib, 34)
		g.raw = true
		g.writeAt(0, 20*mib, 0)
		synctest.Test(t, func(t *testing.T) {
			limiter := bandwidth.New(bandwidth.Timetable{}, nil)
			store := newStore()
			cut := false
			answerless := &lateStore{store, func(ctx context.Context, key string) error {
				if cut || !strings.HasSuffix(key, object) {
					return nil
				}
				cut = true
				limiter.Set(timetable(t, "shut"))
				time.AfterFunc(time.Hour, func() { limiter.Set(bandwidth.Timetable{}) })
				<-ctx.Done()
				return context.Cause(ctx)
			}}
			d := g.freeze()
			sealed, err := newMover(t, Config{Bandwidth: limiter}).Move(t.Context(), g.task(d, answerless, nil))
			if err != nil || !cut {
				t.Fatalf("%s: %v", object, err)
			}
			g.t = t
			g.land(d, store, sealed)
		})
	}
}

func TestAStreamThatCannotGoOnIsLetGoAndReadOnLater(t *testing.T) {
	const patience, trouble = time.Minute, 10 * time.Minute
	for name, hamper := range map[string]func(mover *Mover, store *slowStore){
		"staging stalls": func(_ *Mover, store *slowStore) {
			from := time.Now().Add(3 * time.Second)
			store.hook = func(ctx context.Context, _ string) error {
				if now := time.Now(); now.After(from) {
					return pause(ctx, from.Add(trouble).Sub(now))
				}
				return nil
			}
		},
		"others hold all memory": func(mover *Mover, _ *slowStore) {
			time.AfterFunc(5*time.Second, func() {
				for n := int64(0); n+slabSize(staging.SegmentBlocks) <= mover.pool.limit; n += slabSize(staging.SegmentBlocks) {
					slab, err := mover.pool.takeFirst(context.Background(), staging.SegmentBlocks)
					if err != nil {
						panic(err)
					}
					time.AfterFunc(trouble, func() { mover.pool.put(staging.SegmentBlocks, slab) })
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, 70*mib, 35)
			g.stream, g.raw = true, true
			g.writeAt(0, 70*mib, 0)
			synctest.Test(t, func(t *testing.T) {
				mover := newMover(t, Config{Memory: 4 * slabSize(staging.SegmentBlocks), Parallel: 1})
				store := &slowStore{Memory: newStore(), speed: 4 * mib}
				d, p := g.freeze(), new(Progress)
				d.info.Patience = patience
				hamper(mover, store)
				start := time.Now()
				sealed, err := mover.Move(t.Context(), g.task(d, store, p))
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); d.opened < 2 || took < trouble || took > trouble+2*time.Minute {
					t.Errorf("read %d times in %s", d.opened, took)
				}
				if p.Sent.Load() != 70*mib {
					t.Errorf("sent %d bytes", p.Sent.Load())
				}
				g.t = t
				g.land(d, store.Memory, sealed)
			})
		})
	}
}

func TestAStreamThatGetsNowhereIsGivenUp(t *testing.T) {
	g := newGuest(t, 12*mib, 36)
	g.stream, g.raw = true, true
	g.writeAt(0, 12*mib, 0)
	synctest.Test(t, func(t *testing.T) {
		limiter := bandwidth.New(bandwidth.Timetable{}, nil)
		store := &slowStore{Memory: newStore(), speed: 1 << 40}
		// The timetable is never open for long enough.
		store.hook = func(ctx context.Context, key string) error {
			if !strings.Contains(key, "/segment-") {
				return nil
			}
			limiter.Set(timetable(t, "shut"))
			time.AfterFunc(time.Hour, func() { limiter.Set(bandwidth.Timetable{}) })
			<-ctx.Done()
			return context.Cause(ctx)
		}
		d := g.freeze()
		d.info.Patience = time.Minute
		mover := newMover(t, Config{Bandwidth: limiter})
		_, err := mover.Move(t.Context(), g.task(d, store, nil))
		if !problem.Has(err, StreamStuck) || d.opened != futilePasses {
			t.Errorf("read %d times: %v", d.opened, err)
		}
		if n := held(mover); n != 0 {
			t.Errorf("%d bytes of memory are held", n)
		}
	})
}

func TestAStreamWithoutPatienceLimitsIsReadOnceHoweverLongItWaits(t *testing.T) {
	g := newGuest(t, 20*mib, 37)
	g.stream, g.raw = true, true
	g.writeAt(0, 20*mib, 0)
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Memory: newStore(), speed: 10 << 10} // 34 minutes
		d := g.freeze()
		sealed, err := newMover(t, Config{Parallel: 1}).Move(t.Context(), g.task(d, store, nil))
		if err != nil || d.opened != 1 {
			t.Fatalf("read %d times: %v", d.opened, err)
		}
		g.t = t
		g.land(d, store.Memory, sealed)
	})
}

func TestACancelledRunDoesNotWaitForTheTimetable(t *testing.T) {
	onBothKinds(t, func(t *testing.T, stream bool) {
		g := newGuest(t, 20*mib, 38)
		g.stream, g.raw = stream, true
		g.writeAt(0, 20*mib, 0)
		synctest.Test(t, func(t *testing.T) {
			mover := newMover(t, Config{Bandwidth: bandwidth.New(timetable(t, "shut"), nil)})
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("the lease is gone")
			time.AfterFunc(time.Hour, func() { cancel(cause) })
			start := time.Now()
			if _, err := mover.Move(ctx, g.task(g.freeze(), newStore(), nil)); !errors.Is(err, cause) || time.Since(start) != time.Hour {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
		})
	})
}

func TestAnUnknownCompressionIsRefused(t *testing.T) {
	g := newGuest(t, mib, 39)
	task := g.task(g.freeze(), newStore(), nil)
	task.Compression = "gzip"
	if _, err := newMover(t, Config{}).Move(t.Context(), task); err == nil || !strings.Contains(err.Error(), "gzip") {
		t.Errorf("got %v", err)
	}
}

// lateStore answers when the object has been written already.
type lateStore struct {
	*stagingtest.Memory
	late func(ctx context.Context, key string) error
}

func (s *lateStore) Create(ctx context.Context, key string, p []byte) error {
	err := s.Memory.Create(ctx, key, p)
	if late := s.late(ctx, key); late != nil {
		return fmt.Errorf("%s: %w", key, late)
	}
	return err
}
