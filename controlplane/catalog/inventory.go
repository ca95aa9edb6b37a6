package catalog

import (
	"context"
	"time"
)

// importLimit is how long an import may wait for connectors that do not
// answer; the catalog then shows what it has.
const importLimit = 5 * time.Minute

// Import asks every connector for the whole list of its servers. It returns
// at once; Status tells when the lists are in. NoConnectors when there is none.
func (s *Service) Import(ctx context.Context) error {
	connectors, err := s.store.ListConnectors(ctx, "", 1)
	if err != nil {
		return err
	}
	if len(connectors) == 0 {
		return NoConnectors.New(nil, "import the server catalog")
	}
	now, err := s.store.Now(ctx)
	if err != nil {
		return err
	}
	if err := s.store.SetState(ctx, State{Status: Importing, Imported: now, Modified: now}); err != nil {
		return err
	}
	s.wake()
	return nil
}

// Clear removes all servers. CatalogBusy while a job has not ended.
func (s *Service) Clear(ctx context.Context) error {
	busy, err := s.store.ClearServers(ctx)
	if err != nil {
		return err
	}
	if busy {
		return CatalogBusy.New(nil, "clear the server catalog")
	}
	return nil
}

// Status returns the catalog's state and when it last changed.
func (s *Service) Status(ctx context.Context) (Status, time.Time, error) {
	state, err := s.store.State(ctx)
	if err != nil || state.Status != Importing {
		return state.Status, state.Modified, err
	}
	now, err := s.store.Now(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	left, err := s.store.Unsynced(ctx, now.Add(-Alive), state.Imported)
	if err != nil {
		return "", time.Time{}, err
	}
	if left == 0 || now.Sub(state.Imported) > importLimit {
		return Available, state.Modified, nil
	}
	return Importing, state.Modified, nil
}

// RefreshWanted tells, once per import, that the connector is to list all of
// its servers. RefreshFailed takes that back when it could not be told.
func (s *Service) RefreshWanted(ctx context.Context, connector string) (bool, error) {
	return s.store.TakeRefresh(ctx, connector)
}

// RefreshFailed makes RefreshWanted tell it again.
func (s *Service) RefreshFailed(ctx context.Context, connector string) error {
	return s.store.ReturnRefresh(ctx, connector)
}

// Report records what a connector found. A connector speaks only for sources
// it has announced. After Clear, reports are dropped until the next Import.
func (s *Service) Report(ctx context.Context, connector string, r Report) error {
	ok, err := s.store.Announced(ctx, connector, r.Source)
	if err != nil {
		return err
	}
	if !ok {
		return SourceNotAnnounced.New(nil, "record the servers of source %q", r.Source)
	}
	state, err := s.store.State(ctx)
	if err != nil || state.Status == Deleted {
		return err
	}
	return s.store.SaveInventory(ctx, connector, r)
}

// Address finds a server the way the SMS API does: Manager is the source's
// ID, VM the manager's own reference (Server.ManagerID).
type Address struct{ Manager, VM string }

// Servers lists the servers, or those that have one of the addresses.
func (s *Service) Servers(ctx context.Context, filter []Address, p Page) ([]Server, string, error) {
	list, err := s.store.ListServers(ctx, filter, p.After, p.Size()+1)
	if err != nil {
		return nil, "", err
	}
	list, next := Cut(p, list, func(s Server) string { return s.ID })
	return list, next, nil
}

// Server returns one server; ServerNotFound when it is unknown.
func (s *Service) Server(ctx context.Context, id string) (Server, error) {
	server, ok, err := s.store.Server(ctx, id)
	if err != nil {
		return Server{}, err
	}
	if !ok {
		return Server{}, ServerNotFound.New(nil, "find server %q", id)
	}
	return server, nil
}
