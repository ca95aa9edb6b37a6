package connector_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"skylift/hypervisor"
	"skylift/staging"
)

// vcenter is a source in memory: guests whose disks are written to, snapshots
// that freeze them, and honest change tracking. Its fault may fail any call.
type vcenter struct {
	platform hypervisor.Properties

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced at every change
	guests    []*guest
	events    []hypervisor.Change // behind the first listing
	listings  int
	snapshots map[string]*frozen // by ID
	taken     int
	removed   []hypervisor.SnapshotRef
	anchors   []hypervisor.Anchor
	released  []hypervisor.Anchor
	images    map[string][]byte // by run and disk: what was frozen
	// fault is asked at the begin of each call, and with "after " before the
	// name at its end.
	fault func(ctx context.Context, op string) error
	reads int // disks being read at once
	most  int
}

func newVCenter() *vcenter {
	return &vcenter{
		platform: hypervisor.Properties{Platform: "vsphere", SnapshotLimit: 8, DiskLimit: 8, Tracking: true},
		changed:  make(chan struct{}), snapshots: map[string]*frozen{}, images: map[string][]byte{},
	}
}

// guest is a server whose disks are written to.
type guest struct {
	server hypervisor.Server
	disks  []*disk
}

type disk struct {
	id     hypervisor.DiskID
	bytes  []byte
	writes []map[int64]bool // blocks written, by how often the disk was frozen
	rng    *rand.ChaCha8
	random bool
}

const mib = 1 << 20

// add makes a server with disks of these sizes; every second one can be read
// in one pass only.
func (v *vcenter) add(name string, sizes ...int64) *guest {
	g := &guest{server: hypervisor.Server{ID: hypervisor.ServerID("uuid-" + name), ManagerID: "vm-" + name, Name: name, PoweredOn: true}}
	for i, size := range sizes {
		id := hypervisor.DiskID(fmt.Sprintf("6000C29-%s-%d", name, i))
		g.server.Disks = append(g.server.Disks, hypervisor.ServerDisk{ID: id, Name: fmt.Sprintf("Hard disk %d", i+1), Size: size})
		d := &disk{id: id, bytes: make([]byte, size), writes: []map[int64]bool{{}}, rng: rand.NewChaCha8([32]byte{byte(i), byte(len(name))}), random: i%2 == 0}
		d.write(0, size/2)
		g.disks = append(g.disks, d)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.guests = append(v.guests, g)
	v.events = append(v.events, hypervisor.Change{Server: &g.server})
	v.ring()
	return g
}

// gone removes a server from the inventory.
func (v *vcenter) gone(id hypervisor.ServerID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.guests = slices.DeleteFunc(v.guests, func(g *guest) bool { return g.server.ID == id })
	v.events = append(v.events, hypervisor.Change{Gone: id})
	v.ring()
}

func (v *vcenter) ring() {
	close(v.changed)
	v.changed = make(chan struct{})
}

func (d *disk) write(off, n int64) {
	_, _ = d.rng.Read(d.bytes[off : off+n])
	for b := off / staging.BlockSize; b <= (off+n-1)/staging.BlockSize; b++ {
		d.writes[len(d.writes)-1][b] = true
	}
}

func (v *vcenter) write(g *guest, disk int, off, n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g.disks[disk].write(off, n)
}

func (v *vcenter) setFault(f func(ctx context.Context, op string) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = f
}

func (v *vcenter) begin(ctx context.Context, op string) error {
	v.mu.Lock()
	fault := v.fault
	v.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (v *vcenter) Properties() hypervisor.Properties { return v.platform }

func (v *vcenter) Check(context.Context, hypervisor.ServerID) (hypervisor.Report, error) {
	return hypervisor.Report{}, nil
}

func (v *vcenter) CheckSource(context.Context) (hypervisor.Report, error) {
	return hypervisor.Report{}, nil
}

func (v *vcenter) Shares(context.Context, hypervisor.ServerID) ([]hypervisor.Share, error) {
	return nil, nil
}

func (v *vcenter) Watch(ctx context.Context, emit func(hypervisor.Change) error) error {
	v.mu.Lock()
	v.listings++
	guests, seen := slices.Clone(v.guests), len(v.events)
	v.mu.Unlock()
	if err := v.begin(ctx, "Watch"); err != nil {
		return err
	}
	for _, g := range guests {
		if err := emit(hypervisor.Change{Server: &g.server}); err != nil {
			return err
		}
	}
	if err := v.begin(ctx, "after Watch"); err != nil {
		return err
	}
	if err := emit(hypervisor.Change{Synced: true}); err != nil {
		return err
	}
	for {
		v.mu.Lock()
		events, changed := v.events[seen:], v.changed
		seen = len(v.events)
		v.mu.Unlock()
		for _, e := range events {
			if err := v.begin(ctx, "Watch event"); err != nil {
				return err
			}
			if err := emit(e); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *vcenter) Snapshot(ctx context.Context, run hypervisor.RunID, servers []hypervisor.ServerID, _ hypervisor.Quiesce) ([]hypervisor.SnapshotRef, error) {
	if err := v.begin(ctx, "Snapshot"); err != nil {
		return nil, err
	}
	for {
		ref, busy, err := v.take(run, servers[0])
		if err != nil {
			return nil, err
		}
		if busy == nil {
			// As a connection that broke behind the last step: Held finds it.
			return []hypervisor.SnapshotRef{ref}, v.begin(ctx, "after Snapshot")
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take freezes a server, or tells what to wait for while it has another snapshot.
func (v *vcenter) take(run hypervisor.RunID, server hypervisor.ServerID) (hypervisor.SnapshotRef, chan struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.snapshots {
		if s.ref.Run == run {
			return s.ref, nil, nil
		}
		if s.ref.Server == server {
			return hypervisor.SnapshotRef{}, v.changed, nil
		}
	}
	i := slices.IndexFunc(v.guests, func(g *guest) bool { return g.server.ID == server })
	if i < 0 {
		return hypervisor.SnapshotRef{}, nil, fmt.Errorf("there is no server %s", server)
	}
	v.taken++
	f := &frozen{source: v, ref: hypervisor.SnapshotRef{Server: server, Run: run, ID: fmt.Sprintf("snapshot-%d", v.taken),
		Created: time.Now(), Consistency: hypervisor.CrashConsistent}}
	for n, d := range v.guests[i].disks {
		d.writes = append(d.writes, map[int64]bool{})
		at := len(d.writes) - 1
		f.disks = append(f.disks, &frozenDisk{of: f, writes: slices.Clone(d.writes[:at]), bytes: bytes.Clone(d.bytes), info: hypervisor.DiskInfo{
			ID: d.id, Size: int64(len(d.bytes)), Name: v.guests[i].server.Disks[n].Name, Position: n,
			ChangeID: hypervisor.ChangeID(fmt.Sprintf("id/%d", at)), Transport: "memory", Why: "a test", RandomAccess: d.random}})
		v.images[string(run)+" "+string(d.id)] = bytes.Clone(d.bytes)
	}
	v.snapshots[f.ref.ID] = f
	return f.ref, nil, nil
}

func (v *vcenter) Held(ctx context.Context) ([]hypervisor.SnapshotRef, []hypervisor.Anchor, error) {
	if err := v.begin(ctx, "Held"); err != nil {
		return nil, nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var refs []hypervisor.SnapshotRef
	for _, s := range v.snapshots {
		ref := s.ref
		ref.Consistency, ref.Note = "", ""
		refs = append(refs, ref)
	}
	return refs, slices.Clone(v.anchors), nil
}

func (v *vcenter) Open(ctx context.Context, ref hypervisor.SnapshotRef) (hypervisor.Snapshot, error) {
	if err := v.begin(ctx, "Open"); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.snapshots[ref.ID]; s != nil {
		return s, nil
	}
	return nil, hypervisor.SnapshotGone.New(nil, "open %s", ref.ID)
}

func (v *vcenter) Settle(ctx context.Context, ref hypervisor.SnapshotRef) (hypervisor.Anchor, error) {
	if err := v.begin(ctx, "Settle"); err != nil {
		return hypervisor.Anchor{}, err
	}
	anchor := hypervisor.Anchor{Server: ref.Server, Run: ref.Run, ID: "anchor-" + string(ref.Run)}
	v.mu.Lock()
	if v.snapshots[ref.ID] != nil {
		delete(v.snapshots, ref.ID)
		v.anchors = append(v.anchors, anchor)
		v.ring()
	}
	v.mu.Unlock()
	return anchor, v.begin(ctx, "after Settle")
}

func (v *vcenter) Remove(ctx context.Context, ref hypervisor.SnapshotRef) error {
	if err := v.begin(ctx, "Remove"); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.snapshots[ref.ID] != nil {
		delete(v.snapshots, ref.ID)
		v.removed = append(v.removed, ref)
		v.ring()
	}
	return nil
}

func (v *vcenter) Release(ctx context.Context, a hypervisor.Anchor) error {
	if err := v.begin(ctx, "Release"); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.anchors = slices.DeleteFunc(v.anchors, func(x hypervisor.Anchor) bool { return x == a })
	v.released = append(v.released, a)
	v.ring()
	return nil
}

// lose removes snapshots behind everybody's back.
func (v *vcenter) lose() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.snapshots)
	v.ring()
}

func (v *vcenter) held() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.snapshots)
}

// frozen is a snapshot.
type frozen struct {
	source *vcenter
	ref    hypervisor.SnapshotRef
	disks  []*frozenDisk
}

func (f *frozen) Disks() (out []hypervisor.Disk) {
	for _, d := range f.disks {
		out = append(out, d)
	}
	return out
}

func (f *frozen) Verify(ctx context.Context) error {
	if err := f.source.begin(ctx, "Verify"); err != nil {
		return err
	}
	return f.there()
}

func (f *frozen) there() error {
	f.source.mu.Lock()
	defer f.source.mu.Unlock()
	if f.source.snapshots[f.ref.ID] == nil {
		return hypervisor.SnapshotGone.New(nil, "look at %s", f.ref.ID)
	}
	return nil
}

func (f *frozen) Close() error { return f.source.begin(context.Background(), "Close") }

type frozenDisk struct {
	of     *frozen
	info   hypervisor.DiskInfo
	bytes  []byte
	writes []map[int64]bool
}

func (d *frozenDisk) Info() hypervisor.DiskInfo { return d.info }

func (d *frozenDisk) Changed(ctx context.Context, since hypervisor.ChangeID, emit func(hypervisor.Extent) error) error {
	if err := d.of.source.begin(ctx, "Changed"); err != nil {
		return err
	}
	from := 0
	if since != "" {
		if _, err := fmt.Sscanf(string(since), "id/%d", &from); err != nil {
			return err
		}
	}
	for b := range staging.Blocks(d.info.Size) {
		if slices.ContainsFunc(d.writes[from:], func(written map[int64]bool) bool { return written[b] }) {
			off := b * staging.BlockSize
			if err := emit(hypervisor.Extent{Offset: off, Length: min(staging.BlockSize, d.info.Size-off)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *frozenDisk) Read(ctx context.Context, in []hypervisor.Extent, emit func(int64, []byte, int64) error) error {
	v := d.of.source
	v.mu.Lock()
	v.reads++
	v.most = max(v.most, v.reads)
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.reads--
		v.mu.Unlock()
	}()
	for _, e := range in {
		for off := e.Offset; off < e.End(); off += staging.BlockSize {
			if err := errors.Join(v.begin(ctx, "Read"), d.of.there()); err != nil {
				return err
			}
			n := min(staging.BlockSize, e.End()-off)
			if err := emit(off, bytes.Clone(d.bytes[off:off+n]), 0); err != nil {
				return err
			}
		}
	}
	return nil
}
