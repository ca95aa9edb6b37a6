package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/hypervisor"
)

// patience is the most that any single step may take.
const patience = 2 * time.Minute

// part is one demand of the contract.
type part struct {
	name string
	test func(testing.TB, Platform)
}

// parts are all demands. They take a testing.TB, so that the suite's own tests
// can see which of them a wrong source fails.
var parts = []part{
	{"properties are constant and sane", properties},
	{"shares are named, limited and constant", sharesAreSane},
	{"watch lists all servers once and then tells what changes", watchTells},
	{"watch lists many servers, each once", watchMany},
	{"watch ends with the receiver's error", watchStops},
	{"watch goes on after sessions expired", watchSurvivesExpiry},
	{"a check tells what it saw, and of an unknown server nothing", checks},
	{"a disk that snapshots leave out is reported and harms no other", leftOut},
	{"a disk that cannot be read keeps its reason and harms no other", unreadable},
	{"a snapshot is made once however often it is asked for", snapshotOnce},
	{"a snapshot freezes several servers", snapshotMany},
	{"a new snapshot waits until the earlier one is gone", snapshotWaits},
	{"a new snapshot says what it waits for", snapshotTellsWaits},
	{"snapshots of several servers fail together and leave nothing", snapshotAllOrNothing},
	{"held finds our snapshots after a restart and no others", heldFinds},
	{"remove and settle leave nothing and can be repeated", removeRepeats},
	{"remove leaves foreign snapshots alone", removeSparesForeign},
	{"a snapshot that vanished is reported as gone", snapshotGone},
	{"a snapshot that vanishes while it is read never gives wrong bytes", snapshotVanishes},
	{"anchors stay until they are released", anchorsStay},
	{"identities survive snapshots, growth and restarts", identitiesStay},
	{"disks come and go and the others stay what they are", disksComeAndGo},
	{"reads give the frozen bytes while the guest writes", readsFrozen},
	{"many reads at a time give the same bytes", readsConcurrently},
	{"a read ends with the receiver's error and with its context", readStops},
	{"a stream that is held up beyond its patience ends or goes on", readHeldUp},
	{"reads refuse extents that break the contract", readRefuses},
	{"changes cover every write and come in order", changesCover},
	{"changes of many areas come complete", changesMany},
	{"without a change ID everything that is not zero is told", changesFromNothing},
	{"lost tracking is told and never guessed", trackingLost},
	{"a revert by somebody else makes tracking unusable", trackingReverted},
	{"a grown disk has its new size and its bytes", diskGrows},
	{"every call survives an expired session", survivesExpiry},
	{"a refused call leaks nothing, whichever it is", func(t testing.TB, p Platform) { faultAtEveryCall(t, p, Refuse) }},
	{"a lost answer leaks nothing, whichever it is", func(t testing.TB, p Platform) { faultAtEveryCall(t, p, Lose) }},
	{"a cancellation leaks nothing, whenever it comes", cancelAtEveryCall},
	{"questions end with a refused call or a cancellation, whenever it comes", questionsEnd},
}

// Run runs the suite; start makes a fresh platform.
func Run(t *testing.T, start func(t testing.TB) Platform) {
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) { part.test(t, start(t)) })
	}
}

// guest is a server whose disks' bytes the suite knows.
type guest struct {
	p  Platform
	id hypervisor.ServerID

	mu    sync.Mutex
	disks [][]byte
}

// addGuest makes a server with some written blocks on each disk.
func addGuest(t testing.TB, p Platform, name string, sizes ...int64) *guest {
	t.Helper()
	g := &guest{p: p, id: p.AddServer(t, name, sizes...)}
	random := rand.New(rand.NewPCG(1, uint64(len(name))))
	for i, size := range sizes {
		g.disks = append(g.disks, make([]byte, size))
		for range 3 {
			g.scribble(t, random, i)
		}
		g.write(t, i, size-700, bytes.Repeat([]byte{0xee}, 700)) // the end of a disk is easily missed
	}
	return g
}

func (g *guest) write(t testing.TB, disk int, off int64, p []byte) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	copy(g.disks[disk][off:], p)
	g.p.Write(t, g.id, disk, off, p)
}

// scribble writes random bytes somewhere.
func (g *guest) scribble(t testing.TB, random *rand.Rand, disk int) hypervisor.Extent {
	t.Helper()
	g.mu.Lock()
	size := int64(len(g.disks[disk]))
	g.mu.Unlock()
	p := make([]byte, 1+random.IntN(100_000))
	for i := range p {
		p[i] = byte(random.Uint32())
	}
	off := random.Int64N(size - int64(len(p)))
	g.write(t, disk, off, p)
	return hypervisor.Extent{Offset: off, Length: int64(len(p))}
}

// frozen copies the disks as they are now: the truth about a snapshot taken
// before the next write.
func (g *guest) frozen() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all [][]byte
	for _, d := range g.disks {
		all = append(all, bytes.Clone(d))
	}
	return all
}

func (g *guest) addDisk(t testing.TB, size int64) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disks = append(g.disks, make([]byte, size))
	g.p.AddDisk(t, g.id, size)
}

// setBack gives the guest back what its disks held.
func (g *guest) setBack(disks [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disks = disks
}

func (g *guest) grow(t testing.TB, disk int, size int64) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disks[disk] = append(g.disks[disk], make([]byte, size-int64(len(g.disks[disk])))...)
	g.p.Grow(t, g.id, disk, size)
}

// newContext bounds one step. It does not end with the test: what a clean-up
// asks for must still be possible.
func newContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// take makes a snapshot of one guest and opens it.
func take(t testing.TB, s hypervisor.Source, run hypervisor.RunID, g *guest) (hypervisor.SnapshotRef, hypervisor.Snapshot) {
	t.Helper()
	ctx := newContext(t)
	refs, err := s.Snapshot(ctx, run, []hypervisor.ServerID{g.id}, hypervisor.QuiesceNever)
	if err != nil {
		t.Fatalf("snapshot for %s: %v", run, err)
	}
	if len(refs) != 1 || refs[0].Server != g.id || refs[0].Run != run || refs[0].ID == "" || refs[0].Created.IsZero() {
		t.Fatalf("the snapshot's references are %+v", refs)
	}
	sn, err := s.Open(ctx, refs[0])
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := sn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return refs[0], sn
}

func settle(t testing.TB, s hypervisor.Source, ref hypervisor.SnapshotRef) {
	t.Helper()
	if _, err := s.Settle(newContext(t), ref); err != nil {
		t.Fatalf("settle: %v", err)
	}
}

// readWhole reads a disk and checks the order and form of what is emitted.
func readWhole(ctx context.Context, d hypervisor.Disk) ([]byte, error) {
	size := d.Info().Size
	return readExtents(ctx, d, []hypervisor.Extent{{Offset: 0, Length: size}})
}

func readExtents(ctx context.Context, d hypervisor.Disk, in []hypervisor.Extent) ([]byte, error) {
	got := make([]byte, d.Info().Size)
	next, i := int64(-1), -1
	var busy sync.Mutex
	err := d.Read(ctx, in, func(off int64, p []byte, n int64) error {
		if !busy.TryLock() {
			return errors.New("emit is called twice at a time")
		}
		defer busy.Unlock()
		if i < 0 || next == in[i].End() {
			i++
			next = in[i].Offset
		}
		if off != next || off < 0 || off+n > d.Info().Size || n <= 0 || p != nil && int64(len(p)) != n || off+n > in[i].End() {
			return fmt.Errorf("emitted %d bytes at %d, expected those from %d in %v", n, off, next, in[i])
		}
		if p != nil {
			copy(got[off:], p)
		}
		next = off + n
		return nil
	})
	if err == nil && (i != len(in)-1 || i >= 0 && next != in[i].End()) {
		err = fmt.Errorf("reading ended at %d of extent %d", next, i)
	}
	return got, err
}

func mustRead(t testing.TB, d hypervisor.Disk, want []byte) {
	t.Helper()
	got, err := readWhole(newContext(t), d)
	if err != nil {
		t.Fatalf("read %s: %v", d.Info().Name, err)
	}
	mustEqual(t, d.Info().Name, got, want)
}

func mustEqual(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Fatalf("%s: got %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: the first different byte is at %d: got %#x, want %#x", what, i, got[i], want[i])
		}
	}
}

// changes collects what Changed emits and checks its form.
func changes(ctx context.Context, d hypervisor.Disk, since hypervisor.ChangeID) ([]hypervisor.Extent, error) {
	var all []hypervisor.Extent
	var last int64
	err := d.Changed(ctx, since, func(e hypervisor.Extent) error {
		if e.Length <= 0 || e.Offset < last || e.End() > d.Info().Size {
			return fmt.Errorf("emitted %+v behind %d in a disk of %d bytes", e, last, d.Info().Size)
		}
		last = e.End()
		all = append(all, e)
		return nil
	})
	return all, err
}

// ours are the snapshots that carry a run of the suite's in their name.
func ours(t testing.TB, p Platform) (names []string) {
	t.Helper()
	for _, n := range p.SnapshotNames(t) {
		if strings.Contains(n, runPrefix) {
			names = append(names, n)
		}
	}
	return names
}

// runPrefix begins the suite's run IDs.
const runPrefix = "suiterun"

func runID(n int) hypervisor.RunID { return hypervisor.RunID(fmt.Sprintf("%s%d", runPrefix, n)) }

// sweep does what the janitor does: it removes whatever Held finds.
func sweep(t testing.TB, p Platform) {
	t.Helper()
	s, stop := p.Source(t)
	defer stop()
	ctx := newContext(t)
	held, anchors, err := s.Held(ctx)
	if err != nil {
		t.Fatalf("held: %v", err)
	}
	for _, ref := range held {
		if err := s.Remove(ctx, ref); err != nil {
			t.Errorf("remove %+v: %v", ref, err)
		}
	}
	for _, a := range anchors {
		if err := s.Release(ctx, a); err != nil {
			t.Errorf("release %+v: %v", a, err)
		}
	}
	if left := ours(t, p); len(left) > 0 {
		t.Errorf("after removing everything that is held there is still %q", left)
	}
	if held, anchors, err := s.Held(ctx); err != nil || len(held)+len(anchors) > 0 {
		t.Errorf("after removing everything that is held: %v %v %v", held, anchors, err)
	}
}

// goroutines counts those that run code of the source's package.
func goroutines(s hypervisor.Source) int {
	kind := reflect.TypeOf(s)
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	buf := make([]byte, 4<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return len(slices.DeleteFunc(stacks, func(stack string) bool {
		return !strings.Contains(stack, kind.PkgPath()+".") || strings.Contains(stack, "testing.tRunner")
	}))
}

// soon is how long what should be so at once may take.
func soon(t testing.TB) time.Duration {
	if hasty, ok := t.(interface{ Soon() time.Duration }); ok {
		return hasty.Soon()
	}
	return 20 * time.Second
}

// eventually waits for a condition that nobody announces.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := soon(t)
	for deadline := time.Now().Add(limit); !is(); <-tick.C {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%s: still not so after %s\n%s", what, limit, buf[:runtime.Stack(buf, true)])
		}
	}
}
