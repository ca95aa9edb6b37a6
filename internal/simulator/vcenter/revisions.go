package vcenter

import (
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// revisions numbers the changes of managed objects, so that a property filter
// looks only at what changed since it looked last.
type revisions struct {
	*revisionLog
}

type revisionLog struct {
	mu      sync.Mutex
	last    uint64
	objects map[types.ManagedObjectReference]uint64
	changed chan struct{} // closed at the next change
}

func newRevisions() revisions {
	return revisions{&revisionLog{
		objects: map[types.ManagedObjectReference]uint64{},
		changed: make(chan struct{}),
	}}
}

// touch notes that an object changed.
func (r revisions) touch(ref types.ManagedObjectReference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.objects[ref] = r.last
	r.signal()
}

func (r revisions) forget(ref types.ManagedObjectReference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.objects, ref)
	r.last++
	r.signal()
}

// wake has every waiting call look again.
func (r revisions) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signal()
}

func (r revisions) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// now returns the last revision, and what is closed at the next change.
func (r revisions) now() (uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, r.changed
}

func (r revisions) of(ref types.ManagedObjectReference) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.objects[ref]
}

// The registry of govmomi's simulator tells of every change through these.

// Reference implements mo.Reference; no client can name it.
func (revisions) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Revisions", Value: "revisions"}
}

// PutObject implements simulator.RegisterObject.
func (r revisions) PutObject(_ *simulator.Context, o mo.Reference) { r.touch(o.Reference()) }

// UpdateObject implements simulator.RegisterObject.
func (r revisions) UpdateObject(_ *simulator.Context, o mo.Reference, _ []types.PropertyChange) {
	r.touch(o.Reference())
}

// RemoveObject implements simulator.RegisterObject.
func (r revisions) RemoveObject(_ *simulator.Context, ref types.ManagedObjectReference) {
	r.forget(ref)
}
