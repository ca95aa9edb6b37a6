package sourcetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

// mutation is one thing that a source does wrong.
type mutation string

// source is a source of a world's servers.
type source struct {
	*world
	closed  context.Context
	stop    context.CancelFunc
	session int // how many expiries it has logged in after
}

func (w *world) Source(testing.TB) (hypervisor.Source, func()) {
	s := &source{world: w}
	s.closed, s.stop = context.WithCancel(context.Background())
	w.mu.Lock()
	defer w.mu.Unlock()
	s.session = w.expired
	w.stops = append(w.stops, s.stop)
	return s, s.stop
}

// ask is a call that survives an expired session.
func (s *source) ask(ctx context.Context, do func() error) error {
	return s.call(ctx, func() error {
		if s.session != s.expired {
			if s.wrong == staysLoggedOut {
				return errors.New("not authenticated")
			}
			s.session = s.expired
		}
		return do()
	})
}

func (s *source) Properties() hypervisor.Properties {
	p := hypervisor.Properties{Platform: "memory", SnapshotLimit: 4, DiskLimit: 4, Tracking: true}
	if s.wrong == limitless {
		p.DiskLimit = 0
	}
	return p
}

func (s *source) describe(m *server) *hypervisor.Server {
	d := &hypervisor.Server{ID: m.id, Name: m.name, Path: "/" + m.name, ManagerID: string(m.id), PoweredOn: true, CPUs: 1, MemoryMiB: 1}
	for i, k := range m.disks {
		if k != nil {
			d.Disks = append(d.Disks, hypervisor.ServerDisk{ID: k.id, Name: strconv.Itoa(i), Size: int64(len(k.data))})
		}
	}
	for i := range m.leftOut {
		d.Disks = append(d.Disks, hypervisor.ServerDisk{ID: hypervisor.DiskID("left out " + strconv.Itoa(i)), Skip: "it is passed through"})
	}
	return d
}

func (s *source) Watch(ctx context.Context, emit func(hypervisor.Change) error) error {
	told := map[hypervisor.ServerID]string{}
	for first := true; ; first = false {
		var list []hypervisor.Change
		var changed chan struct{}
		err := s.ask(ctx, func() error {
			changed = s.changed
			now := map[hypervisor.ServerID]bool{}
			for _, m := range s.servers {
				now[m.id] = true
				d := s.describe(m)
				if text := fmt.Sprintf("%+v", *d); told[m.id] != text {
					told[m.id] = text
					list = append(list, hypervisor.Change{Server: d})
				}
			}
			for id := range told {
				if !now[id] {
					delete(told, id)
					list = append(list, hypervisor.Change{Gone: id})
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if first {
			if s.wrong == listsOnePage {
				list = list[:min(len(list), 100)]
			}
			list = append(list, hypervisor.Change{Synced: true})
		}
		for _, c := range list {
			if err := emit(c); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed.Done():
			return errors.New("closed")
		}
	}
}

func (s *source) Check(ctx context.Context, id hypervisor.ServerID) (r hypervisor.Report, err error) {
	err = s.ask(ctx, func() error {
		m := s.find(id)
		if m == nil {
			return errors.New("no such server")
		}
		r.Facts = []hypervisor.Fact{{Name: "memory", Value: "all there"}}
		for i := range m.leftOut {
			if s.wrong == concealsDisks {
				continue
			}
			r.Findings = append(r.Findings, hypervisor.Finding{
				Code: "left-out", Blocks: true, Subject: "pass-through disk " + strconv.Itoa(i+1), What: "it is passed through", Hint: "Leave it out",
			})
		}
		return nil
	})
	return r, err
}

func (s *source) CheckSource(ctx context.Context) (r hypervisor.Report, err error) {
	err = s.ask(ctx, func() error {
		r.Facts = []hypervisor.Fact{{Name: "version", Value: "1"}}
		return nil
	})
	return r, err
}

func (s *source) Shares(ctx context.Context, id hypervisor.ServerID) (list []hypervisor.Share, err error) {
	err = s.ask(ctx, func() error {
		if s.find(id) == nil {
			return errors.New("no such server")
		}
		list = []hypervisor.Share{{Kind: "shelf", Name: "s1", Of: "snapshots", Limit: 3}}
		return nil
	})
	return list, err
}

func (s *source) reference(m *server, f *frozen) hypervisor.SnapshotRef {
	run, _ := runOf(f.name)
	return hypervisor.SnapshotRef{Server: m.id, Run: run, ID: f.id, Created: f.created}
}

func (s *source) Snapshot(ctx context.Context, run hypervisor.RunID, servers []hypervisor.ServerID, _ hypervisor.Quiesce) (refs []hypervisor.SnapshotRef, err error) {
	var mine []hypervisor.SnapshotRef // that this call made, or may have made
	defer func() {
		if err == nil || s.wrong == leaks {
			return
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		for _, ref := range mine {
			err = errors.Join(err, s.undo(undo, ref))
		}
	}()
	for _, id := range servers {
		if err := s.untilFree(ctx, run, id); err != nil {
			return nil, err
		}
		var ref hypervisor.SnapshotRef
		mine = append(mine, hypervisor.SnapshotRef{Server: id, Run: run})
		err := s.ask(ctx, func() error {
			m := s.find(id)
			if m == nil {
				return errors.New("no such server")
			}
			for _, f := range m.snapshots {
				if f.name == namePrefix+string(run) && s.wrong != snapshotsTwice {
					ref, mine = s.reference(m, f), mine[:len(mine)-1]
					return nil
				}
			}
			ref = s.reference(m, s.freeze(m, namePrefix+string(run)))
			return nil
		})
		if err != nil {
			return nil, err
		}
		ref.Consistency = hypervisor.Quiesced
		refs = append(refs, ref)
	}
	if s.wrong == notesLate {
		// Changes that came behind the freeze count as told already.
		_ = s.ask(ctx, func() error {
			for _, ref := range refs {
				_, f := s.lookUp(ref)
				for _, d := range f.disks {
					d.changeID = changeID(d.of.epoch, s.clock+3)
				}
			}
			return nil
		})
	}
	return refs, nil
}

// undo removes a snapshot by its name.
func (s *source) undo(ctx context.Context, ref hypervisor.SnapshotRef) error {
	return s.ask(ctx, func() error {
		if m := s.find(ref.Server); m != nil {
			m.snapshots = slices.DeleteFunc(m.snapshots, func(f *frozen) bool { return f.name == namePrefix+string(ref.Run) })
		}
		return nil
	})
}

// untilFree waits until no other run's snapshot is on the server.
func (s *source) untilFree(ctx context.Context, run hypervisor.RunID, id hypervisor.ServerID) error {
	for s.wrong != wrongOrder {
		older, changed := "", (chan struct{})(nil)
		err := s.ask(ctx, func() error {
			changed = s.changed
			if m := s.find(id); m != nil {
				for _, f := range m.snapshots {
					if other, ours := runOf(f.name); ours && other != run {
						older = f.name
					}
				}
			}
			return nil
		})
		if err != nil || older == "" {
			return err
		}
		over := func() {}
		if s.wrong != waitsSilently {
			over = hypervisor.Waiting(ctx, older+" is not gone yet")
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		over()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// lookUp finds a snapshot by its identity.
func (s *source) lookUp(ref hypervisor.SnapshotRef) (*server, *frozen) {
	m := s.find(ref.Server)
	if m == nil {
		return nil, nil
	}
	for _, f := range m.snapshots {
		if f.id == ref.ID || s.wrong == confusesSnapshots && f.name == namePrefix+string(ref.Run) {
			return m, f
		}
	}
	return m, nil
}

func (s *source) Held(ctx context.Context) (held []hypervisor.SnapshotRef, anchors []hypervisor.Anchor, err error) {
	err = s.ask(ctx, func() error {
		for _, m := range s.servers {
			for _, f := range m.snapshots {
				if _, ours := runOf(f.name); (ours || s.wrong == claimsForeign) && s.wrong != forgets {
					held = append(held, s.reference(m, f))
				}
			}
		}
		if s.wrong != forgetsAnchors {
			anchors = slices.Clone(s.anchors)
		}
		return nil
	})
	return held, anchors, err
}

func (s *source) Settle(ctx context.Context, ref hypervisor.SnapshotRef) (a hypervisor.Anchor, err error) {
	err = s.ask(ctx, func() error {
		m, f := s.lookUp(ref)
		for _, known := range s.anchors {
			if known.Server == ref.Server && known.Run == ref.Run {
				a = known
				if f == nil && s.wrong == settlesOnce {
					return errors.New("settled already")
				}
			}
		}
		if f == nil {
			return nil
		}
		if a == (hypervisor.Anchor{}) {
			a = hypervisor.Anchor{Server: ref.Server, Run: ref.Run, ID: s.id("anchor")}
			s.anchors = append(s.anchors, a)
		}
		m.drop(ref.ID)
		s.tell()
		return nil
	})
	return a, err
}

func (s *source) Remove(ctx context.Context, ref hypervisor.SnapshotRef) error {
	if s.wrong == removesLater {
		go func() {
			<-time.After(300 * time.Millisecond)
			_ = s.remove(context.Background(), ref)
		}()
		return nil
	}
	return s.remove(ctx, ref)
}

func (s *source) remove(ctx context.Context, ref hypervisor.SnapshotRef) error {
	return s.ask(ctx, func() error {
		m, f := s.lookUp(ref)
		if m != nil && f == nil && s.wrong == removesOnce {
			return errors.New("no such snapshot")
		}
		if m != nil && s.wrong == removesAll {
			m.snapshots = nil
		}
		if m != nil {
			m.drop(ref.ID)
			s.tell()
		}
		return nil
	})
}

func (s *source) Release(ctx context.Context, a hypervisor.Anchor) error {
	return s.ask(ctx, func() error {
		if s.wrong != keepsAnchors {
			s.anchors = slices.DeleteFunc(s.anchors, func(o hypervisor.Anchor) bool { return o == a })
		}
		return nil
	})
}

// snapshot is an open snapshot.
type snapshot struct {
	*source
	ref   hypervisor.SnapshotRef
	disks []hypervisor.Disk
}

func (s *source) Open(ctx context.Context, ref hypervisor.SnapshotRef) (hypervisor.Snapshot, error) {
	sn := &snapshot{source: s, ref: ref}
	err := s.ask(ctx, func() error {
		_, f := s.lookUp(ref)
		if f == nil {
			return hypervisor.SnapshotGone.New(nil, "%s", ref.ID)
		}
		for i, d := range f.disks {
			if d.of.spoiled && s.wrong == dropsSpoiled {
				continue
			}
			sn.disks = append(sn.disks, &openDisk{sn, d, i})
		}
		return nil
	})
	return sn, err
}

func (sn *snapshot) Disks() []hypervisor.Disk { return sn.disks }
func (sn *snapshot) Close() error             { return nil }

func (sn *snapshot) Verify(ctx context.Context) error {
	return sn.ask(ctx, func() error {
		if _, f := sn.lookUp(sn.ref); f == nil && sn.wrong != trusts {
			return hypervisor.SnapshotGone.New(nil, "%s", sn.ref.ID)
		}
		return nil
	})
}

// openDisk is read as a stream that is given up when it is held up.
type openDisk struct {
	*snapshot
	*frozenDisk
	position int
}

const streamPatience = 2 * time.Second

func (d *openDisk) Info() hypervisor.DiskInfo {
	info := hypervisor.DiskInfo{
		ID: d.of.id, Size: int64(len(d.data)), Name: "disk " + strconv.Itoa(d.position), Position: d.position, ChangeID: d.changeID,
		Transport: "memory", Why: "there is no other", Patience: streamPatience,
		Shares: []hypervisor.Share{{Kind: "shelf", Name: "s1", Of: "disks", Limit: 2}},
	}
	if d.of.spoiled {
		info.Transport, info.Why = "", "it is spoiled"
	}
	return info
}

// parse takes a change ID apart.
func parse(id hypervisor.ChangeID) (epoch int, at int64, ok bool) {
	a, b, cut := strings.Cut(string(id), "/")
	epoch, err1 := strconv.Atoi(a)
	at, err2 := strconv.ParseInt(b, 10, 64)
	return epoch, at, cut && err1 == nil && err2 == nil
}

func (d *openDisk) Changed(ctx context.Context, since hypervisor.ChangeID, emit func(hypervisor.Extent) error) error {
	whole := []hypervisor.Extent{{Length: int64(len(d.data))}}
	var list []hypervisor.Extent
	err := d.ask(ctx, func() error {
		_, f := d.lookUp(d.ref)
		epoch, at, ok := parse(since)
		now, _, _ := parse(d.changeID)
		switch {
		case f == nil && d.wrong != trusts:
			return hypervisor.SnapshotGone.New(nil, "%s", d.ref.ID)
		case d.of.spoiled:
			return unreadableDisk.New(nil, "disk %d", d.position)
		case since == "":
			list = whole
			if d.wrong == callsAllZero {
				list = nil
			}
		case (!ok || epoch != now) && d.wrong == comparesSilently:
			list = whole
		case (!ok || epoch != now) && d.wrong == guesses:
		case !ok || epoch != now:
			return &hypervisor.TrackingError{Reason: "tracking was reset"}
		default:
			for i, w := range d.of.log {
				if w.at > at && w.at <= d.at(f) && (d.wrong != omits || i%2 == 0) {
					e := w.extent
					end := min((e.End()+511)/512*512, int64(len(d.data)))
					e.Offset -= e.Offset % 512
					e.Length = end - e.Offset
					list = append(list, e)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if d.wrong != unsorted {
		list = ascending(list)
	}
	for _, e := range list {
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

func (d *openDisk) at(f *frozen) int64 {
	if f == nil {
		return 0
	}
	return f.at
}

// ascending sorts extents and joins those that touch.
func ascending(list []hypervisor.Extent) (out []hypervisor.Extent) {
	slices.SortFunc(list, func(a, b hypervisor.Extent) int { return int(a.Offset - b.Offset) })
	for _, e := range list {
		if n := len(out); n > 0 && out[n-1].End() >= e.Offset {
			out[n-1].Length = max(out[n-1].End(), e.End()) - out[n-1].Offset
			continue
		}
		out = append(out, e)
	}
	return out
}

func (d *openDisk) Read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	var last int64
	for _, e := range in {
		bad := e.Offset < last || e.Length < 0 || e.Offset%hypervisor.BlockSize != 0 || e.End() > int64(len(d.data)) ||
			e.End()%hypervisor.BlockSize != 0 && e.End() != int64(len(d.data))
		if bad && d.wrong != readsAnything {
			return fmt.Errorf("extent %+v", e)
		}
		last = e.End()
	}
	if d.of.spoiled {
		return unreadableDisk.New(nil, "disk %d", d.position)
	}
	if d.wrong == ignoresContexts {
		ctx = context.WithoutCancel(ctx)
	}
	if d.wrong == leavesGoroutines {
		go func() { <-d.closed.Done(); <-time.After(time.Minute) }()
	}
	for _, e := range in {
		for off := e.Offset; off < e.End(); off += hypervisor.BlockSize {
			n := max(0, min(hypervisor.BlockSize, e.End()-off))
			p := make([]byte, n)
			err := d.ask(ctx, func() error {
				if d.wrong == readsAnything {
					return nil
				}
				if _, f := d.lookUp(d.ref); f == nil && d.wrong != readsOn {
					return hypervisor.SnapshotGone.New(nil, "%s", d.ref.ID)
				} else if f == nil || d.wrong == readsLive {
					copy(p, d.of.data[off:])
					return nil
				}
				copy(p, d.data[off:])
				return nil
			})
			if err != nil && (d.wrong != readsThrough || problem.Has(err, hypervisor.SnapshotGone)) {
				return err
			}
			began := time.Now()
			if err := emit(off, p, n); err != nil {
				if d.wrong == hidesErrors {
					return nil
				}
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Since(began) > streamPatience {
				if d.wrong == skipsWhenHeldUp {
					off += hypervisor.BlockSize
					continue
				}
				return errors.New("the stream was held up for too long and is gone")
			}
		}
	}
	return nil
}
