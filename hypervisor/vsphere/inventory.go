package vsphere

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

const (
	// waitFor is how long vSphere may hold an answer when nothing changes;
	// well below the time that proxies let a request be silent.
	waitFor = 20
	// outage is how long Watch goes on trying to reach vSphere.
	outage = 5 * time.Minute
)

// inventory merges what the property collector tells and turns it into changes.
type inventory struct {
	places   map[ref]*place
	machines map[ref]*machine
	holder   map[hypervisor.ServerID]ref
	synced   bool
	emit     func(hypervisor.Change) error
}

// Watch follows the inventory. A new session or a short outage makes it list
// everything again and emit the differences only.
func (s *Source) Watch(ctx context.Context, emit func(hypervisor.Change) error) error {
	inv := &inventory{
		places:   map[ref]*place{},
		machines: map[ref]*machine{},
		holder:   map[hypervisor.ServerID]ref{},
		emit:     emit,
	}
	budget := newBudget(20, outage)
	for {
		err := s.follow(ctx, inv, budget.refill)
		var stopped *emitError
		switch {
		case errors.As(err, &stopped):
			return stopped.err
		case ctx.Err() != nil:
			return ctx.Err()
		case lostCollector(err) || notAuthenticated(err) || !isFault(err) && !errors.Is(err, errClosed):
			if !isUntrusted(err) && !hasKind(err, LoginRefused) && !hasKind(err, PermissionDenied) && budget.spend(ctx) {
				s.log.WithError(err).Debug("watching the inventory starts again")
				continue
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("watch the inventory: %w", explain(err, "watching the inventory"))
	}
}

// emitError marks an error that is the receiver's.
type emitError struct{ err error }

func (e *emitError) Error() string { return e.err.Error() }

// lostCollector reports that what Watch made in its session went with it.
func lostCollector(err error) bool {
	return isGone(err) || isStaleVersion(err)
}

// follow makes a collector, lists everything and goes on with updates until
// something fails. alive is called whenever vSphere has answered.
func (s *Source) follow(ctx context.Context, inv *inventory, alive func()) (err error) {
	services, err := s.session.services(ctx)
	if err != nil {
		return err
	}
	kinds := slices.Sorted(maps.Keys(watched))
	if standalone(services.About) { // a host has no distributed switches, and need not know of any
		kinds = slices.DeleteFunc(kinds, func(kind string) bool { return kind == "DistributedVirtualPortgroup" })
	}
	view, destroyView, err := s.session.view(ctx, kinds...)
	if err != nil {
		return err
	}
	defer func() { err = s.tidy(err, destroyView(ctx)) }()
	collector, destroyCollector, err := s.session.collector(ctx, services.PropertyCollector)
	if err != nil {
		return err
	}
	defer func() { err = s.tidy(err, destroyCollector(ctx)) }()

	spec := types.PropertyFilterSpec{ObjectSet: []types.ObjectSpec{viewed(view)}}
	for _, kind := range kinds {
		spec.PropSet = append(spec.PropSet, types.PropertySpec{Type: kind, PathSet: watched[kind]})
	}
	// Whole values of the properties asked for, no pieces of them. The filter
	// goes with its collector.
	if _, err := methods.CreateFilter(ctx, s.session, &types.CreateFilter{This: collector, Spec: spec, PartialUpdates: false}); err != nil {
		return fmt.Errorf("create the inventory's filter: %w", err)
	}
	return s.updates(ctx, collector, inv, alive)
}

// tidy adds what went wrong on the way out to err, unless nobody can act on it:
// a session that is over has taken its objects along.
func (s *Source) tidy(err, cleanup error) error {
	if cleanup != nil && err != nil {
		s.log.WithError(cleanup).Debug("objects of the inventory's watch are left to their session's end")
		return err
	}
	return errors.Join(err, cleanup)
}

func (s *Source) updates(ctx context.Context, collector ref, inv *inventory, alive func()) error {
	seen := map[ref]bool{} // in this listing
	dirty := map[ref]bool{}
	version, listed := "", false
	for {
		res, err := methods.WaitForUpdatesEx(ctx, s.session, &types.WaitForUpdatesEx{
			This: collector, Version: version, Options: &types.WaitOptions{MaxWaitSeconds: types.NewInt32(waitFor)},
		})
		if err != nil {
			return err
		}
		alive()
		set := res.Returnval
		if set == nil { // nothing changed
			continue
		}
		if set.Version == version && len(set.FilterSet) == 0 {
			return fmt.Errorf("vSphere answers with version %q of the inventory again and again", version)
		}
		version = set.Version
		reload, err := inv.absorb(set, seen, dirty)
		if err != nil {
			return err
		}
		if err := s.reload(ctx, inv, reload); err != nil {
			return err
		}
		if set.Truncated != nil && *set.Truncated {
			continue
		}
		if !listed {
			listed = true
			inv.forget(seen, dirty)
		}
		if err := inv.tell(dirty); err != nil {
			return err
		}
		clear(dirty)
	}
}

// absorb merges a set of updates. It returns objects of which it got a piece
// that it cannot merge.
func (inv *inventory) absorb(set *types.UpdateSet, seen, dirty map[ref]bool) (reload []ref, err error) {
	for _, filter := range set.FilterSet {
		for _, update := range filter.ObjectSet {
			r := update.Obj
			if update.Kind == types.ObjectUpdateKindLeave {
				delete(seen, r)
				dirty[r] = true
				inv.drop(r)
				continue
			}
			seen[r], dirty[r] = true, true
			object := inv.object(r, update.Kind == types.ObjectUpdateKindEnter)
			whole := true
			for _, c := range update.ChangeSet {
				value := c.Val
				switch c.Op {
				case types.PropertyChangeOpRemove, types.PropertyChangeOpIndirectRemove:
					value = nil
				case types.PropertyChangeOpAdd:
					whole = false
					continue
				}
				if !object.apply(c.Name, value) {
					whole = false
				}
			}
			if !whole {
				reload = append(reload, r)
			}
		}
	}
	return reload, nil
}

// object finds or makes the record of r. One that enters anew loses its old
// properties but keeps what was told of it.
func (inv *inventory) object(r ref, enters bool) interface{ apply(string, any) bool } {
	if r.Type != "VirtualMachine" {
		p := inv.places[r]
		if p == nil || enters {
			p = &place{}
			inv.places[r] = p
		}
		return p
	}
	m := inv.machines[r]
	switch {
	case m == nil:
		m = &machine{}
		inv.machines[r] = m
	case enters:
		m = &machine{id: m.id, told: m.told}
		inv.machines[r] = m
	}
	return m
}

// drop takes an object out. A machine stays, empty, until its going was told.
func (inv *inventory) drop(r ref) {
	delete(inv.places, r)
	if m := inv.machines[r]; m != nil {
		inv.machines[r] = &machine{id: m.id, told: m.told, template: true}
	}
}

// forget drops what a complete listing did not show.
func (inv *inventory) forget(seen, dirty map[ref]bool) {
	for r := range inv.places {
		if !seen[r] {
			inv.drop(r)
		}
	}
	for r := range inv.machines {
		if !seen[r] {
			inv.drop(r)
		}
		dirty[r] = true
	}
}

// reload reads objects whole whose updates came in pieces.
func (s *Source) reload(ctx context.Context, inv *inventory, refs []ref) error {
	for _, r := range refs {
		objects, err := s.session.retrieveSpec(ctx, types.PropertyFilterSpec{
			PropSet:   []types.PropertySpec{{Type: r.Type, PathSet: watched[r.Type]}},
			ObjectSet: []types.ObjectSpec{{Obj: r}},
		})
		if isGone(err) {
			continue // its leaving comes as an update
		}
		if err != nil {
			return err
		}
		for _, o := range objects {
			object := inv.object(r, true)
			for _, p := range o.PropSet {
				object.apply(p.Name, p.Val)
			}
		}
	}
	return nil
}

// tell emits what the dirty objects change for servers.
func (inv *inventory) tell(dirty map[ref]bool) error {
	todo := map[ref]bool{}
	for r := range dirty {
		if r.Type == "VirtualMachine" {
			todo[r] = true
			continue
		}
		// A folder, host or network got another name: whom it concerns shows in the comparison.
		for m := range inv.machines {
			todo[m] = true
		}
		break
	}
	order := slices.SortedFunc(maps.Keys(todo), older)
	for _, r := range order { // who leaves makes room for an ID first
		if m := inv.machines[r]; m != nil && m.template {
			if err := inv.leave(r, m); err != nil {
				return err
			}
		}
	}
	for _, r := range order {
		if err := inv.tellMachine(r); err != nil {
			return err
		}
	}
	if inv.synced {
		return nil
	}
	inv.synced = true
	return inv.send(hypervisor.Change{Synced: true})
}

func (inv *inventory) tellMachine(r ref) error {
	m := inv.machines[r]
	if m == nil || m.template || m.identity() == "" {
		// Without a configuration (storage or host out of reach) a machine
		// cannot be described; one that was told of is not gone for that.
		return nil
	}
	if m.id != "" && !belongs(m.id, m.identity(), r) {
		if err := inv.leave(r, m); err != nil { // it was given another UUID
			return err
		}
	}
	if m.id == "" {
		m.id = hypervisor.ServerID(m.identity())
		if _, taken := inv.holder[m.id]; taken {
			m.id = qualified(m.identity(), r)
		}
		inv.holder[m.id] = r
	}
	server := m.server(r, inv)
	if reflect.DeepEqual(server, m.told) {
		return nil
	}
	m.told = server
	return inv.send(hypervisor.Change{Server: server})
}

// belongs reports that id is one that the machine can have.
func belongs(id hypervisor.ServerID, uuid string, r ref) bool {
	return id == hypervisor.ServerID(uuid) || id == qualified(uuid, r)
}

// leave emits that a machine is not a server any more. Its record stays only
// while the machine is there.
func (inv *inventory) leave(r ref, m *machine) error {
	told, id := m.told != nil, m.id
	if m.identity() == "" {
		delete(inv.machines, r)
	}
	m.told, m.id = nil, ""
	if inv.holder[id] == r {
		delete(inv.holder, id)
	}
	if !told {
		return nil
	}
	return inv.send(hypervisor.Change{Gone: id})
}

func (inv *inventory) send(c hypervisor.Change) error {
	if err := inv.emit(c); err != nil {
		return &emitError{err}
	}
	return nil
}

// path is where a person finds the machine: "/DC0/vm/web/web-01".
func (inv *inventory) path(m *machine) string {
	names := []string{m.name}
	at := m.parent
	if at == (ref{}) {
		at = m.vapp
	}
	for range 100 { // deeper than any inventory, and no circle
		p := inv.places[at]
		if p == nil || p.parent == (ref{}) && at.Type == "Folder" { // the root folder's name is not shown
			break
		}
		names = append(names, p.name)
		at = p.parent
	}
	slices.Reverse(names)
	for i, n := range names {
		// vSphere escapes /, \ and % in names.
		if plain, err := url.PathUnescape(n); err == nil && strings.Contains(n, "%") {
			names[i] = plain
		}
	}
	return "/" + strings.Join(names, "/")
}

// collector makes a property collector of our own, whose waiting does not
// disturb others', and a call that destroys it with its filters.
func (s *session) collector(ctx context.Context, factory ref) (ref, func(context.Context) error, error) {
	res, err := methods.CreatePropertyCollector(ctx, s, &types.CreatePropertyCollector{This: factory})
	if err != nil {
		return ref{}, nil, fmt.Errorf("create a property collector: %w", err)
	}
	destroy := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
		defer cancel()
		_, err := methods.DestroyPropertyCollector(ctx, s, &types.DestroyPropertyCollector{This: res.Returnval})
		if isGone(err) {
			return nil
		}
		return err
	}
	return res.Returnval, destroy, nil
}
