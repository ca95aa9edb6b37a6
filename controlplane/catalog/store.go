package catalog

import (
	"context"
	"time"
)

// Store keeps the catalog. Times it stamps are by the database's clock.
type Store interface {
	// Now is the database's time, by which leases and health are judged.
	Now(ctx context.Context) (time.Time, error)

	// ListConnectors returns up to limit connectors whose ID is behind after, in order of ID.
	ListConnectors(ctx context.Context, after string, limit int) ([]Connector, error)
	// DeleteConnector removes a connector unless it holds a lease that has not ended.
	DeleteConnector(ctx context.Context, id string) (found, busy bool, err error)
	// Announce records what a connector says of itself; its sources replace
	// those announced before, and asks it has not answered may be given out again.
	Announce(ctx context.Context, id string, a Announcement) error
	// Touch notes that the connector was heard of just now.
	Touch(ctx context.Context, id string) error
	// Announced tells whether the connector has announced the source.
	Announced(ctx context.Context, connector, source string) (bool, error)

	// State returns the catalog's state, SetState replaces it.
	State(ctx context.Context) (State, error)
	SetState(ctx context.Context, s State) error
	// Unsynced counts the sources, announced by connectors heard of since
	// alive, that have not been listed in full since the time given.
	Unsynced(ctx context.Context, alive, since time.Time) (int, error)
	// TakeRefresh tells once per import and connector that a listing is
	// wanted; ReturnRefresh takes that back.
	TakeRefresh(ctx context.Context, connector string) (bool, error)
	ReturnRefresh(ctx context.Context, connector string) error
	// ClearServers removes all servers unless a job has not ended.
	ClearServers(ctx context.Context) (busy bool, err error)

	// SaveInventory records one report in a single transaction.
	SaveInventory(ctx context.Context, connector string, r Report) error
	// ListServers returns up to limit servers behind after in order of ID;
	// with a filter, those that have one of the addresses.
	ListServers(ctx context.Context, filter []Address, after string, limit int) ([]Server, error)
	Server(ctx context.Context, id string) (Server, bool, error)
	Source(ctx context.Context, id string) (Source, bool, error)
	// SourceReached tells whether a connector heard of since alive has announced the source.
	SourceReached(ctx context.Context, source string, alive time.Time) (bool, error)

	// SaveAsk keeps the ask unless one of the same question and subject is open.
	SaveAsk(ctx context.Context, a Ask) error
	// TakeAsk gives out the ask that has waited longest on the connector's
	// sources: one that nobody was given in time to begin, or that lost its
	// connector, which was not heard of since alive. None while the connector
	// has limit unanswered ones.
	TakeAsk(ctx context.Context, connector string, alive time.Time, limit int) (Ask, bool, error)
	// ReturnAsk puts back one that was taken and not delivered.
	ReturnAsk(ctx context.Context, id string) error
	Ask(ctx context.Context, id string) (Ask, bool, error)
	// SaveAnswer records the first answer to an ask, and the report with it.
	SaveAnswer(ctx context.Context, connector, id string, r *Readiness, f *Failure) (first bool, err error)
	// Standing returns the latest report on a source (vm empty) or server, and its asks.
	Standing(ctx context.Context, source, vm string) (ReadinessReport, []Ask, error)
}

// State is the catalog's state as it is stored.
type State struct {
	Status   Status
	Imported time.Time // when the last import was asked for
	Modified time.Time
}

// Announcement is what a connector says of itself when it opens a session.
type Announcement struct {
	Version    string
	IPAddress  string
	MACAddress string
	Sources    []Source
}

// Report is what a connector found on one source.
type Report struct {
	Source string
	// Sync names one full listing, reported in pieces; empty for later changes.
	Sync string
	// Last ends the full listing: servers of the source not in it are gone.
	Last    bool
	Servers []Server // without ID and Source
	Gone    []string // the source's server IDs
}
