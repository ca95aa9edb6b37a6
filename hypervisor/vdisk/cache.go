package vdisk

import (
	"context"
	"sync"
)

// cached is how many tables and directory pages a layout keeps: at most 2 MiB
// of the largest tables, which map 1 GiB.
const cached = 64

// cache keeps the tables used last. Its zero value is ready.
type cache struct {
	mu   sync.Mutex
	held map[span]*cachedTable
	tick uint64 // counts uses
}

// span is a byte range of a file.
type span struct{ off, length int64 }

type cachedTable struct {
	used  uint64        // when, by the cache's tick
	ready chan struct{} // closed when what follows is set
	bytes []byte
	err   error
	// abandoned says that err is about the one who read, not about the file.
	abandoned bool
}

// get returns length bytes of f at off, which must be inside f and not be
// changed. Of many that ask at once, one reads.
func (c *cache) get(ctx context.Context, f File, off, length int64) ([]byte, error) {
	for {
		t, mine := c.take(span{off, length})
		if mine {
			c.read(ctx, f, span{off, length}, t)
			return t.bytes, t.err
		}
		select {
		case <-t.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !t.abandoned {
			return t.bytes, t.err
		}
	}
}

// take finds a table, or makes one that the caller has to read.
func (c *cache) take(at span) (t *cachedTable, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick++
	if t := c.held[at]; t != nil {
		t.used = c.tick
		return t, false
	}
	if c.held == nil {
		c.held = map[span]*cachedTable{}
	}
	for len(c.held) >= cached && c.evict() {
	}
	t = &cachedTable{used: c.tick, ready: make(chan struct{})}
	c.held[at] = t
	return t, true
}

// evict drops the table that was used the longest ago. Those being read stay,
// so that nobody reads them twice.
func (c *cache) evict() bool {
	var oldest span
	var found *cachedTable
	for at, t := range c.held {
		if t.bytes != nil && (found == nil || t.used < found.used) {
			oldest, found = at, t
		}
	}
	delete(c.held, oldest)
	return found != nil
}

func (c *cache) read(ctx context.Context, f File, at span, t *cachedTable) {
	p := make([]byte, at.length)
	err := f.ReadAt(ctx, p, at.off)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(t.ready)
	if err != nil {
		t.err, t.abandoned = err, ctx.Err() != nil
		delete(c.held, at)
		return
	}
	t.bytes = p
}
