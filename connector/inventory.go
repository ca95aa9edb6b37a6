package connector

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"skylift/hypervisor"
	linkv1 "skylift/link/linkv1"
)

const (
	// reportServers is how many servers go into one report.
	reportServers = 200
	// reportWithin bounds one report.
	reportWithin = time.Minute
)

// watch follows one source's servers.
type watch struct {
	*Connector
	source Source
	disks  *limit

	mu      sync.Mutex
	restart context.CancelFunc // ends the Watch under way, for a new listing
}

func newWatch(c *Connector, s Source) *watch {
	p := s.Properties()
	name := fmt.Sprintf("%s reads as many disks at once as it may (%d)", s.Name, p.DiskLimit)
	return &watch{Connector: c, source: s, disks: newLimit(p.DiskLimit, name)}
}

// run watches until ctx ends; a watch that breaks is begun again.
func (w *watch) run(ctx context.Context) error {
	wait := newBackOff()
	for {
		watchCtx, cancel := context.WithCancel(ctx)
		w.mu.Lock()
		w.restart = cancel
		w.mu.Unlock()
		began := time.Now()
		report := &report{watch: w, sync: rand.Text()}
		err := w.source.Watch(watchCtx, func(change hypervisor.Change) error { return report.take(watchCtx, change) })
		asked := watchCtx.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if asked {
			continue
		}
		w.Log.WithError(err).WithField("source", w.source.Name).Warn("the watch over the source's servers ended; it begins again")
		if time.Since(began) > silence {
			wait.Reset()
		}
		if err := sleep(ctx, wait.NextBackOff()); err != nil {
			return err
		}
	}
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

func (r *report) send(ctx context.Context, req *linkv1.ReportInventoryRequest) error {
	req.Source, req.Sync, req.Servers = r.source.ID, r.sync, r.servers
	ctx, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	if _, err := r.link.ReportInventory(ctx, connect.NewRequest(req)); err != nil {
		return fmt.Errorf("report the servers of %s: %w", r.source.Name, err)
	}
	r.servers = nil
	return nil
}
