package sourcetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/hypervisor"
	"skylift/hypervisor/sourcetest"
	"skylift/internal/problem"
)

// world is a platform in memory. It has anchors, and streams that it gives up
// when they are held up: what vSphere's ways mostly are not.
type world struct {
	wrong mutation // what its sources do wrong

	mu      sync.Mutex
	servers []*server
	anchors []hypervisor.Anchor
	given   int           // IDs given out
	clock   int64         // counts writes and snapshots
	changed chan struct{} // closed when something about servers changes
	expired int           // how often sessions have
	decide  func(int) sourcetest.Fate
	calls   int
	stops   []func()
}

// server is a server of the world's.
type server struct {
	id        hypervisor.ServerID
	name      string
	disks     []*disk // removed ones are nil
	leftOut   int
	snapshots []*frozen
}

type disk struct {
	id      hypervisor.DiskID
	data    []byte
	log     []write
	epoch   int // of tracking
	spoiled bool
}

type write struct {
	at     int64 // by the world's clock
	extent hypervisor.Extent
}

// frozen is a snapshot.
type frozen struct {
	id, name string
	created  time.Time
	at       int64
	disks    []*frozenDisk
}

type frozenDisk struct {
	of       *disk
	data     []byte
	changeID hypervisor.ChangeID
}

const namePrefix = "skylift-"

func newWorld(t testing.TB, wrong mutation) *world {
	w := &world{wrong: wrong, changed: make(chan struct{})}
	t.Cleanup(func() {
		w.Intercept(nil)
		for _, stop := range w.stops {
			stop()
		}
	})
	return w
}

func (w *world) Traits() sourcetest.Traits {
	return sourcetest.Traits{Quiesce: hypervisor.Quiesced, ForeignReadable: true, Anchors: true, Calls: 40}
}

// id gives out the next identity. The caller holds mu, as of all below.
func (w *world) id(kind string) string {
	w.given++
	return kind + "-" + strconv.Itoa(w.given)
}

func (w *world) tell() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) find(id hypervisor.ServerID) *server {
	for _, s := range w.servers {
		if s.id == id {
			return s
		}
	}
	return nil
}

// change does something to a server as its owner does.
func (w *world) change(t testing.TB, id hypervisor.ServerID, do func(*server)) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.find(id)
	if s == nil {
		t.Errorf("there is no server %s", id)
		return
	}
	do(s)
	w.tell()
}

func (w *world) newDisk(size int64) *disk {
	return &disk{id: hypervisor.DiskID(w.id("disk")), data: make([]byte, size)}
}

func (w *world) AddServer(_ testing.TB, name string, disks ...int64) hypervisor.ServerID {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &server{id: hypervisor.ServerID(w.id("server")), name: name}
	for _, size := range disks {
		s.disks = append(s.disks, w.newDisk(size))
	}
	w.servers = append(w.servers, s)
	w.tell()
	return s.id
}

func (w *world) RenameServer(t testing.TB, id hypervisor.ServerID, name string) {
	t.Helper()
	w.change(t, id, func(s *server) { s.name = name })
}

func (w *world) RemoveServer(t testing.TB, id hypervisor.ServerID) {
	t.Helper()
	w.change(t, id, func(s *server) {
		w.servers = slices.DeleteFunc(w.servers, func(o *server) bool { return o == s })
		w.anchors = slices.DeleteFunc(w.anchors, func(a hypervisor.Anchor) bool { return a.Server == id })
	})
}

func (w *world) Write(t testing.TB, id hypervisor.ServerID, n int, off int64, p []byte) {
	t.Helper()
	w.change(t, id, func(s *server) {
		w.clock++
		d := s.disks[n]
		copy(d.data[off:], p)
		d.log = append(d.log, write{w.clock, hypervisor.Extent{Offset: off, Length: int64(len(p))}})
	})
}

func (w *world) Grow(t testing.TB, id hypervisor.ServerID, n int, size int64) {
	t.Helper()
	w.change(t, id, func(s *server) {
		d := s.disks[n]
		d.data = append(bytes.Clone(d.data), make([]byte, size-int64(len(d.data)))...)
		if w.wrong == growthRenames {
			d.id = hypervisor.DiskID(w.id("disk"))
		}
	})
}

func (w *world) AddDisk(t testing.TB, id hypervisor.ServerID, size int64) {
	t.Helper()
	w.change(t, id, func(s *server) { s.disks = append(s.disks, w.newDisk(size)) })
}

func (w *world) RemoveDisk(t testing.TB, id hypervisor.ServerID, n int) {
	t.Helper()
	w.change(t, id, func(s *server) { s.disks[n] = nil })
}

func (w *world) AddLeftOut(t testing.TB, id hypervisor.ServerID, _ int64) (subject string) {
	t.Helper()
	w.change(t, id, func(s *server) {
		s.leftOut++
		subject = "pass-through disk " + strconv.Itoa(s.leftOut)
	})
	return subject
}

func (w *world) SpoilDisk(t testing.TB, id hypervisor.ServerID, n int) {
	t.Helper()
	w.change(t, id, func(s *server) { s.disks[n].spoiled = true })
}

func (w *world) LoseTracking(t testing.TB, id hypervisor.ServerID) {
	t.Helper()
	w.change(t, id, func(s *server) {
		for _, d := range s.disks {
			d.epoch++
		}
	})
}

// freeze takes a snapshot.
func (w *world) freeze(s *server, name string) *frozen {
	w.clock++
	f := &frozen{id: w.id("snapshot"), name: name, created: time.Now().Truncate(time.Microsecond), at: w.clock}
	for _, d := range s.disks {
		if d != nil {
			f.disks = append(f.disks, &frozenDisk{d, bytes.Clone(d.data), changeID(d.epoch, f.at)})
		}
	}
	s.snapshots = append(s.snapshots, f)
	return f
}

func changeID(epoch int, at int64) hypervisor.ChangeID {
	return hypervisor.ChangeID(fmt.Sprintf("%d/%d", epoch, at))
}

func (w *world) TakeForeign(t testing.TB, id hypervisor.ServerID, name string) {
	t.Helper()
	w.change(t, id, func(s *server) { w.freeze(s, name) })
}

func (w *world) RevertToForeign(t testing.TB, id hypervisor.ServerID, name string) {
	t.Helper()
	w.change(t, id, func(s *server) {
		i := slices.IndexFunc(s.snapshots, func(f *frozen) bool { return f.name == name })
		for _, d := range s.snapshots[i].disks {
			d.of.data = bytes.Clone(d.data)
			d.of.epoch++
		}
	})
}

func (w *world) DeleteSnapshot(t testing.TB, ref hypervisor.SnapshotRef) {
	t.Helper()
	w.change(t, ref.Server, func(s *server) { s.drop(ref.ID) })
}

func (s *server) drop(id string) {
	s.snapshots = slices.DeleteFunc(s.snapshots, func(f *frozen) bool { return f.id == id })
}

func (w *world) SnapshotNames(testing.TB) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		for _, f := range s.snapshots {
			names = append(names, f.name)
		}
	}
	return names
}

func (w *world) ExpireSessions(testing.TB) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expired++
}

func (w *world) Intercept(decide func(int) sourcetest.Fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decide, w.calls = decide, 0
}

var errRefused = errors.New("the platform refuses, or does not answer")

// call is everything that a source asks of the platform: do happens at once,
// unless the suite decides otherwise.
func (w *world) call(ctx context.Context, do func() error) error {
	w.mu.Lock()
	w.calls++
	n, decide := w.calls, w.decide
	w.mu.Unlock()
	fate := sourcetest.Pass
	if decide != nil {
		fate = decide(n)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if fate == sourcetest.Refuse {
		return errRefused
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	if fate == sourcetest.Lose {
		return errRefused
	}
	return nil
}

var unreadableDisk = &problem.Kind{Code: "spoiled", Title: "the disk is spoiled", Hint: "Take another one"}

// runOf tells whose snapshot a name is.
func runOf(name string) (hypervisor.RunID, bool) {
	run, ours := strings.CutPrefix(name, namePrefix)
	return hypervisor.RunID(run), ours
}
