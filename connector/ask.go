package connector

import (
	"context"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	linkv1 "skylift/link/linkv1"
)

const (
	// askSlots is how many asks are worked on at once; others wait in line.
	askSlots = 4
	// answerWithin bounds how long an answer is offered to the control plane.
	// What it could not be told it asks for again in the next session.
	answerWithin = 5 * time.Minute
)

// asks are the questions of the control plane that are worked on: each ID once.
type asks struct {
	*Connector
	places chan struct{}
	all    sync.WaitGroup

	mu   sync.Mutex
	open map[string]bool
}

func newAsks(c *Connector) *asks {
	return &asks{Connector: c, places: make(chan struct{}, askSlots), open: map[string]bool{}}
}

// start answers an ask in a goroutine of its own. One that is being answered
// is not begun again.
func (a *asks) start(ctx context.Context, ask *linkv1.Ask) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[ask.Id] {
		return
	}
	a.open[ask.Id] = true
	a.all.Go(func() {
		a.answer(ctx, ask)
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.open, ask.Id)
	})
}

func (a *asks) wait() { a.all.Wait() }

// answer does what is asked and tells how it went. A connector that is shut
// down says nothing: whoever comes next is asked again.
func (a *asks) answer(ctx context.Context, ask *linkv1.Ask) {
	log := a.Log.WithFields(logrus.Fields{"ask": ask.Id, "what": ask.What, "source": ask.Source, "server": ask.Server})
	req := &linkv1.AnswerRequest{Ask: ask.Id}
	report, err := a.do(ctx, ask)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		log.WithError(err).Warn("what the control plane asked for could not be done")
		req.Failure = failure(err)
	default:
		req.Report = report
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	err = persist(ctx, func(ctx context.Context) error {
		_, err := a.link.Answer(ctx, connect.NewRequest(req))
		return err
	})
	if err != nil {
		log.WithError(err).Warn("the control plane could not be told an answer; it asks again in the next session")
	}
}

// do works on an ask within its time, in which it may have to wait for others.
func (a *asks) do(ctx context.Context, ask *linkv1.Ask) (_ *linkv1.Report, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(ask.TtlMs)*time.Millisecond, errAskLate)
	defer cancel()
	defer func() {
		if err != nil && context.Cause(ctx) == errAskLate {
			err = fmt.Errorf("%w: %w", errAskLate, err)
		}
	}()
	select {
	case a.places <- struct{}{}:
		defer func() { <-a.places }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other asks to be answered: %w", ctx.Err())
	}
	w := a.watches[ask.Source]
	if w == nil {
		return nil, UnknownSource.New(nil, "source %s", ask.Source)
	}
	server := hypervisor.ServerID(ask.Server)
	var report hypervisor.Report
	switch ask.What {
	case "check":
		report, err = w.source.Check(ctx, server)
	case "check-source":
		report, err = w.source.CheckSource(ctx)
	case "enable-tracking":
		return nil, w.enableTracking(ctx, server)
	default:
		return nil, AskUnknown.New(nil, "%q", ask.What)
	}
	if err != nil {
		return nil, err
	}
	return toReport(report), nil
}

// enableTracking has its place among the snapshots: it makes and removes one.
func (w *watch) enableTracking(ctx context.Context, server hypervisor.ServerID) error {
	enabler, ok := w.source.Source.(hypervisor.TrackingEnabler)
	if !ok {
		return TrackingNotOffered.New(nil, "source %s", w.source.Name)
	}
	on, err := w.source.Shares(ctx, server)
	if err != nil {
		return fmt.Errorf("see where a snapshot would be kept: %w", err)
	}
	leave, err := w.shares.take(ctx, append(on, w.tasks)...)
	if err != nil {
		return fmt.Errorf("wait for a snapshot's place: %w", err)
	}
	defer leave()
	return enabler.EnableTracking(ctx, server)
}
