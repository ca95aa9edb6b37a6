package sourcetest_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"skylift/hypervisor/sourcetest"
)

// What sources do wrong.
const (
	right             mutation = ""
	limitless         mutation = "its limits are zero"
	listsOnePage      mutation = "it lists one page of servers"
	concealsDisks     mutation = "it conceals disks that snapshots leave out"
	dropsSpoiled      mutation = "it leaves out disks that cannot be read"
	staysLoggedOut    mutation = "it does not log in again"
	snapshotsTwice    mutation = "it makes a run's second snapshot"
	wrongOrder        mutation = "it takes a snapshot before the older one is gone"
	notesLate         mutation = "it notes the change ID after the freeze"
	waitsSilently     mutation = "it does not say what it waits for"
	leaks             mutation = "it leaves what a failed call made"
	confusesSnapshots mutation = "it takes another snapshot of the same name for the run's"
	forgets           mutation = "it finds no snapshots"
	claimsForeign     mutation = "it calls foreign snapshots ours"
	forgetsAnchors    mutation = "it finds no anchors"
	keepsAnchors      mutation = "it does not release anchors"
	settlesOnce       mutation = "it cannot settle again"
	removesLater      mutation = "it does not wait for a removal"
	removesOnce       mutation = "it cannot remove again"
	removesAll        mutation = "it removes foreign snapshots too"
	trusts            mutation = "it does not look whether the snapshot is there"
	growthRenames     mutation = "a disk that grows has another identity"
	readsLive         mutation = "it reads what the guest writes"
	readsOn           mutation = "it reads on when the snapshot is gone"
	readsThrough      mutation = "it reads zeros where it was refused"
	readsAnything     mutation = "it takes extents of any kind"
	hidesErrors       mutation = "a read hides the receiver's error"
	ignoresContexts   mutation = "a read does not end with its context"
	leavesGoroutines  mutation = "a read leaves a goroutine behind"
	skipsWhenHeldUp   mutation = "a read that was held up misses a block"
	omits             mutation = "it omits changes"
	unsorted          mutation = "its changes are not sorted"
	callsAllZero      mutation = "it calls everything zero"
	guesses           mutation = "it knows no changes when tracking was lost"
	comparesSilently  mutation = "it calls everything changed when tracking was lost"
)

func TestARightSourcePasses(t *testing.T) {
	sourcetest.Run(t, func(t testing.TB) sourcetest.Platform { return newWorld(t, right) })
}

func TestEveryWrongSourceIsCaught(t *testing.T) {
	for _, c := range []struct {
		wrong mutation
		by    string
	}{
		{limitless, "properties are constant and sane"},
		{listsOnePage, "watch lists many servers, each once"},
		{concealsDisks, "a disk that snapshots leave out is reported and harms no other"},
		{dropsSpoiled, "a disk that cannot be read keeps its reason and harms no other"},
		{staysLoggedOut, "every call survives an expired session"},
		{snapshotsTwice, "a snapshot is made once however often it is asked for"},
		{wrongOrder, "a new snapshot waits until the earlier one is gone"},
		{notesLate, "changes cover every write and come in order"},
		{waitsSilently, "a new snapshot says what it waits for"},
		{leaks, "snapshots of several servers fail together and leave nothing"},
		{confusesSnapshots, "a snapshot that vanished is reported as gone"},
		{forgets, "held finds our snapshots after a restart and no others"},
		{claimsForeign, "held finds our snapshots after a restart and no others"},
		{forgetsAnchors, "anchors stay until they are released"},
		{keepsAnchors, "a refused call leaks nothing, whichever it is"},
		{settlesOnce, "anchors stay until they are released"},
		{removesLater, "remove and settle leave nothing and can be repeated"},
		{removesOnce, "remove and settle leave nothing and can be repeated"},
		{removesAll, "remove leaves foreign snapshots alone"},
		{trusts, "a snapshot that vanished is reported as gone"},
		{growthRenames, "identities survive snapshots, growth and restarts"},
		{readsLive, "reads give the frozen bytes while the guest writes"},
		{readsOn, "a snapshot that vanishes while it is read never gives wrong bytes"},
		{readsThrough, "a refused call leaks nothing, whichever it is"},
		{readsAnything, "reads refuse extents that break the contract"},
		{hidesErrors, "a read ends with the receiver's error and with its context"},
		{ignoresContexts, "a read ends with the receiver's error and with its context"},
		{leavesGoroutines, "a read ends with the receiver's error and with its context"},
		{skipsWhenHeldUp, "a stream that is held up beyond its patience ends or goes on"},
		{omits, "changes cover every write and come in order"},
		{unsorted, "changes cover every write and come in order"},
		{callsAllZero, "without a change ID everything that is not zero is told"},
		{guesses, "lost tracking is told and never guessed"},
		{comparesSilently, "lost tracking is told and never guessed"},
	} {
		t.Run(string(c.wrong), func(t *testing.T) {
			r := &recorder{TB: t}
			part := sourcetest.Part(c.by)
			if part == nil {
				t.Fatalf("the suite has no part %q", c.by)
			}
			func() {
				defer r.end()
				part(r, newWorld(r, c.wrong))
			}()
			if !r.Failed() {
				t.Errorf("%q did not notice", c.by)
			}
		})
	}
}

// recorder notes failures in place of failing. A part runs on the test's own
// goroutine; what ends it early is a panic that end takes.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

// Soon is how long the suite waits for what should be so at once.
func (r *recorder) Soon() time.Duration { return 200 * time.Millisecond }

type ended struct{}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Error(args ...any) { r.Errorf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fail()             { r.Errorf("failed") }
func (r *recorder) FailNow()          { r.Fail(); panic(ended{}) }

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	panic(ended{})
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// end is deferred around a part.
func (r *recorder) end() {
	if p := recover(); p != nil {
		if _, ok := p.(ended); !ok {
			panic(p)
		}
	}
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}
