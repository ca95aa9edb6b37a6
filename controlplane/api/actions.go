package api

import (
	"context"
	"encoding/json"
	"fmt"

	"skylift/controlplane/access"
	"skylift/controlplane/api/sms"
)

// action is one that this release serves.
type action struct {
	needs access.Role
	do    func(ctx context.Context, request []byte) (any, error)
}

// served is the table of the actions.
func (h *Handler) served() map[string]action {
	return map[string]action{
		"GetConnectors":               get(h.getConnectors),
		"DisassociateConnector":       change(h.disassociateConnector),
		"ImportServerCatalog":         change(h.importServerCatalog),
		"GetServers":                  get(h.getServers),
		"DeleteServerCatalog":         change(h.deleteServerCatalog),
		"CreateReplicationJob":        change(h.createReplicationJob),
		"GetReplicationJobs":          get(h.getReplicationJobs),
		"UpdateReplicationJob":        change(h.updateReplicationJob),
		"DeleteReplicationJob":        change(h.deleteReplicationJob),
		"StartOnDemandReplicationRun": change(h.startOnDemandReplicationRun),
		"GetReplicationRuns":          get(h.getReplicationRuns),

		// Skylift's own.
		"CheckServer":          change(h.checkServer),
		"GetServerReadiness":   get(h.getServerReadiness),
		"EnableChangeTracking": change(h.enableChangeTracking),
		"CheckSource":          change(h.checkSource),
		"GetSourceReadiness":   get(h.getSourceReadiness),
	}
}

func get[In, Out any](f func(context.Context, In) (Out, error)) action {
	return action{access.Viewer, typed(f)}
}

func change[In, Out any](f func(context.Context, In) (Out, error)) action {
	return action{access.Operator, typed(f)}
}

// typed gives f the request that was held against the model already.
func typed[In, Out any](f func(context.Context, In) (Out, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, request []byte) (any, error) {
		var in In
		if err := json.Unmarshal(request, &in); err != nil {
			return nil, fmt.Errorf("decode a request that fits the model: %w", err)
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// nothing is what actions without a response answer with.
var nothing = sms.Empty{}
