package transfer

import (
	"math"
	"sync"
	"time"

	"skylift/internal/bandwidth"
)

// Compression says whether blocks are compressed on their way.
type Compression string

// The ways to compress. Auto does where the compressor is faster than the
// network, and leaves it where it would be what the run waits for.
const (
	Zstd Compression = "zstd"
	Off  Compression = "off"
	Auto Compression = "auto"
)

const (
	// Off must promise to be so much faster before it is tried, and on again
	// before it is left: a change costs a little, and rates vary.
	margin = 1.25
	// enough is how many segments a rate is taken from at least, and settled
	// how long segments must have been on their way without compression
	// before that is judged.
	enough  = 8
	settled = 250 * time.Millisecond
	// remembered is how long a line that turned out too slow is not tried
	// again, and retried how often the compressor's rate is measured anew
	// while it is off, with enough segments.
	remembered = 5 * time.Minute
	retried    = time.Minute
)

// compressor decides for Auto, from what was measured: how many bytes a second
// the processors can compress, and how many the network takes. It is shared by
// all Moves, since these share both.
type compressor struct {
	now   func() time.Time
	limit func() bandwidth.Limit
	cores float64
	sends float64 // segments that are sent at once, if the network is what they wait for
	// encoders has a place for each core, so that what is measured is
	// encoding and not the wait for it.
	encoders chan struct{}

	mu      sync.Mutex
	off     bool
	encode  rate // of one core, in raw bytes
	send    rate // of one segment under way
	line    line // of all of them, since compression was left
	tooSlow float64
	until   time.Time // tooSlow is believed
	again   time.Time // the compressor is measured
	measure int       // segments that are still compressed for that
}

func newCompressor(cores, sends int, limit func() bandwidth.Limit) *compressor {
	return &compressor{now: time.Now, limit: limit, cores: float64(cores), sends: float64(sends), encoders: make(chan struct{}, cores)}
}

// choose tells whether the next segment is to be compressed.
func (c *compressor) choose(wanted Compression) bool {
	if wanted != Auto {
		return wanted == Zstd
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decide()
	if !c.off {
		return true
	}
	if now := c.now(); now.After(c.again) {
		c.again, c.measure = now.Add(retried), enough
	}
	if c.measure > 0 {
		c.measure--
		return true
	}
	return false
}

// encoded notes how long one core took to compress so many bytes.
func (c *compressor) encoded(bytes int64, took time.Duration) {
	if bytes == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.encode.add(float64(bytes), took)
}

// sending notes that a segment is on its way, and returns the time.
func (c *compressor) sending(compressed bool) (began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	began = c.now()
	if !compressed {
		c.line.begin(began)
	}
	return began
}

// sent notes that a segment is stored, or that this failed.
func (c *compressor) sent(began time.Time, bytes int64, compressed, stored bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if stored {
		c.send.add(float64(bytes), now.Sub(began))
	}
	if !compressed {
		c.line.end(now, bytes, stored)
	}
}

// decide turns compression on or off; with mu held.
//
// With it, the network cannot take more than every segment at the pace of those
// under way now. That is a promise, made while few may be under way, so it is
// tried. Without it, what the network takes is seen.
func (c *compressor) decide() {
	if c.encode.samples < enough || c.send.samples < enough {
		return
	}
	processors := c.encode.value() * c.cores
	limit := math.Inf(1)
	if l := c.limit(); l != bandwidth.Unlimited {
		limit = float64(l)
	}
	now := c.now()
	if c.off {
		network := c.line.value()
		switch {
		case limit < processors:
			c.off = false
		case c.line.segments >= enough && c.line.busy >= settled:
			if network*margin < processors {
				c.off, c.tooSlow, c.until = false, network, now.Add(remembered)
			}
			c.line.forget(now)
		}
		return
	}
	network := min(limit, c.send.value()*c.sends)
	if now.Before(c.until) {
		network = min(network, c.tooSlow)
	}
	if network > processors*margin {
		c.off, c.again, c.measure = true, now.Add(retried), 0
		c.line.forget(now)
	}
}

// rate is a number of bytes a second, of which the latest count most.
type rate struct {
	bytes, seconds float64
	samples        int
}

func (r *rate) add(bytes float64, took time.Duration) {
	const fade = 0.8
	r.bytes, r.seconds = r.bytes*fade+bytes, r.seconds*fade+took.Seconds()
	r.samples++
}

func (r *rate) value() float64 { return r.bytes / max(r.seconds, 1e-9) }

// line measures what the segments that are sent together come to, over the
// time in which there are any.
type line struct {
	open     int
	since    time.Time // while there are any
	busy     time.Duration
	bytes    float64
	segments int
}

func (l *line) begin(now time.Time) {
	if l.open == 0 {
		l.since = now
	}
	l.open++
}

func (l *line) end(now time.Time, bytes int64, stored bool) {
	l.busy += now.Sub(l.since)
	l.since = now
	l.open--
	if stored {
		l.bytes += float64(bytes)
		l.segments++
	}
}

// forget begins anew, with the segments that are under way.
func (l *line) forget(now time.Time) { *l = line{open: l.open, since: now} }

func (l *line) value() float64 { return l.bytes / max(l.busy.Seconds(), 1e-9) }
