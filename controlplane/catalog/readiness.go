package catalog

import (
	"context"
	"time"
)

// Readiness is what a connector saw when it looked at a server or a source.
type Readiness struct {
	Facts    []Fact    `json:"facts,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
}

// Ready reports whether nothing blocks a run.
func (r Readiness) Ready() bool {
	for _, f := range r.Findings {
		if f.Blocks {
			return false
		}
	}
	return true
}

// Fact is one thing that was looked at, and how it is. Subject is a disk or
// object; empty for the server or source itself.
type Fact struct {
	Subject string `json:"subject,omitempty"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

// Finding is one thing that is not as it should be. Code is stable; with
// Blocks, no run can start.
type Finding struct {
	Code    string `json:"code"`
	Blocks  bool   `json:"blocks,omitempty"`
	Subject string `json:"subject,omitempty"`
	What    string `json:"what"`
	Hint    string `json:"hint,omitempty"`
}

// ReadinessReport is the latest readiness of a server or a source.
type ReadinessReport struct {
	Readiness
	Made      time.Time // zero: there is none yet
	Connector string
}

// Standing is all that is known of a server's or a source's readiness. An Ask
// without an ID was never made.
type Standing struct {
	Source   Source
	Server   string // the server's catalog ID; empty for a source
	Report   ReadinessReport
	Check    Ask
	Tracking Ask // the last enabling of change tracking; servers only
}

// CheckServer asks for a look at the server. It returns at once;
// ServerStanding tells when the answer is there.
func (s *Service) CheckServer(ctx context.Context, server string) error {
	v, err := s.present(ctx, server)
	if err != nil {
		return err
	}
	return s.ask(ctx, CheckServer, v.Source.ID, v.VM)
}

// EnableTracking asks that changes of the server's disks be tracked. That
// changes the server's configuration and, if it runs, stuns its guest for as
// long as a snapshot is made and removed. It returns at once; ServerStanding
// tells when it was done.
func (s *Service) EnableTracking(ctx context.Context, server string) error {
	v, err := s.present(ctx, server)
	if err != nil {
		return err
	}
	return s.ask(ctx, EnableTracking, v.Source.ID, v.VM)
}

// present returns a server that is on its source.
func (s *Service) present(ctx context.Context, id string) (Server, error) {
	v, err := s.Server(ctx, id)
	if err == nil && v.Gone {
		err = ServerNotFound.New(nil, "find server %q, which is no longer on its source", id)
	}
	return v, err
}

// CheckSource asks for a look at the source: SourceStanding tells when the
// answer is there.
func (s *Service) CheckSource(ctx context.Context, source string) error {
	v, err := s.source(ctx, source)
	if err != nil {
		return err
	}
	return s.ask(ctx, CheckSource, v.ID, "")
}

// ServerStanding tells what is known of the server's readiness.
func (s *Service) ServerStanding(ctx context.Context, server string) (Standing, error) {
	v, err := s.Server(ctx, server)
	if err != nil {
		return Standing{}, err
	}
	return s.standing(ctx, Standing{Source: v.Source, Server: v.ID}, v.VM)
}

// SourceStanding tells what is known of the source's readiness.
func (s *Service) SourceStanding(ctx context.Context, source string) (Standing, error) {
	v, err := s.source(ctx, source)
	if err != nil {
		return Standing{}, err
	}
	return s.standing(ctx, Standing{Source: v}, "")
}

func (s *Service) standing(ctx context.Context, st Standing, vm string) (Standing, error) {
	report, asks, err := s.store.Standing(ctx, st.Source.ID, vm)
	if err != nil {
		return Standing{}, err
	}
	st.Report = report
	for _, a := range asks {
		if err := s.explain(ctx, &a, st.Source); err != nil {
			return Standing{}, err
		}
		if a.Question == EnableTracking {
			st.Tracking = a
		} else {
			st.Check = a
		}
	}
	return st, nil
}

func (s *Service) source(ctx context.Context, id string) (Source, error) {
	v, ok, err := s.store.Source(ctx, id)
	if err == nil && !ok {
		err = SourceNotFound.New(nil, "find source %q", id)
	}
	return v, err
}
