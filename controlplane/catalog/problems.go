package catalog

import (
	"time"

	"skylift/internal/problem"
)

// What can be wrong with a request about connectors or servers.
var (
	NoConnectors      = &problem.Kind{Code: "catalog-no-connectors", Title: "no connector is associated", Hint: "Enrol a connector."}
	ConnectorNotFound = &problem.Kind{Code: "catalog-connector-not-found", Title: "there is no such connector", Hint: "List the connectors."}
	ConnectorBusy     = &problem.Kind{Code: "catalog-connector-busy", Title: "the connector is working on a run", Hint: "Wait until its runs are done."}
	ServerNotFound    = &problem.Kind{Code: "catalog-server-not-found", Title: "the server is not in the catalog", Hint: "Import the server catalog."}
	CatalogBusy       = &problem.Kind{Code: "catalog-busy", Title: "replication jobs still use the catalog", Hint: "Delete the jobs."}
)

// Page selects a part of a list.
type Page struct {
	After string
	Limit int
}

// Address is where a server lives.
type Address struct{ Manager, VM string }

// Healthy reports whether the connector was heard of lately.
func (c Connector) Healthy(now time.Time) bool { return now.Sub(c.LastSeen) < 2*time.Minute }
