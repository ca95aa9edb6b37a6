package connector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"skylift/hypervisor"
	linkv1 "skylift/link/linkv1"
)

// looked is a source that can be asked.
type looked struct {
	*quiet
	check    func(ctx context.Context, s hypervisor.ServerID) (hypervisor.Report, error)
	tracking func(ctx context.Context) error
}

func (l looked) Check(ctx context.Context, s hypervisor.ServerID) (hypervisor.Report, error) {
	return l.check(ctx, s)
}

func (l looked) CheckSource(ctx context.Context) (hypervisor.Report, error) { return l.check(ctx, "") }

func (l looked) Shares(context.Context, hypervisor.ServerID) ([]hypervisor.Share, error) {
	return nil, nil
}

// tracked can have its change tracking switched on, too.
type tracked struct{ looked }

func (l tracked) EnableTracking(ctx context.Context, _ hypervisor.ServerID) error {
	return l.tracking(ctx)
}

// answers collects what a control plane is told.
type answers struct {
	mu   sync.Mutex
	fail atomic.Int32 // how many answers get lost
	got  []*linkv1.AnswerRequest
}

func (a *answers) take(r *linkv1.AnswerRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail.Add(-1) >= 0 {
		return connect.NewError(connect.CodeUnavailable, errors.New("lost"))
	}
	a.got = append(a.got, r)
	return nil
}

func (a *answers) all() []*linkv1.AnswerRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got
}

func asking(what string, ids ...string) func(context.Context, func(*linkv1.Command) error) error {
	return func(ctx context.Context, send func(*linkv1.Command) error) error {
		for _, id := range ids {
			ask := &linkv1.Ask{Id: id, Source: "vc-1", Server: "uuid-1", What: what, TtlMs: 60_000}
			if err := send(&linkv1.Command{Command: &linkv1.Command_Ask{Ask: ask}}); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// connectorOf has the connector's source replaced.
func connectorOf(t *testing.T, plane *control, s hypervisor.Source) *Connector {
	t.Helper()
	c := newConnector(t, plane, &quiet{})
	c.Sources[0].Source = s
	c.watches["vc-1"].source.Source = s
	return c
}

func TestAQuestionIsAnsweredWithAReport(t *testing.T) {
	for _, what := range []string{"check", "check-source"} {
		synctest.Test(t, func(t *testing.T) {
			told := &answers{}
			told.fail.Store(2) // on the way
			plane := &control{commands: asking(what, "ask-1"), answer: told.take}
			source := looked{quiet: &quiet{}, check: func(_ context.Context, s hypervisor.ServerID) (hypervisor.Report, error) {
				return hypervisor.Report{
					Facts:    []hypervisor.Fact{{Subject: string(s), Name: "n", Value: "v"}},
					Findings: []hypervisor.Finding{{Code: "c", Blocks: true, Subject: "s", What: "w", Hint: "h"}},
				}, nil
			}}
			stop := work(t, connectorOf(t, plane, source))
			defer stop()
			time.Sleep(10 * time.Second)
			subject := map[string]string{"check": "uuid-1", "check-source": ""}[what]
			got := told.all()
			if len(got) != 1 || got[0].Ask != "ask-1" || got[0].Failure != nil {
				t.Fatalf("told: %v", got)
			}
			if r := got[0].Report; len(r.Facts) != 1 || r.Facts[0].Subject != subject || r.Facts[0].Name != "n" || r.Facts[0].Value != "v" || len(r.Findings) != 1 ||
				r.Findings[0].Code != "c" || !r.Findings[0].Blocks || r.Findings[0].Subject != "s" || r.Findings[0].What != "w" || r.Findings[0].Hint != "h" {
				t.Errorf("the report is %v", r)
			}
		})
	}
}

func TestAQuestionThatCannotBeAnsweredSaysWhy(t *testing.T) {
	held := looked{quiet: &quiet{}, check: func(ctx context.Context, _ hypervisor.ServerID) (hypervisor.Report, error) {
		<-ctx.Done()
		return hypervisor.Report{}, fmt.Errorf("ask vSphere: %w", ctx.Err())
	}}
	for name, test := range map[string]struct {
		what, code, message string
		source              hypervisor.Source
	}{
		"the source fails": {what: "check", code: "internal", message: "out of order", source: looked{quiet: &quiet{},
			check: func(context.Context, hypervisor.ServerID) (hypervisor.Report, error) {
				return hypervisor.Report{}, errors.New("out of order")
			}}},
		"the time is over":               {what: "check", code: "internal", message: errAskLate.Error(), source: held},
		"it is not known":                {what: "sing", code: AskUnknown.Code, message: "sing", source: held},
		"the source has no such power":   {what: "enable-tracking", code: TrackingNotOffered.Code, message: "vcenter-1", source: held},
		"tracking cannot be switched on": {what: "enable-tracking", code: "internal", message: "no", source: tracked{looked{quiet: &quiet{}, tracking: func(context.Context) error { return errors.New("no") }}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := &answers{}
				plane := &control{commands: asking(test.what, "ask-1"), answer: told.take}
				stop := work(t, connectorOf(t, plane, test.source))
				defer stop()
				time.Sleep(2 * time.Minute)
				got := told.all()
				if len(got) != 1 || got[0].Failure.GetCode() != test.code || !strings.Contains(got[0].Failure.GetMessage(), test.message) || got[0].Report != nil {
					t.Errorf("told: %v", got)
				}
			})
		})
	}
}

func TestAnOrderIsCarriedOutOnceHoweverOftenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &answers{}
		plane := &control{commands: asking("enable-tracking", "ask-1", "ask-1", "ask-1"), answer: told.take}
		var begun atomic.Int32
		source := tracked{looked{quiet: &quiet{}, tracking: func(ctx context.Context) error {
			begun.Add(1)
			return sleep(ctx, 20*time.Second)
		}}}
		stop := work(t, connectorOf(t, plane, source))
		defer stop()
		time.Sleep(30 * time.Second)
		if got := told.all(); begun.Load() != 1 || len(got) != 1 || got[0].Failure != nil || got[0].Report != nil {
			t.Errorf("begun %d times, told %v", begun.Load(), got)
		}
	})
}

func TestQuestionsAreAnsweredAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &answers{}
		plane := &control{commands: asking("check", "a", "b", "c", "d", "e", "f"), answer: told.take}
		var now, most atomic.Int32
		source := looked{quiet: &quiet{}, check: func(ctx context.Context, _ hypervisor.ServerID) (hypervisor.Report, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			return hypervisor.Report{}, sleep(ctx, time.Second)
		}}
		stop := work(t, connectorOf(t, plane, source))
		defer stop()
		time.Sleep(10 * time.Second)
		if len(told.all()) != 6 || most.Load() != askSlots {
			t.Errorf("%d answers, %d at once", len(told.all()), most.Load())
		}
	})
}

func TestAShutdownLeavesQuestionsToWhoeverComesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &answers{}
		plane := &control{commands: asking("check", "ask-1"), answer: told.take}
		ended := make(chan struct{})
		source := looked{quiet: &quiet{}, check: func(ctx context.Context, _ hypervisor.ServerID) (hypervisor.Report, error) {
			<-ctx.Done()
			close(ended)
			return hypervisor.Report{}, ctx.Err()
		}}
		stop := work(t, connectorOf(t, plane, source))
		time.Sleep(time.Second)
		stop()
		select {
		case <-ended:
		default:
			t.Error("the connector ended before its work")
		}
		if got := told.all(); len(got) != 0 {
			t.Errorf("told: %v", got)
		}
	})
}
