package bandwidth

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sink is a connection that takes everything at once and counts it.
type sink struct {
	net.Conn
	bytes atomic.Int64
}

func (s *sink) Write(p []byte) (int, error) {
	s.bytes.Add(int64(len(p)))
	return len(p), nil
}

// flood has writers write records of TLS' size until stop is called.
func flood(l *Limiter, writers int) (s *sink, stop func()) {
	s = new(sink)
	var stopped atomic.Bool
	var all sync.WaitGroup
	for range writers {
		c := l.Conn(s)
		all.Go(func() {
			for p := make([]byte, 16<<10+29); !stopped.Load(); {
				if _, err := c.Write(p); err != nil {
					panic(err)
				}
			}
		})
	}
	return s, func() {
		stopped.Store(true)
		all.Wait()
	}
}

// over returns the bytes a second that s takes for so long.
func (s *sink) over(d time.Duration) float64 {
	before := s.bytes.Load()
	time.Sleep(d)
	return float64(s.bytes.Load()-before) / d.Seconds()
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 0.05*want {
		t.Errorf("%s: %.0f bytes/s, want %.0f within 5 %%", what, got, want)
	}
}

func TestTenSecondsHoldWhatTheLimitAllows(t *testing.T) {
	for _, rate := range []Limit{Least, 100 << 10, 20 * mib} {
		synctest.Test(t, func(t *testing.T) {
			l := New(Timetable{zone: time.UTC, slots: []slot{{limit: rate}}}, nil)
			s, stop := flood(l, 8)
			defer stop()
			near(t, rate.String(), s.over(10*time.Second), float64(rate))
			near(t, rate.String()+" later", s.over(10*time.Second), float64(rate))
		})
	}
}

func TestAfterAPauseALimitIsNotMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(parse(t, "10M", time.UTC), nil)
		_, _ = l.Conn(new(sink)).Write(make([]byte, mib))
		time.Sleep(time.Hour)
		s, stop := flood(l, 4)
		defer stop()
		near(t, "after an hour of silence", s.over(10*time.Second), 10*mib)
	})
}

func TestAnotherLimitHoldsWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(parse(t, "1k", time.UTC), nil)
		s, stop := flood(l, 8) // all of them wait
		defer stop()
		time.Sleep(10 * time.Second)
		for _, rate := range []string{"10M", "20M", "2k", "300k"} {
			table := parse(t, rate, time.UTC)
			l.Set(table)
			time.Sleep(2 * time.Second)
			near(t, "set to "+rate, s.over(10*time.Second), float64(table.At(time.Now())))
		}
	})
}

func TestWritesThatWaitGoOnWhenThereIsNoLimitAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(parse(t, "1k", nil), nil)
		var all sync.WaitGroup
		for range 4 {
			c := l.Conn(new(sink))
			all.Go(func() { _, _ = c.Write(make([]byte, mib)) })
		}
		time.Sleep(10 * time.Second)
		start := time.Now()
		l.Set(Timetable{})
		all.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("they took %s", took)
		}
	})
}

func TestTheTimetableChangesTheLimitByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A bubble begins on Saturday, 1 January 2000, 00:00 UTC.
		l := New(parse(t, "Fri-00:00,1M Sat-00:01,5M Sat-00:02,shut Sat-00:03,2M", time.UTC), nil)
		s, stop := flood(l, 4)
		defer stop()
		for _, want := range []float64{mib, 5 * mib, float64(trickle), 2 * mib} {
			time.Sleep(2 * time.Second)
			near(t, time.Now().Format("15:04:05"), s.over(10*time.Second), want)
			time.Sleep(time.Minute - 12*time.Second)
		}
	})
}

// waits notes what Open says it waits for.
type waits struct {
	said []string
	open int
}

func (w *waits) notify(what string) func() {
	w.said = append(w.said, what)
	w.open++
	return func() { w.open-- }
}

func TestWhoComesWhileItIsShutWaitsAndSaysUntilWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(parse(t, "Thu-20:00,shut Sat-02:30,20M", time.UTC), nil)
		start, w := time.Now(), new(waits)
		if err := l.Open(t.Context(), w.notify); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited != 2*time.Hour+30*time.Minute {
			t.Errorf("waited %s", waited)
		}
		if !slices.Equal(w.said, []string{"the bandwidth timetable is shut until Sat 02:30"}) || w.open != 0 {
			t.Errorf("said %q, %d of it not over", w.said, w.open)
		}
		if err := l.Open(t.Context(), w.notify); err != nil || len(w.said) != 1 {
			t.Errorf("while it is open: %v, said %q", err, w.said)
		}
	})
}

func TestATimetableThatIsReplacedEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := New(parse(t, "shut", time.UTC), nil), new(waits)
		time.AfterFunc(time.Hour, func() { l.Set(parse(t, "00:00,shut Sat-12:00,off", time.UTC)) })
		time.AfterFunc(2*time.Hour, func() { l.Set(parse(t, "1M", time.UTC)) })
		start := time.Now()
		if err := l.Open(t.Context(), w.notify); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited != 2*time.Hour || len(w.said) != 2 || w.open != 0 {
			t.Errorf("waited %s and said %q, %d of it not over", waited, w.said, w.open)
		}
	})
}

func TestAClockThatIsSetEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		l := New(parse(t, "00:00,shut 12:00,off", time.UTC), func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
		time.AfterFunc(time.Minute, func() { ahead.Store(int64(12 * time.Hour)) })
		start := time.Now()
		if err := l.Open(t.Context(), new(waits).notify); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > time.Minute+2*time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the lease is gone")
		time.AfterFunc(time.Minute, func() { cancel(cause) })
		w := new(waits)
		if err := New(parse(t, "shut", nil), nil).Open(ctx, w.notify); !errors.Is(err, cause) || w.open != 0 {
			t.Errorf("%v, %d waits not over", err, w.open)
		}
	})
}

func TestAnUploadIsBrokenOffWhenTheTimetableShuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(parse(t, "00:00,1M 00:40,shut 13:00,off", time.UTC), nil)
		start := time.Now()
		early := l.Sending(t.Context())
		early.Done()
		if cause := context.Cause(early.Context()); !errors.Is(cause, context.Canceled) {
			t.Errorf("an upload that was over ended with %v", cause)
		}
		late := l.Sending(t.Context())
		defer late.Done()
		<-late.Context().Done()
		if cause := context.Cause(late.Context()); !errors.Is(cause, ErrShut) || time.Since(start) != 40*time.Minute {
			t.Errorf("ended after %s with %v", time.Since(start), cause)
		}
		shut := l.Sending(t.Context())
		if shut.Done(); !errors.Is(context.Cause(shut.Context()), ErrShut) {
			t.Errorf("while it is shut: %v", context.Cause(shut.Context()))
		}
	})
}

func TestAnUploadIsBrokenOffWhenSomebodyShutsTheTimetable(t *testing.T) {
	l := New(Timetable{}, nil)
	s := l.Sending(t.Context())
	defer s.Done()
	ctx := s.Context()
	l.Set(parse(t, "1M", nil))
	if ctx.Err() != nil {
		t.Error("ended by a limit that is open")
	}
	l.Set(parse(t, "shut", nil))
	if !errors.Is(context.Cause(ctx), ErrShut) {
		t.Errorf("ended with %v", context.Cause(ctx))
	}
}

func TestOnlyWhoIsDelayedCountsAsSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(parse(t, "1M", nil), nil)
		c := l.Conn(new(sink))
		slowed := func() string {
			limit, is := l.Slowed()
			if !is {
				return ""
			}
			return limit.String()
		}
		for range 10 { // half of what is allowed
			_, _ = c.Write(make([]byte, 50<<10))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(slowedFor)
		_, _ = c.Write(make([]byte, 50<<10))
		if got := slowed(); got != "" {
			t.Errorf("below the limit it is slowed to %q", got)
		}
		_, _ = c.Write(make([]byte, 4*mib))
		if got := slowed(); got != "1 MiB/s" {
			t.Errorf("at the limit it is slowed to %q", got)
		}
		if l.Set(Timetable{}); slowed() != "" {
			t.Error("slowed without a limit")
		}
	})
}

// TestALimitHoldsOnARealConnection is about real timers and sockets, whose
// machine may be busy: it is generous below the limit, and not above.
func TestALimitHoldsOnARealConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	received := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			received <- -1
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := New(parse(t, "8M", nil), nil).Conn(raw)
	const sent = 8 * mib
	start := time.Now()
	for range sent / (64 << 10) {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-received; n != sent {
		t.Errorf("%d bytes arrived", n)
	}
	if took < 900*time.Millisecond || took > 3*time.Second {
		t.Errorf("8 MiB at 8 MiB/s took %s", took)
	}
}

func TestAWriteAllocatesNothing(t *testing.T) {
	p := make([]byte, 16<<10)
	for text, l := range map[string]*Limiter{"no limit": New(Timetable{}, nil), "a limit": New(parse(t, "100G", nil), nil)} {
		c := l.Conn(new(sink))
		if n := testing.AllocsPerRun(100, func() { _, _ = c.Write(p) }); n != 0 {
			t.Errorf("with %s a write makes %.0f allocations", text, n)
		}
	}
}

// BenchmarkWrite shows what a write costs besides writing.
func BenchmarkWrite(b *testing.B) {
	for name, table := range map[string]string{"bare": "", "unlimited": "off", "limited": "4000T"} {
		b.Run(name, func(b *testing.B) {
			var c net.Conn = new(sink)
			if table != "" {
				t, err := Parse(table, nil)
				if err != nil {
					b.Fatal(err)
				}
				c = New(t, nil).Conn(c)
			}
			p := make([]byte, 16<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
