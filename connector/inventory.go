package connector

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/cenkalti/backoff/v5"

	"skylift/hypervisor"
	linkv1 "skylift/link/linkv1"
)

const (
	// reportServers is how many servers go into one report.
	reportServers = 200
	// reportWithin bounds how long one report is tried.
	reportWithin = 5 * time.Minute
)

// watch is one source under watch: its servers are followed, what may be done
// on it at once is limited, and what is dead on it is cleared away.
type watch struct {
	*Connector
	source   Source
	shares   *shares
	disks    hypervisor.Share // what each disk takes of the source itself,
	tasks    hypervisor.Share // and each making or removal of a snapshot
	sweep    chan struct{}    // asks the janitor to come soon
	answered time.Time        // when the janitor was last told what is dead

	mu      sync.Mutex
	restart context.CancelFunc // ends the Watch under way, for a new listing
}

func newWatch(c *Connector, s Source) *watch {
	p := s.Properties()
	return &watch{
		Connector: c, source: s, sweep: make(chan struct{}, 1), answered: c.Now(), shares: newShares(),
		disks: hypervisor.Share{Kind: "source", Name: s.Name, Of: "disks read at once", Limit: p.DiskLimit},
		// One place is the janitor's, whom a new snapshot may wait for.
		tasks: hypervisor.Share{Kind: "source", Name: s.Name, Of: "snapshots made or removed at once", Limit: p.SnapshotLimit - 1},
	}
}

// run watches until ctx ends; a watch that breaks is begun again. It begins
// when the control plane knows the source, which it would refuse to hear of.
func (w *watch) run(ctx context.Context) {
	select {
	case <-w.known:
	case <-ctx.Done():
		return
	}
	wait := newBackOff()
	for w.follow(ctx, wait) == nil {
	}
}

// follow watches once, and waits if that came to an end by itself.
func (w *watch) follow(ctx context.Context, wait *backoff.ExponentialBackOff) error {
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.restart = cancel
	w.mu.Unlock()
	began := time.Now()
	report := &report{watch: w, sync: rand.Text()}
	err := w.source.Watch(watchCtx, func(change hypervisor.Change) error { return report.take(watchCtx, change) })
	if watchCtx.Err() != nil {
		return ctx.Err()
	}
	w.Log.WithError(err).WithField("source", w.source.Name).Warn("the watch over the source's servers ended; it begins again")
	if time.Since(began) > silence {
		wait.Reset()
	}
	_ = sleep(watchCtx, wait.NextBackOff()) // a refresh ends the wait
	return ctx.Err()
}

// refresh has all servers listed and reported again.
func (w *watch) refresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.restart != nil {
		w.restart()
	}
}

// report gathers what a Watch emits into calls.
type report struct {
	*watch
	sync    string // names the full listing; empty behind it
	servers []*linkv1.Server
}

func (r *report) take(ctx context.Context, change hypervisor.Change) error {
	switch {
	case change.Server != nil:
		r.servers = append(r.servers, toServer(change.Server))
		if r.sync != "" && len(r.servers) < reportServers {
			return nil
		}
		return r.send(ctx, &linkv1.ReportInventoryRequest{})
	case change.Synced:
		err := r.send(ctx, &linkv1.ReportInventoryRequest{Last: true})
		r.sync = ""
		return err
	default:
		return r.send(ctx, &linkv1.ReportInventoryRequest{Gone: []string{string(change.Gone)}})
	}
}

// send makes one report. What does not arrive is sent again, but for the end
// of a listing: the control plane forgets a listing with its end, and would
// take a repeated one for a listing that has these servers and no others.
func (r *report) send(ctx context.Context, req *linkv1.ReportInventoryRequest) error {
	req.Source, req.Sync, req.Servers = r.source.ID, r.sync, r.servers
	ctx, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	deliver := persist
	if req.Last {
		deliver = try
	}
	err := deliver(ctx, func(ctx context.Context) error {
		_, err := r.link.ReportInventory(ctx, connect.NewRequest(req))
		return err
	})
	if err != nil {
		return fmt.Errorf("report the servers of %s: %w", r.source.Name, err)
	}
	r.servers = nil
	return nil
}
