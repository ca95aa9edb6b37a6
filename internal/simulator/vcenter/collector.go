package vcenter

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// collector is the property collector. Retrieving is left to govmomi's; waiting
// for updates is done here, because that one collects all objects again for
// every change: with 10,000 servers each change would take seconds.
//
// Clients use one collector from one goroutine, as vCenter demands; the world
// lock and waiting guard the rest.
type collector struct {
	*simulator.PropertyCollector // has Lock and Unlock that do nothing: calls may overlap

	s       *Server
	turn    chan struct{} // holds a token while no call waits
	cancel  chan struct{} // takes a token from CancelWaitForUpdates
	filters []*filter
	pending []types.PropertyFilterUpdate // found, and not yet sent
	version int
	sent    *types.UpdateSet // what version was sent with, in case the answer was lost
	sentFor string
}

func (s *Server) newCollector(ref types.ManagedObjectReference) *collector {
	c := &collector{
		PropertyCollector: simulator.NewPropertyCollector(ref).(*simulator.PropertyCollector),
		s:                 s, turn: make(chan struct{}, 1), cancel: make(chan struct{}, 1),
	}
	c.turn <- struct{}{}
	return c
}

// CreatePropertyCollector makes another collector in the same session.
func (c *collector) CreatePropertyCollector(ctx *simulator.Context, _ *types.CreatePropertyCollector) soap.HasFault {
	made := c.s.newCollector(types.ManagedObjectReference{Type: "PropertyCollector"})
	ctx.Session.Put(made)
	return &methods.CreatePropertyCollectorBody{Res: &types.CreatePropertyCollectorResponse{Returnval: made.Self}}
}

// DestroyPropertyCollector ends the collector, its filters and its wait.
func (c *collector) DestroyPropertyCollector(ctx *simulator.Context, _ *types.DestroyPropertyCollector) soap.HasFault {
	c.interrupt()
	c.s.outside(func() { <-c.turn })
	defer c.giveTurn()
	for _, f := range c.filters {
		ctx.Session.Remove(ctx, f.Self)
	}
	c.filters = nil
	ctx.Session.Remove(ctx, c.Self)
	return &methods.DestroyPropertyCollectorBody{Res: &types.DestroyPropertyCollectorResponse{}}
}

// CreateFilter adds a filter; its objects are in the next answer.
func (c *collector) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	body := &methods.CreateFilterBody{}
	c.s.outside(func() { <-c.turn })
	defer c.giveTurn()
	f := newFilter(c, req)
	for _, o := range f.Spec.ObjectSet {
		if ctx.Session.Get(o.Obj) == nil {
			body.Fault_ = simulator.Fault("The object has already been deleted or has not been completely created",
				&types.ManagedObjectNotFound{Obj: o.Obj})
			return body
		}
	}
	if err := f.check(); err != nil {
		msg := c.s.refuse("CreateFilter: %v", err)
		body.Fault_ = simulator.Fault(msg, &types.InvalidArgument{InvalidProperty: "spec"})
		return body
	}
	ctx.Session.Put(f)
	c.filters = append(c.filters, f)
	c.PropertyCollector.Filter = append(c.PropertyCollector.Filter, f.Self)
	body.Res = &types.CreateFilterResponse{Returnval: f.Self}
	return body
}

// CancelWaitForUpdates ends a waiting call with RequestCanceled.
func (c *collector) CancelWaitForUpdates(*types.CancelWaitForUpdates) soap.HasFault {
	c.interrupt()
	return &methods.CancelWaitForUpdatesBody{Res: &types.CancelWaitForUpdatesResponse{}}
}

func (c *collector) interrupt() {
	if len(c.turn) > 0 {
		return // nobody waits
	}
	select {
	case c.cancel <- struct{}{}:
	default:
	}
}

func (c *collector) giveTurn() {
	select {
	case <-c.cancel: // meant for a call that has ended
	default:
	}
	c.turn <- struct{}{}
}

const defaultObjectUpdates = 100 // vCenter's own limit for one answer

// WaitForUpdatesEx answers with what changed since req.Version, or waits until
// something does.
func (c *collector) WaitForUpdatesEx(ctx *simulator.Context, req *types.WaitForUpdatesEx) soap.HasFault {
	body := &methods.WaitForUpdatesExBody{}
	limit, wait := defaultObjectUpdates, context.Background()
	atOnce := false
	if o := req.Options; o != nil {
		if o.MaxObjectUpdates > 0 {
			limit = min(limit, int(o.MaxObjectUpdates))
		}
		if o.MaxWaitSeconds != nil {
			atOnce = *o.MaxWaitSeconds == 0
			timed, stop := context.WithTimeout(wait, time.Duration(*o.MaxWaitSeconds)*time.Second)
			defer stop()
			wait = timed
		}
	}
	c.s.outside(func() { <-c.turn })
	defer c.giveTurn()
	if err := c.checkVersion(req.Version); err != nil {
		body.Fault_ = simulator.Fault(err.Error(), &types.InvalidCollectorVersion{})
		return body
	}
	body.Res = &types.WaitForUpdatesExResponse{}
	for {
		_, changed := c.s.revisions.now()
		if !c.s.sessions.alive(simulator.HTTPCookie(ctx)) {
			f := notAuthenticated(c.Self)
			return &methods.WaitForUpdatesExBody{Fault_: simulator.Fault(f.Message, f.Fault)}
		}
		if set := c.answer(ctx, req.Version, limit); set != nil || atOnce {
			body.Res.Returnval = set
			return body
		}
		done := false
		c.s.outside(func() {
			select {
			case <-changed:
			case <-wait.Done():
				done = true
			case <-c.cancel:
				body = canceled()
			case <-c.s.closing:
				body = canceled()
			}
		})
		if done || body.Fault_ != nil {
			return body
		}
	}
}

func canceled() *methods.WaitForUpdatesExBody {
	return &methods.WaitForUpdatesExBody{Fault_: simulator.Fault("The wait was canceled.", &types.RequestCanceled{})}
}

// checkVersion knows three versions: none, the one sent last, and the one that
// the last answer was for, which a client repeats that lost the answer.
func (c *collector) checkVersion(version string) error {
	switch version {
	case "":
		for _, f := range c.filters {
			f.restart()
		}
		c.pending, c.sent = nil, nil
	case strconv.Itoa(c.version), c.sentFor:
	default:
		return errors.New("the version is not one that the collector gave out")
	}
	return nil
}

// answer is the next set of updates, at most limit objects; nil: nothing new.
func (c *collector) answer(ctx *simulator.Context, version string, limit int) *types.UpdateSet {
	if c.sent != nil && version == c.sentFor {
		return c.sent
	}
	if len(c.pending) == 0 {
		for _, f := range c.filters {
			if u := f.updates(ctx); len(u) > 0 {
				c.pending = append(c.pending, types.PropertyFilterUpdate{Filter: f.Self, ObjectSet: u})
			}
		}
	}
	if len(c.pending) == 0 && version != "" {
		return nil
	}
	set := &types.UpdateSet{}
	for len(c.pending) > 0 && limit > 0 {
		u := &c.pending[0]
		n := min(limit, len(u.ObjectSet))
		set.FilterSet = append(set.FilterSet, types.PropertyFilterUpdate{Filter: u.Filter, ObjectSet: u.ObjectSet[:n]})
		u.ObjectSet = u.ObjectSet[n:]
		limit -= n
		if len(u.ObjectSet) == 0 {
			c.pending = c.pending[1:]
		}
	}
	if len(c.pending) > 0 {
		set.Truncated = types.NewBool(true)
	}
	c.version++
	set.Version = strconv.Itoa(c.version)
	c.sent, c.sentFor = set, version
	return set
}

func (c *collector) remove(f *filter) {
	c.filters = slices.DeleteFunc(c.filters, func(o *filter) bool { return o == f })
	c.pending = slices.DeleteFunc(c.pending, func(u types.PropertyFilterUpdate) bool { return u.Filter == f.Self })
	c.PropertyCollector.Filter = slices.DeleteFunc(c.PropertyCollector.Filter,
		func(ref types.ManagedObjectReference) bool { return ref == f.Self })
}

// outside lets go of the world while f waits. Only what a SOAP call runs may use it.
func (s *Server) outside(f func()) {
	s.world.RUnlock()
	defer s.world.RLock()
	f()
}
