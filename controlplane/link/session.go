package link

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"skylift/controlplane/catalog"
	"skylift/internal/secret"
	"skylift/link"
	"skylift/link/linkv1"
)

// Enrol implements EnrolmentService.
func (s *Service) Enrol(ctx context.Context, r *connect.Request[linkv1.EnrolRequest]) (*connect.Response[linkv1.EnrolResponse], error) {
	connector, err := s.enrolment.Enrol(ctx, secret.New(r.Msg.ActivationCode), r.Msg.PublicKey, r.Msg.Name, r.Msg.Version)
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.EnrolResponse{Connector: connector, Installation: s.options.Installation}), nil
}

// Hello implements LinkService.
func (s *Service) Hello(ctx context.Context, r *connect.Request[linkv1.HelloRequest]) (*connect.Response[linkv1.HelloResponse], error) {
	m := r.Msg
	if !slices.Contains(m.StagingVersions, stagingVersion) {
		return nil, s.answer(ctx, VersionRefused.New(
			fmt.Errorf("the connector (%s) writes versions %v, the control plane reads %d", m.Version, m.StagingVersions, stagingVersion),
			"open a session"))
	}
	a := catalog.Announcement{Version: m.Version, IPAddress: m.IpAddress, MACAddress: m.MacAddress}
	for _, source := range m.Sources {
		if source.Id == "" {
			return nil, s.answer(ctx, RequestRefused.New(errors.New("a source has no ID"), "open a session"))
		}
		a.Sources = append(a.Sources, catalog.Source{ID: source.Id, Platform: source.Platform, Name: source.Name})
	}
	if err := s.catalog.Announce(ctx, link.Connector(ctx), a); err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.HelloResponse{
		StagingVersion: stagingVersion, Now: s.options.Now().UnixMilli(), HeartbeatMs: uint32(Heartbeat.Milliseconds()),
	}), nil
}

// ReportInventory implements LinkService.
func (s *Service) ReportInventory(ctx context.Context, r *connect.Request[linkv1.ReportInventoryRequest]) (*connect.Response[linkv1.ReportInventoryResponse], error) {
	s.touch(ctx)
	m := r.Msg
	report := catalog.Report{Source: m.Source, Sync: m.Sync, Last: m.Last, Gone: m.Gone}
	for _, v := range m.Servers {
		if v.Id == "" {
			return nil, s.answer(ctx, RequestRefused.New(errors.New("a server has no ID"), "record servers"))
		}
		report.Servers = append(report.Servers, serverFrom(v))
	}
	if err := s.catalog.Report(ctx, link.Connector(ctx), report); err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.ReportInventoryResponse{}), nil
}
