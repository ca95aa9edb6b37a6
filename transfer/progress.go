package transfer

import (
	"sync"
	"sync/atomic"

	"skylift/staging"
)

// Progress counts what a Move does, in bytes. It may be read at any time.
type Progress struct {
	Planned atomic.Int64 // of the plan's blocks
	Done    atomic.Int64 // of these, read or found in staging
	Read    atomic.Int64 // from the source, the sample included
	Changed atomic.Int64 // of blocks that differ from the base
	Sent    atomic.Int64 // of those put into segments, before compression
	Stored  atomic.Int64 // of objects written
	Resumed atomic.Int64 // of the plan's blocks that were found in staging

	// Compressing tells whether the latest segment was compressed.
	Compressing atomic.Bool

	mu     sync.Mutex
	mode   staging.Mode
	reason string
}

// Mode returns how the run covers the disk, and why it is not incremental;
// empty before that is known.
func (p *Progress) Mode() (staging.Mode, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.reason
}

func (p *Progress) planned(plan *staging.Plan) {
	p.mu.Lock()
	p.mode, p.reason = plan.Mode, plan.Reason
	p.mu.Unlock()
	p.Planned.Store(plannedBytes(plan))
}

// restarted notes that a Move begins anew with another plan. What was read and
// stored for the one before stays counted.
func (p *Progress) restarted() {
	for _, n := range []*atomic.Int64{&p.Done, &p.Changed, &p.Sent, &p.Resumed} {
		n.Store(0)
	}
}

// sealed notes that an earlier attempt had brought the whole plan.
func (p *Progress) sealed(m *staging.Manifest) {
	p.mu.Lock()
	p.mode, p.reason = m.Mode, m.Reason
	p.mu.Unlock()
	p.Planned.Store(m.Counters.Planned)
	p.Done.Store(m.Counters.Planned)
	p.Resumed.Store(m.Counters.Planned)
}

func (p *Progress) counters() staging.Counters {
	return staging.Counters{
		Planned: p.Planned.Load(), Read: p.Read.Load(), Changed: p.Changed.Load(),
		Sent: p.Sent.Load(), Stored: p.Stored.Load(), Resumed: p.Resumed.Load(),
	}
}

// plannedBytes counts the bytes of the plan's blocks; the disk's last block may
// be a short one.
func plannedBytes(plan *staging.Plan) int64 {
	if len(plan.Ranges) == 0 {
		return 0
	}
	last := plan.Ranges[len(plan.Ranges)-1]
	beyond := max(0, (last.First+last.Count)*staging.BlockSize-plan.Disk.Size)
	return plan.Blocks()*staging.BlockSize - beyond
}
