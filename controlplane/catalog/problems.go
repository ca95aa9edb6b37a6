package catalog

import "skylift/internal/problem"

// What can be wrong with a request about connectors or servers.
var (
	NoConnectors = &problem.Kind{
		Code:  "catalog-no-connectors",
		Title: "no connector is associated with this control plane",
		Hint:  "Deploy a connector appliance and enrol it with an activation code.",
	}
	ConnectorNotFound = &problem.Kind{
		Code:  "catalog-connector-not-found",
		Title: "there is no such connector",
		Hint:  "List the connectors and use one of their IDs; one that was disassociated must be enrolled again.",
	}
	ConnectorBusy = &problem.Kind{
		Code:  "catalog-connector-busy",
		Title: "the connector is working on a replication run",
		Hint:  "Wait until its runs are done, or delete their jobs.",
	}
	ServerNotFound = &problem.Kind{
		Code:  "catalog-server-not-found",
		Title: "the server is not in the catalog",
		Hint:  "Import the server catalog, and check that a connector reaches the server's source.",
	}
	CatalogBusy = &problem.Kind{
		Code:  "catalog-busy",
		Title: "replication jobs still use the catalog",
		Hint:  "Delete the replication jobs that have not ended, then clear the catalog.",
	}
	SourceNotFound = &problem.Kind{
		Code:  "catalog-source-not-found",
		Title: "there is no such source",
		Hint:  "List the connectors, which name their sources, and use one of those IDs.",
	}
	AskUnanswered = &problem.Kind{
		Code:  "ask-unanswered",
		Title: "no connector answered in time",
		Hint:  "See that a connector that reaches the source runs, is connected and up to date, then ask again.",
	}
	SourceNotAnnounced = &problem.Kind{
		Code:  "catalog-source-not-announced",
		Title: "the connector has not announced this source",
		Hint:  "Restart the connector, so that it announces its sources again.",
	}
)
