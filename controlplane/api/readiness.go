package api

import (
	"context"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
)

// Readiness is what the API needs to know of what stands in the way of
// replications. Those that ask return at once. Its problems are the kinds of
// package catalog.
type Readiness interface {
	CheckServer(ctx context.Context, server string) error
	EnableTracking(ctx context.Context, server string) error
	CheckSource(ctx context.Context, source string) error
	ServerStanding(ctx context.Context, server string) (catalog.Standing, error)
	SourceStanding(ctx context.Context, source string) (catalog.Standing, error)
}

func (h *Handler) checkServer(ctx context.Context, in sms.CheckServerRequest) (sms.Empty, error) {
	if err := checkID("serverId", in.ServerID); err != nil {
		return nothing, err
	}
	return nothing, h.config.Catalog.CheckServer(ctx, in.ServerID)
}

func (h *Handler) enableChangeTracking(ctx context.Context, in sms.EnableChangeTrackingRequest) (sms.Empty, error) {
	if err := checkID("serverId", in.ServerID); err != nil {
		return nothing, err
	}
	return nothing, h.config.Catalog.EnableTracking(ctx, in.ServerID)
}

func (h *Handler) checkSource(ctx context.Context, in sms.CheckSourceRequest) (sms.Empty, error) {
	return nothing, h.config.Catalog.CheckSource(ctx, in.SourceID)
}

func (h *Handler) getServerReadiness(ctx context.Context, in sms.GetServerReadinessRequest) (sms.GetServerReadinessResponse, error) {
	var out sms.GetServerReadinessResponse
	if err := checkID("serverId", in.ServerID); err != nil {
		return out, err
	}
	st, err := h.config.Catalog.ServerStanding(ctx, in.ServerID)
	if err != nil {
		return out, err
	}
	return sms.GetServerReadinessResponse{
		ServerID: st.Server, Source: connectorSource(st.Source),
		Report: readiness(st.Report), Check: ask(st.Check), ChangeTracking: ask(st.Tracking),
	}, nil
}

func (h *Handler) getSourceReadiness(ctx context.Context, in sms.GetSourceReadinessRequest) (sms.GetSourceReadinessResponse, error) {
	var out sms.GetSourceReadinessResponse
	st, err := h.config.Catalog.SourceStanding(ctx, in.SourceID)
	if err != nil {
		return out, err
	}
	return sms.GetSourceReadinessResponse{Source: connectorSource(st.Source), Report: readiness(st.Report), Check: ask(st.Check)}, nil
}

// readiness shows a report; nil for none.
func readiness(r catalog.ReadinessReport) *sms.ReadinessReport {
	if r.Made.IsZero() {
		return nil
	}
	return &sms.ReadinessReport{
		Ready: r.Ready(), CheckedOn: sms.At(r.Made), ConnectorID: r.Connector,
		Facts: each(r.Facts, func(f catalog.Fact) sms.ReadinessFact {
			return sms.ReadinessFact{Subject: f.Subject, Name: f.Name, Value: f.Value}
		}),
		Findings: each(r.Findings, func(f catalog.Finding) sms.ReadinessFinding {
			return sms.ReadinessFinding{Code: f.Code, Blocks: f.Blocks, Subject: f.Subject, Message: f.What, Hint: f.Hint}
		}),
	}
}

// ask shows an ask; nil for one that was never made.
func ask(a catalog.Ask) *sms.Ask {
	if a.ID == "" {
		return nil
	}
	out := &sms.Ask{
		State: string(a.State), AskedOn: sms.At(a.Asked), AnsweredOn: sms.At(a.Answered), ConnectorID: a.Connector, StatusMessage: a.Waits,
	}
	if a.State == catalog.AskFailed {
		out.StatusMessage, out.Code, out.Hint = a.Failure.Message, a.Failure.Code, a.Failure.Hint
	}
	return out
}
