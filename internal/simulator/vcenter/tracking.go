package vcenter

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
)

// tracking is a disk's change log (CBT): which grains were written in which
// epoch. Every snapshot ends an epoch. The volume's lock guards it.
type tracking struct {
	active  bool
	uuid    string
	epoch   int
	changed []map[int64]bool // by epoch
}

// changeID names the state of a disk at one snapshot.
type changeID struct {
	uuid  string
	epoch int
}

func (c changeID) String() string {
	if c.uuid == "" {
		return ""
	}
	return fmt.Sprintf("%s/%d", c.uuid, c.epoch)
}

// parseChangeID reads "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81".
func parseChangeID(s string) (changeID, error) {
	uuid, n, ok := strings.Cut(s, "/")
	epoch, err := strconv.Atoi(n)
	if !ok || err != nil || epoch < 0 || uuid == "" || strconv.Itoa(epoch) != n {
		return changeID{}, fmt.Errorf("%q is not a change ID", s)
	}
	return changeID{uuid, epoch}, nil
}

// start begins tracking under a new UUID: nothing that was known before counts.
func (t *tracking) start() {
	*t = tracking{active: true, uuid: newTrackingUUID(), changed: []map[int64]bool{{}}}
}

func (t *tracking) stop() { *t = tracking{} }

func (t *tracking) mark(g int64) {
	if t.active {
		t.changed[t.epoch][g] = true
	}
}

// turn ends the epoch at a snapshot and returns the snapshot's change ID, which
// is empty where nothing is tracked.
func (t *tracking) turn() changeID {
	if !t.active {
		return changeID{}
	}
	t.epoch++
	t.changed = append(t.changed, map[int64]bool{})
	return changeID{t.uuid, t.epoch}
}

// now is the change ID of the last snapshot.
func (t *tracking) now() changeID {
	if !t.active {
		return changeID{}
	}
	return changeID{t.uuid, t.epoch}
}

// between lists the grains written after since and before until. It refuses
// IDs of another life of the tracking, and those of the future.
func (t *tracking) between(since, until changeID) (map[int64]bool, error) {
	switch {
	case !t.active:
		return nil, fmt.Errorf("changes are not tracked")
	case until.uuid != t.uuid:
		return nil, fmt.Errorf("the snapshot was taken before tracking was reset")
	case since.uuid != t.uuid:
		return nil, fmt.Errorf("the change ID is from before tracking was reset, or of another disk")
	case since.epoch > until.epoch:
		return nil, fmt.Errorf("the change ID is younger than the snapshot")
	}
	set := map[int64]bool{}
	for _, epoch := range t.changed[since.epoch:until.epoch] {
		for g := range epoch {
			set[g] = true
		}
	}
	return set, nil
}

func newTrackingUUID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] = 0x52  // as ESXi's always begin
	half := func(p []byte) string { return strings.TrimSpace(fmt.Sprintf("% x", p)) }
	return half(b[:8]) + "-" + half(b[8:])
}
