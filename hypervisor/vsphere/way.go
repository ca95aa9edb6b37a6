package vsphere

import (
	"context"
	"fmt"
	"strings"
	"time"

	"skylift/hypervisor"
	"skylift/internal/problem"
)

// way is one way to the bytes of a frozen disk, tried before it is taken.
type way interface {
	// read is hypervisor.Disk's Read; the extents have been checked.
	read(ctx context.Context, in []hypervisor.Extent, emit func(off int64, p []byte, n int64) error) error
	// randomAccess and patience are what hypervisor.DiskInfo says of them.
	randomAccess() bool
	patience() time.Duration
	close() error
}

// transport finds ways of one kind.
type transport struct {
	name string
	// find tries to read a little of the disk and returns the way and why it
	// is a good one, as a clause for people; or what is in the way.
	find func(ctx context.Context, d *disk) (w way, why string, err error)
}

// transports are all kinds that are set up, the fastest first.
func (s *Source) transports() []transport {
	all := []transport{{"datastore", s.findDatastore}}
	if s.exports != nil {
		all = append(all, transport{"nbdkit", s.findNBD})
	}
	return append(all, transport{"export", s.findExport})
}

// choose takes the first transport that gives the disk's bytes. The reason it
// notes also says why better ones were passed over. A disk without any way
// keeps the reasons as its error, which may pass when one of them may.
func (d *disk) choose(ctx context.Context) error {
	var refused []string
	var last error
	passing := false
	for _, t := range d.snapshot.source.transports() {
		w, why, err := t.find(ctx, d)
		switch {
		case err == nil:
			d.way, d.transport = w, t.name
			d.why = strings.Join(append(refused, why), "; ")
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case problem.Has(err, hypervisor.SnapshotGone):
			return err
		}
		last = err
		if k := problem.Of(err); k == nil || k.Retry {
			passing = true
		}
		refused = append(refused, fmt.Sprintf("not by %s: %v", t.name, err))
	}
	d.why = strings.Join(refused, "; ")
	d.unreadable = fmt.Errorf("%s: %w", d.title, last)
	switch {
	case len(refused) > 1 && passing:
		d.unreadable = ReadFailed.New(nil, "%s: %s", d.title, d.why)
	case len(refused) > 1:
		d.unreadable = DiskUnreadable.New(nil, "%s: %s", d.title, d.why)
	}
	return nil
}
