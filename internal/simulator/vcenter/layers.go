package vcenter

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// layer is one file of a disk's chain: the base disk, or the delta that a
// snapshot started. It holds the grains written while it was the live one.
type layer struct {
	file   string // path of the descriptor in its datastore
	cid    uint32 // content ID in the descriptor
	parent *layer
	pages  map[int64]page
	delta  *delta // its file, once somebody asked for it
}

// volume is the bytes of one disk: a base that never changes, and a tree of
// layers over it of which one is live. Every other layer is frozen. Its lock
// is a leaf: nothing else is locked while it is held, other volumes excepted.
type volume struct {
	mu       sync.RWMutex
	base     Base
	store    *pages
	closer   func() error
	size     int64
	live     *layer
	layers   []*layer
	held     map[*layer]int // by snapshots
	made     int64          // pages so far
	tracking tracking

	pins    int    // views in use outside of the lock
	dying   []page // pages that only such views can still see
	retired bool   // close when the last view is released
	closed  bool
}

func newVolume(o opened, size int64, file string) *volume {
	bottom := &layer{file: file, cid: newCID(), pages: map[int64]page{}}
	closer := o.close
	if closer == nil {
		closer = func() error { return nil }
	}
	return &volume{
		base: o.base, store: o.pages, closer: closer, size: size,
		live: bottom, layers: []*layer{bottom}, held: map[*layer]int{},
	}
}

// find returns the newest page for grain g as seen from top.
func (l *layer) find(g int64) (page, bool) {
	for ; l != nil; l = l.parent {
		if pg, ok := l.pages[g]; ok {
			return pg, true
		}
	}
	return page{}, false
}

// readAt fills p with what top and the layers below it hold. The caller holds
// the lock. Grains that no layer has are read from the base in one go.
func (v *volume) readAt(top *layer, p []byte, off int64) error {
	for len(p) > 0 {
		g, at := off/grain, int(off%grain)
		n := min(grain-at, len(p))
		if pg, ok := top.find(g); ok {
			if err := v.store.read(pg, p[:n], at); err != nil {
				return err
			}
			p, off = p[n:], off+int64(n)
			continue
		}
		for next := g + 1; n < len(p); next++ {
			if _, ok := top.find(next); ok {
				break
			}
			n = min(n+grain, len(p))
		}
		if err := v.readBase(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (v *volume) readBase(p []byte, off int64) error {
	n := 0
	if v.base != nil {
		n = int(min(max(v.base.Size()-off, 0), int64(len(p))))
	}
	if n > 0 {
		if m, err := v.base.ReadAt(p[:n], off); m < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read the disk's base at %d: %w", off, err)
		}
	}
	clear(p[n:])
	return nil
}

// readLive reads what the guest sees.
func (v *volume) readLive(p []byte, off int64) (int, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.readWithin(v.live, v.size, p, off)
}

// readWithin is io.ReaderAt over a view of the given size. The caller holds the lock.
func (v *volume) readWithin(top *layer, size int64, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	n := int(min(max(size-off, 0), int64(len(p))))
	if err := v.readAt(top, p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// write is a guest's write: it goes to the live layer and is noted in the
// change log under the same lock that freezes, so that no write can fall
// between a snapshot and its change ID.
func (v *volume) write(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if off < 0 || off+int64(len(p)) > v.size {
		return 0, fmt.Errorf("write of %d bytes at %d lies outside of a disk of %d bytes", len(p), off, v.size)
	}
	v.live.delta = nil
	done := 0
	for done < len(p) {
		g, at := off/grain, int(off%grain)
		n := min(grain-at, len(p)-done)
		if err := v.writeGrain(g, at, p[done:done+n]); err != nil {
			return done, err
		}
		v.tracking.mark(g)
		done, off = done+n, off+int64(n)
	}
	return done, nil
}

func (v *volume) writeGrain(g int64, at int, p []byte) error {
	old, here := v.live.pages[g]
	if here && !old.frozen {
		return v.store.write(old, p, at)
	}
	whole := p
	if len(p) < grain {
		whole = make([]byte, grain)
		if err := v.readAt(v.live, whole, g*grain); err != nil {
			return err
		}
		copy(whole[at:], p)
	}
	pg, err := v.store.add(whole)
	if err != nil {
		return err
	}
	v.made++
	pg.order = v.made
	v.live.pages[g] = pg
	if here {
		v.discard(old)
	}
	return nil
}

// freeze ends the live layer and starts a delta file over it. The caller holds
// the lock, and those of the other disks of the same snapshot.
func (v *volume) freeze() *layer {
	frozen := v.live
	v.held[frozen]++
	v.startDelta(frozen)
	return frozen
}

// startDelta makes a new, empty live layer over parent.
func (v *volume) startDelta(parent *layer) {
	v.live = &layer{file: v.freeDeltaName(), cid: newCID(), parent: parent, pages: map[int64]page{}}
	v.layers = append(v.layers, v.live)
}

func (v *volume) freeDeltaName() string {
	root := v.live
	for root.parent != nil {
		root = root.parent
	}
	for n := 1; ; n++ {
		name := deltaName(root.file, n)
		if !slices.ContainsFunc(v.layers, func(l *layer) bool { return l.file == name }) {
			return name
		}
	}
}

func (v *volume) release(l *layer) {
	if v.held[l]--; v.held[l] <= 0 {
		delete(v.held, l)
	}
}

// mergeable says whether the chain has layers that no snapshot needs.
func (v *volume) mergeable() bool {
	return slices.ContainsFunc(v.layers, func(l *layer) bool { return v.redundant(l) })
}

func (v *volume) redundant(l *layer) bool {
	return l != v.live && v.held[l] == 0 && len(v.children(l)) < 2
}

func (v *volume) children(l *layer) []*layer {
	var list []*layer
	for _, c := range v.layers {
		if c.parent == l {
			list = append(list, c)
		}
	}
	return list
}

// consolidate merges or drops every layer that no snapshot needs any more. As
// in vSphere the surviving layer keeps the lower one's file name. The caller
// holds the lock.
func (v *volume) consolidate() {
	for {
		i := slices.IndexFunc(v.layers, v.redundant)
		if i < 0 {
			return
		}
		l := v.layers[i]
		if kids := v.children(l); len(kids) == 1 {
			v.merge(l, kids[0])
		} else {
			for _, pg := range l.pages {
				v.discard(pg)
			}
		}
		v.layers = slices.Delete(v.layers, i, i+1)
	}
}

// merge lets upper take over what lower holds, and lower's name. Views that
// are still open may look at lower's map and pages: then these stay as they
// are, and upper gets them marked as frozen.
func (v *volume) merge(lower, upper *layer) {
	shared := v.pins > 0
	if !shared && len(lower.pages) > len(upper.pages) {
		for g, pg := range upper.pages {
			if old, ok := lower.pages[g]; ok {
				v.discard(old)
			}
			lower.pages[g] = pg
		}
		upper.pages = lower.pages
	} else {
		for g, pg := range lower.pages {
			if _, ok := upper.pages[g]; ok {
				v.discard(pg)
				continue
			}
			pg.frozen = pg.frozen || shared
			upper.pages[g] = pg
		}
	}
	upper.parent, upper.file, upper.delta = lower.parent, lower.file, nil
}

// discard gives a page back once no view can see it.
func (v *volume) discard(pg page) {
	if v.pins > 0 {
		v.dying = append(v.dying, pg)
		return
	}
	v.store.drop(pg)
}

// retire closes the volume as soon as nothing reads from it any more; at once
// closes it in any case.
func (v *volume) retire(atOnce bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = true
	if v.pins > 0 && !atOnce {
		return nil
	}
	return v.close()
}

func (v *volume) close() error {
	if v.closed {
		return nil
	}
	v.closed = true
	return v.closer()
}

// allocated lists the extents that hold data as seen from top, rounded to
// grains and cut at size. The caller holds the lock.
func (v *volume) allocated(top *layer, size int64) ([]Extent, error) {
	written := map[int64]bool{}
	for l := top; l != nil; l = l.parent {
		for g := range l.pages {
			written[g] = true
		}
	}
	list := grainExtents(written)
	if v.base != nil {
		base, err := v.base.Allocated()
		if err != nil {
			return nil, err
		}
		for _, e := range base {
			start := e.Offset / grain * grain
			list = append(list, Extent{start, roundUp(e.End()) - start})
		}
	}
	return union(list, size), nil
}

// view is what a disk held at one moment. It stays readable, whatever is
// written, merged or removed, until it is released.
type view struct {
	v    *volume
	top  *layer
	size int64
	once sync.Once
}

// pin opens a view of top. The caller holds the lock for writing.
func (v *volume) pin(top *layer, size int64) *view {
	v.pins++
	chain := *top // merging changes a layer's parent: a view keeps its own links
	for l := &chain; l.parent != nil; l = l.parent {
		below := *l.parent
		l.parent = &below
	}
	return &view{v: v, top: &chain, size: size}
}

// ReadAt implements io.ReaderAt.
func (w *view) ReadAt(p []byte, off int64) (int, error) {
	w.v.mu.RLock()
	defer w.v.mu.RUnlock()
	return w.v.readWithin(w.top, w.size, p, off)
}

func (w *view) release() (err error) {
	w.once.Do(func() {
		w.v.mu.Lock()
		defer w.v.mu.Unlock()
		if w.v.pins--; w.v.pins > 0 {
			return
		}
		for _, pg := range w.v.dying {
			w.v.store.drop(pg)
		}
		w.v.dying = nil
		if w.v.retired {
			err = w.v.close()
		}
	})
	return err
}
