package catalog

import (
	"context"
	"fmt"
	"time"
)

// Question is what connectors can be asked to look at or to do outside of runs.
type Question string

// The questions, in the link's words.
const (
	CheckServer    Question = "check"
	CheckSource    Question = "check-source"
	EnableTracking Question = "enable-tracking"
)

// AskState is how far an ask is.
type AskState string

// The states of an ask, in the API's words. One that is waiting or given
// counts as failed when its time is over.
const (
	AskWaiting AskState = "PENDING" // for a connector
	AskGiven   AskState = "ACTIVE"  // to a connector
	AskDone    AskState = "COMPLETED"
	AskFailed  AskState = "FAILED"
)

// Ask is a question about one source or server. There is one of each question
// and subject: asking anew while it is open changes nothing, and replaces it
// afterwards.
type Ask struct {
	ID       string
	Question Question
	Source   string
	VM       string // the source's own server ID; empty for the source itself
	State    AskState
	Asked    time.Time
	// BeginBy is until when a connector may be given it for the first time,
	// Expires until when an answer is waited for.
	BeginBy, Expires time.Time
	Connector        string // that was given it, or answered
	Answered         time.Time
	Failure          Failure // of one that failed
	Waits            string  // why it has not been answered yet, for people
}

// Open reports whether an answer is still waited for.
func (a Ask) Open(now time.Time) bool {
	return (a.State == AskWaiting || a.State == AskGiven) && a.Expires.After(now) && (a.State == AskGiven || a.BeginBy.After(now))
}

// Failure is why something could not be done.
type Failure struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// patience is how long a question may wait for a connector, and how long it
// may take in all. A change is made soon or not at all: whoever asked for it
// chose the moment.
func (q Question) patience() (begin, all time.Duration) {
	if q == EnableTracking {
		return 2 * time.Minute, time.Hour
	}
	return 15 * time.Minute, 20 * time.Minute
}

// NewAsk makes an ask at now; a store keeps it unless one like it is open.
func NewAsk(q Question, source, vm string, now time.Time) Ask {
	begin, all := q.patience()
	return Ask{
		ID: NewID("ask-"), Question: q, Source: source, VM: vm, State: AskWaiting,
		Asked: now, BeginBy: now.Add(begin), Expires: now.Add(all),
	}
}

// askLimit is how many asks a connector may have unanswered. Its own limit
// bounds what it does at once, so one more does no harm.
const askLimit = 8

// TakeAsk gives the connector the ask that has waited longest among those on
// its sources, if there is one. It stays the connector's until that has
// answered, opens a new session or was not heard of for a while.
func (s *Service) TakeAsk(ctx context.Context, connector string) (Ask, bool, error) {
	now, err := s.store.Now(ctx)
	if err != nil {
		return Ask{}, false, err
	}
	return s.store.TakeAsk(ctx, connector, now.Add(-Alive), askLimit)
}

// ReturnAsk takes back an ask that could not be delivered.
func (s *Service) ReturnAsk(ctx context.Context, a Ask) error {
	return s.store.ReturnAsk(ctx, a.ID)
}

// Answer records a connector's answer: a readiness report, or why there is
// none. Without either the question was an order, and is done. The first
// answer counts; one to an ask that is not known any more is dropped.
func (s *Service) Answer(ctx context.Context, connector, id string, r *Readiness, f *Failure) error {
	a, known, err := s.store.Ask(ctx, id)
	if err != nil || !known {
		return err
	}
	ok, err := s.store.Announced(ctx, connector, a.Source)
	if err != nil {
		return err
	}
	if !ok {
		return SourceNotAnnounced.New(nil, "answer a question about source %q", a.Source)
	}
	if r == nil && f == nil && a.Question != EnableTracking {
		f = &Failure{Message: "the connector answered without a report", Hint: "Update the connector, then ask again."}
	}
	first, err := s.store.SaveAnswer(ctx, connector, id, r, f)
	if err != nil || !first {
		return err
	}
	if a.Question == EnableTracking && f == nil { // the last report is out of date
		return s.ask(ctx, CheckServer, a.Source, a.VM)
	}
	s.wake() // the connector may be given its next one
	return nil
}

func (s *Service) ask(ctx context.Context, q Question, source, vm string) error {
	now, err := s.store.Now(ctx)
	if err != nil {
		return err
	}
	if err := s.store.SaveAsk(ctx, NewAsk(q, source, vm, now)); err != nil {
		return err
	}
	s.wake()
	return nil
}

// explain says why an open ask waits, and fails one whose time is over.
func (s *Service) explain(ctx context.Context, a *Ask, source Source) error {
	if a.State != AskWaiting && a.State != AskGiven {
		return nil
	}
	now, err := s.store.Now(ctx)
	if err != nil {
		return err
	}
	reached, err := s.store.SourceReached(ctx, a.Source, now.Add(-Alive))
	if err != nil {
		return err
	}
	switch {
	case a.State == AskGiven:
		a.Waits = fmt.Sprintf("connector %s is at work on it", a.Connector)
		if a.Connector == "" {
			a.Waits = "its connector began a new session and is asked again"
		}
	case reached:
		a.Waits = fmt.Sprintf("the connectors that reach source %s have not taken it yet", source.Name)
	default:
		a.Waits = fmt.Sprintf("no connector that reaches source %s is connected", source.Name)
	}
	if !a.Open(now) {
		a.State = AskFailed
		a.Failure = Failure{Code: AskUnanswered.Code, Message: AskUnanswered.Title + ": " + a.Waits, Hint: AskUnanswered.Hint}
		a.Waits = ""
	}
	return nil
}
