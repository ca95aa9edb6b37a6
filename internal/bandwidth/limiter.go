package bandwidth

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrShut ends an upload that was under way when the timetable shut. It is to
// be made again when Open has returned.
var ErrShut = errors.New("the bandwidth timetable is shut")

const (
	// recheck is how often a wait looks at the clock on the wall again, which
	// somebody may have set.
	recheck = time.Second
	// slowedFor is how long after a delay the sending counts as slowed.
	slowedFor = 2 * time.Second
)

// Limiter bounds what all who share it send together. Safe for concurrent use.
type Limiter struct {
	pace pace
	now  func() time.Time

	free   atomic.Bool  // there is no limit, and no timetable that could set one
	slowed atomic.Int64 // when a write last waited: Unix nanoseconds

	mu      sync.Mutex
	table   Timetable
	changed chan struct{} // closed and replaced by Set
	sends   map[*Send]struct{}
	watch   *time.Timer // runs while there are sends that a timetable may end
}

// Send is an upload under way.
type Send struct {
	limiter *Limiter
	ctx     context.Context // ends with the upload, whose life it is
	end     context.CancelCauseFunc
}

// Context governs the upload. It ends with ErrShut as its cause when the
// timetable shuts.
func (s *Send) Context() context.Context { return s.ctx }

// Done says that the upload is over.
func (s *Send) Done() {
	l := s.limiter
	l.mu.Lock()
	delete(l.sends, s)
	if len(l.sends) == 0 && l.watch != nil {
		l.watch.Stop()
	}
	l.mu.Unlock()
	s.end(nil)
}

// New makes a Limiter. now tells the time on the wall, by which timetables go;
// nil stands for time.Now.
func New(t Timetable, now func() time.Time) *Limiter {
	l := &Limiter{now: now, changed: make(chan struct{}), sends: map[*Send]struct{}{}}
	if l.now == nil {
		l.now = time.Now
	}
	l.pace.turn = make(chan struct{}, 1)
	l.Set(t)
	return l
}

// Set replaces the timetable, at once for everybody who waits or sends.
func (l *Limiter) Set(t Timetable) {
	l.mu.Lock()
	l.table = t
	close(l.changed)
	l.changed = make(chan struct{})
	l.free.Store(t.constant() && t.At(time.Time{}) == Unlimited)
	l.mu.Unlock()
	l.enforce()
}

// Limit returns what may be sent now.
func (l *Limiter) Limit() Limit {
	if l.free.Load() {
		return Unlimited
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.At(l.now())
}

// Slowed reports the limit if it is what slows the sending at the moment.
func (l *Limiter) Slowed() (Limit, bool) {
	if l.free.Load() || time.Since(time.Unix(0, l.slowed.Load())) > slowedFor {
		return 0, false
	}
	limit := l.Limit()
	return limit, limit != Shut && limit != Unlimited
}

// Open waits until the timetable is not shut. waiting is told what is waited
// for, once there is something to wait for and whenever it changes; what it
// returns is called when that is over.
func (l *Limiter) Open(ctx context.Context, waiting func(what string) (over func())) error {
	if l.free.Load() {
		return nil
	}
	said, over := "", func() {}
	defer func() { over() }()
	for {
		reason, next, changed := l.shut()
		if reason == "" {
			return nil
		}
		if reason != said {
			over()
			said, over = reason, waiting(reason)
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// shut says why nothing may be sent, and when to ask again at the latest; an
// empty reason when something may be.
func (l *Limiter) shut() (reason string, again time.Duration, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.table.At(now) != Shut {
		return "", 0, nil
	}
	next := l.table.Next(now)
	if next.IsZero() {
		return "the bandwidth timetable is shut for good: nothing is sent until it is changed", recheck, l.changed
	}
	return "the bandwidth timetable is shut until " + next.In(l.table.zone).Format("Mon 15:04"), min(recheck, next.Sub(now)), l.changed
}

// Sending begins an upload; its Done must be called.
func (l *Limiter) Sending(ctx context.Context) *Send {
	s := &Send{limiter: l}
	s.ctx, s.end = context.WithCancelCause(ctx)
	l.mu.Lock()
	l.sends[s] = struct{}{}
	l.mu.Unlock()
	l.enforce()
	return s
}

// enforce ends what may not be sent, and looks again when that may change.
func (l *Limiter) enforce() {
	if l.free.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.table.At(now) == Shut {
		for s := range l.sends {
			s.end(ErrShut)
		}
	}
	if len(l.sends) == 0 || l.table.constant() {
		return
	}
	again := min(recheck, max(0, l.table.Next(now).Sub(now)))
	if l.watch == nil {
		l.watch = time.AfterFunc(again, l.enforce)
		return
	}
	l.watch.Reset(again)
}
