package link

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"skylift/controlplane/catalog"
	"skylift/link"
	"skylift/link/linkv1"
)

// askOf makes the command that asks.
func (s *Service) askOf(a catalog.Ask) *linkv1.Command {
	left := max(a.Expires.Sub(s.options.Now()), time.Second)
	return &linkv1.Command{Command: &linkv1.Command_Ask{Ask: &linkv1.Ask{
		Id: a.ID, Source: a.Source, Server: a.VM, What: string(a.Question), TtlMs: uint32(left.Milliseconds()),
	}}}
}

// Answer implements LinkService.
func (s *Service) Answer(ctx context.Context, r *connect.Request[linkv1.AnswerRequest]) (*connect.Response[linkv1.AnswerResponse], error) {
	s.touch(ctx)
	m := r.Msg
	if m.Ask == "" {
		return nil, s.answer(ctx, RequestRefused.New(errors.New("no ask is named"), "take an answer"))
	}
	var report *catalog.Readiness
	if m.Report != nil {
		report = readinessFrom(m.Report)
	}
	var failure *catalog.Failure
	if f := m.Failure; f != nil {
		failure = &catalog.Failure{Code: f.Code, Message: f.Message, Hint: f.Hint}
	}
	if err := s.catalog.Answer(ctx, link.Connector(ctx), m.Ask, report, failure); err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.AnswerResponse{}), nil
}

func readinessFrom(v *linkv1.Report) *catalog.Readiness {
	r := &catalog.Readiness{}
	for _, f := range v.Facts {
		r.Facts = append(r.Facts, catalog.Fact{Subject: f.GetSubject(), Name: f.GetName(), Value: f.GetValue()})
	}
	for _, f := range v.Findings {
		r.Findings = append(r.Findings, catalog.Finding{
			Code: f.GetCode(), Blocks: f.GetBlocks(), Subject: f.GetSubject(), What: f.GetWhat(), Hint: f.GetHint(),
		})
	}
	return r
}
