package bandwidth

import (
	"math"
	"net"
	"time"
)

const (
	// burst is the part of a second whose bytes one connection is given at
	// most before it is another's turn.
	burst = time.Second / 10
	// nap is the least time to wait for: timers are not more precise, and
	// what a nap takes too long the next one makes up for.
	nap = time.Millisecond
	// look is how long a rate is used before the timetable is asked again.
	look = time.Second / 4
	// trickle is the rate while the timetable is shut. Uploads have ended then;
	// what is left are requests that ask for something, and farewells of TLS.
	trickle Limit = 32 << 10
)

// pace deals out the bytes of a rate. Whoever has the turn waits for its
// bytes, so that a new rate holds for those who wait as well, and connections
// take turns in the order in which they came.
type pace struct {
	turn chan struct{}

	// What follows belongs to who has the turn.
	rate   Limit
	looked time.Time
	bytes  float64 // that may be sent now
	at     time.Time
}

// take waits for bytes of the rate, at most want, and returns how many there
// are. It takes no longer than a burst for each connection that waits.
func (l *Limiter) take(want int) int {
	p := &l.pace
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	for {
		now := time.Now()
		l.refresh(now)
		if p.rate == Unlimited {
			return want
		}
		most := math.Floor(max(1, float64(p.rate)*burst.Seconds()))
		// Twice that is kept, so that a nap may last too long.
		p.bytes = min(2*most, p.bytes+float64(p.rate)*now.Sub(p.at).Seconds())
		p.at = now
		piece := min(float64(want), most)
		if p.bytes >= piece {
			p.bytes -= piece
			return int(piece)
		}
		l.slowed.Store(now.UnixNano())
		missing := time.Duration((piece - p.bytes) / float64(p.rate) * float64(time.Second))
		time.Sleep(max(nap, missing+1))
	}
}

// refresh finds the rate of the moment. Its clocks are two: one that is never
// set, to pace by, and the one on the wall for the timetable.
func (l *Limiter) refresh(now time.Time) {
	p := &l.pace
	if now.Sub(p.looked) < look {
		return
	}
	p.looked = now
	rate := l.Limit()
	if rate == Shut {
		rate = trickle
	}
	if rate != p.rate {
		p.rate, p.bytes, p.at = rate, 0, now
	}
}

// Conn returns a connection whose writes are paced. It is put around the
// innermost connection, so that what TLS and proxies add is counted too.
func (l *Limiter) Conn(c net.Conn) net.Conn { return &conn{c, l} }

type conn struct {
	net.Conn
	limiter *Limiter
}

// Write implements net.Conn. A deadline is not looked at while the write waits
// for its turn, which is never for long.
func (c *conn) Write(p []byte) (n int, err error) {
	if c.limiter.free.Load() {
		return c.Conn.Write(p)
	}
	for len(p) > 0 {
		piece := c.limiter.take(len(p))
		written, err := c.Conn.Write(p[:piece])
		n += written
		if err != nil {
			return n, err
		}
		p = p[piece:]
	}
	return n, nil
}
