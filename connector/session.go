package connector

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"skylift/link"
	linkv1 "skylift/link/linkv1"
	"skylift/staging"
)

const (
	// silence is how long the command stream may be still: three heartbeats.
	silence = time.Minute
	// firstWord is how long a stream may take for its first message, which
	// the control plane sends at once. A proxy that holds streams back is
	// noticed by it.
	firstWord = 15 * time.Second
	// pollFor is how long the connector polls before it tries a stream again.
	pollFor  = 10 * time.Minute
	pollWait = 25 * time.Second
	// pollPace is the least time between two polls: an answer that comes at
	// once and is empty does not make a storm.
	pollPace = time.Second
	// steady is how long a stream lasts at least that nothing on the way breaks.
	steady = 2 * silence
)

// errHeldBack says that a stream was opened and brought nothing.
var errHeldBack = errors.New("the command stream brings nothing; a proxy may hold it back")

// takeCommands keeps a session with the control plane until ctx ends.
func (c *Connector) takeCommands(ctx context.Context) {
	wait := newBackOff()
	for {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return
		}
		switch _, hint := link.Problem(err); {
		case err == nil:
			continue // the polling is over: a stream is tried again
		case refused(err):
			// It may be a clock that is wrong, or a control plane that is
			// being restored: the session is tried again, slowly.
			c.Log.WithError(err).WithField("hint", hint).Error("the control plane refuses this connector; look at its clock, and if it was removed there, enrol it again")
		default:
			c.Log.WithError(err).WithField("hint", hint).Warn("the session with the control plane ended; it is opened again")
		}
		if time.Since(began) > silence {
			wait.Reset()
		}
		if sleep(ctx, wait.NextBackOff()) != nil {
			return
		}
	}
}

func refused(err error) bool {
	code := connect.CodeOf(err)
	return err != nil && (code == connect.CodeUnauthenticated || code == connect.CodePermissionDenied)
}

// session takes commands by a stream for as long as it lasts, or by polling
// for a while where something on the way seems to break streams: holds them
// back, cuts them early or lets them fall silent. Polling in vain costs little.
func (c *Connector) session(ctx context.Context) error {
	if err := c.hello(ctx); err != nil {
		return err
	}
	c.greeted()
	began := time.Now()
	err := c.stream(ctx)
	if ctx.Err() != nil || refused(err) || time.Since(began) > steady {
		return err
	}
	c.Log.WithError(err).Warn("the command stream did not last; polling for commands instead")
	return c.poll(ctx, time.Now().Add(pollFor))
}

func (c *Connector) hello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	req := &linkv1.HelloRequest{Version: c.Version, StagingVersions: []uint32{staging.Version},
		IpAddress: c.IPAddress, MacAddress: c.MACAddress}
	for _, s := range c.Sources {
		req.Sources = append(req.Sources, &linkv1.Source{Id: s.ID, Platform: s.Properties().Platform, Name: s.Name})
	}
	answer, err := c.link.Hello(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	if v := answer.Msg.StagingVersion; v != staging.Version {
		return errors.New("the control plane wants a staging version that this connector does not know; upgrade the connector")
	}
	return nil
}

// stream takes commands until the stream breaks or falls silent.
func (c *Connector) stream(ctx context.Context) error {
	streamCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(firstWord, func() { cancel(errHeldBack) })
	defer watchdog.Stop()
	commands, err := c.link.Commands(streamCtx, connect.NewRequest(&linkv1.CommandsRequest{Slots: uint32(c.Slots)}))
	if err != nil {
		return errors.Join(context.Cause(streamCtx), err)
	}
	defer commands.Close()
	fellSilent := errors.New("no heartbeat from the control plane for " + silence.String())
	heard := false
	for commands.Receive() {
		inTime := watchdog.Stop()
		if !heard {
			heard = true
			c.Log.Info("connected to the control plane")
		}
		// A run that was handed out is not dropped, even if it came late.
		c.obey(ctx, commands.Msg())
		if !inTime {
			break
		}
		watchdog = time.AfterFunc(silence, func() { cancel(fellSilent) })
	}
	watchdog.Stop()
	if cause := context.Cause(streamCtx); cause != nil {
		return cause
	}
	if err := commands.Err(); err != nil {
		return err
	}
	return errors.New("the control plane ended the command stream")
}

// poll asks for one command after the other until then.
func (c *Connector) poll(ctx context.Context, until time.Time) error {
	for time.Now().Before(until) {
		asked := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, pollWait+callWithin)
		answer, err := c.link.Poll(callCtx, connect.NewRequest(&linkv1.PollRequest{Slots: uint32(c.Slots), WaitMs: uint32(pollWait.Milliseconds())}))
		cancel()
		if err != nil {
			return err
		}
		if answer.Msg.Command != nil {
			c.obey(ctx, answer.Msg.Command)
			continue
		}
		if err := sleep(ctx, time.Until(asked.Add(pollPace))); err != nil {
			return err
		}
	}
	return nil
}

// obey starts what a command asks for and does not wait for it.
func (c *Connector) obey(ctx context.Context, command *linkv1.Command) {
	switch command := command.Command.(type) {
	case *linkv1.Command_Replicate:
		if command.Replicate.GetLease() == nil {
			c.Log.Error("the control plane handed out a run without a lease; nothing is done for it")
			return
		}
		c.runs.start(ctx, command.Replicate.Lease, func(ctx context.Context) { c.replicate(ctx, command.Replicate) })
	case *linkv1.Command_Ask:
		c.asks.start(ctx, command.Ask)
	case *linkv1.Command_RefreshInventory:
		for _, w := range c.watches {
			w.refresh()
		}
	}
}
