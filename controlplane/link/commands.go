package link

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"skylift/controlplane/replication"
	"skylift/internal/problem"
	"skylift/link"
	"skylift/link/linkv1"
)

const (
	// maxSlots bounds what a connector can take at once.
	maxSlots = 64
	// maxWait bounds a long poll.
	maxWait = time.Minute
	// handBack is how long giving a run back may take when its connector is gone.
	handBack = 10 * time.Second
)

// Commands implements LinkService.
func (s *Service) Commands(ctx context.Context, r *connect.Request[linkv1.CommandsRequest], stream *connect.ServerStream[linkv1.Command]) error {
	return s.answer(ctx, s.serve(ctx, link.Connector(ctx), int(r.Msg.Slots), stream.Send))
}

// serve sends commands until the connector goes, is revoked or the service closes.
func (s *Service) serve(ctx context.Context, connector string, slots int, send func(*linkv1.Command) error) error {
	s.touch(ctx)
	looks := time.NewTicker(look)
	defer looks.Stop()
	beat := time.NewTimer(Heartbeat)
	defer beat.Stop()
	// The first heartbeat opens the stream for proxies that hold back the headers.
	if err := send(heartbeat()); err != nil {
		return err
	}
	for {
		woken := s.woken() // before looking, so that nothing is missed
		command, undo, err := s.next(ctx, connector, slots)
		if err != nil {
			return err
		}
		if command != nil {
			if err := send(command); err != nil {
				return errors.Join(err, undo(ctx))
			}
			beat.Reset(Heartbeat)
			continue
		}
		select {
		case <-woken:
		case <-looks.C:
		case <-beat.C:
			// A revoked connector's stream ends here; its other calls are refused already.
			if _, err := s.enrolment.PublicKey(ctx, connector); problem.Of(err) != nil {
				return link.Error(connect.CodeUnauthenticated, err)
			}
			s.touch(ctx)
			if err := send(heartbeat()); err != nil {
				return err
			}
			beat.Reset(Heartbeat)
		case <-s.closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Poll implements LinkService.
func (s *Service) Poll(ctx context.Context, r *connect.Request[linkv1.PollRequest]) (*connect.Response[linkv1.PollResponse], error) {
	command, err := s.poll(ctx, link.Connector(ctx), int(r.Msg.Slots), time.Duration(r.Msg.WaitMs)*time.Millisecond)
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	return connect.NewResponse(&linkv1.PollResponse{Command: command}), nil
}

// poll waits for one command; nil when there was none in time.
func (s *Service) poll(ctx context.Context, connector string, slots int, wait time.Duration) (*linkv1.Command, error) {
	s.touch(ctx)
	over := time.NewTimer(min(wait, maxWait))
	defer over.Stop()
	looks := time.NewTicker(look)
	defer looks.Stop()
	for {
		woken := s.woken()
		command, undo, err := s.next(ctx, connector, slots)
		if err != nil {
			return nil, err
		}
		if command != nil && ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), undo(ctx))
		}
		if command != nil {
			return command, nil
		}
		select {
		case <-woken:
		case <-looks.C:
		case <-over.C:
			return nil, nil
		case <-s.closed:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func heartbeat() *linkv1.Command {
	return &linkv1.Command{Command: &linkv1.Command_Heartbeat{Heartbeat: &linkv1.Heartbeat{}}}
}

// next returns a command for the connector, if there is one, and what takes
// it back when it cannot be delivered.
func (s *Service) next(ctx context.Context, connector string, slots int) (*linkv1.Command, func(context.Context) error, error) {
	refresh, err := s.catalog.RefreshWanted(ctx, connector)
	if err != nil {
		return nil, nil, err
	}
	if refresh {
		command := &linkv1.Command{Command: &linkv1.Command_RefreshInventory{RefreshInventory: &linkv1.RefreshInventory{}}}
		return command, detached(func(ctx context.Context) error { return s.catalog.RefreshFailed(ctx, connector) }), nil
	}
	ask, found, err := s.catalog.TakeAsk(ctx, connector)
	if err != nil {
		return nil, nil, err
	}
	if found {
		return s.askOf(ask), detached(func(ctx context.Context) error { return s.catalog.ReturnAsk(ctx, ask) }), nil
	}
	for {
		a, ok, err := s.runs.Claim(ctx, connector, min(slots, maxSlots))
		if err != nil || !ok {
			return nil, nil, err
		}
		release := detached(func(ctx context.Context) error { return s.release(ctx, a.Lease) })
		replicate, err := s.replicate(ctx, a)
		if err == nil {
			return &linkv1.Command{Command: &linkv1.Command_Replicate{Replicate: replicate}}, release, nil
		}
		if ctx.Err() != nil {
			return nil, nil, errors.Join(err, release(ctx))
		}
		// The run waits with its reason; others may do without what it lacks.
		if err := s.runs.Fail(ctx, a.Lease, replication.FailureOf(err)); err != nil {
			return nil, nil, err
		}
	}
}

// release gives a run back; one that is no longer held needs not be.
func (s *Service) release(ctx context.Context, l replication.Lease) error {
	err := s.runs.Release(ctx, l)
	if problem.Has(err, replication.StaleLease) {
		return nil
	}
	return err
}

// detached runs f in time of its own: the caller's has ended with its connector.
func detached(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handBack)
		defer cancel()
		return f(ctx)
	}
}
