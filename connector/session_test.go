package connector

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	linkv1 "skylift/link/linkv1"
)

// longPoll answers with nothing after the time that was asked for.
func longPoll(ctx context.Context) (*linkv1.Command, error) {
	_ = sleep(ctx, pollWait)
	return nil, nil
}

func TestAStreamThatSomethingBreaksIsReplacedByPolling(t *testing.T) {
	beats := func(n int, then func(ctx context.Context) error) func(context.Context, func(*linkv1.Command) error) error {
		return func(ctx context.Context, send func(*linkv1.Command) error) error {
			for range n {
				if err := errors.Join(send(heartbeat()), sleep(ctx, 20*time.Second)); err != nil {
					return err
				}
			}
			return then(ctx)
		}
	}
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	end := func(context.Context) error { return nil }
	for name, c := range map[string]struct {
		commands       func(context.Context, func(*linkv1.Command) error) error
		streams, polls int // within the first 9 minutes, at least one where not 0
		again          int // streams within the first 21 minutes
	}{
		"held back":        {beats(0, hang), 1, 1, 2},
		"silent at once":   {beats(1, hang), 1, 1, 2},
		"cut early":        {beats(2, end), 1, 1, 2},
		"steady":           {beats(1000, hang), 1, 0, 1},
		"cut after a time": {beats(10, end), 2, 0, 6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plane := &control{commands: c.commands, poll: longPoll}
				stop := work(t, newConnector(t, plane, &quiet{}))
				defer stop()
				time.Sleep(9 * time.Minute)
				if n := plane.made("Commands"); n < c.streams || c.polls > 0 && n > c.streams {
					t.Errorf("%d streams were opened", n)
				}
				if n := plane.made("Poll"); (n > 0) != (c.polls > 0) {
					t.Errorf("%d polls", n)
				}
				time.Sleep(12 * time.Minute)
				if n := plane.made("Commands"); n < c.again || n > c.again+1 {
					t.Errorf("%d streams within 21 minutes", n)
				}
			})
		})
	}
}

func TestARefusedConnectorTriesAgainSlowlyAndIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var welcome atomic.Bool
		plane := &control{
			hello: func() error {
				if !welcome.Load() {
					return connect.NewError(connect.CodeUnauthenticated, errors.New("revoked"))
				}
				return nil
			},
			commands: func(ctx context.Context, send func(*linkv1.Command) error) error {
				for send(heartbeat()) == nil && sleep(ctx, 20*time.Second) == nil {
				}
				return ctx.Err()
			},
		}
		stop := work(t, newConnector(t, plane, &quiet{}))
		defer stop()
		time.Sleep(time.Hour)
		if n := plane.made("Hello"); n < 30 || n > 120 || plane.made("Commands") != 0 {
			t.Errorf("%d tries within an hour, %d streams", n, plane.made("Commands"))
		}
		welcome.Store(true)
		time.Sleep(2 * time.Minute)
		if plane.made("Commands") != 1 {
			t.Error("no session after the connector was taken back")
		}
	})
}

func TestEmptyAnswersAtOnceMakeNoStormOfPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := &control{commands: func(context.Context, func(*linkv1.Command) error) error { return nil }}
		stop := work(t, newConnector(t, plane, &quiet{}))
		defer stop()
		time.Sleep(time.Minute)
		if n := plane.made("Poll"); n < 10 || n > 61 {
			t.Errorf("%d polls within a minute", n)
		}
	})
}

func TestARunIsDoneOncePerLeaseAndNeverWithoutOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plane := &control{commands: func(ctx context.Context, send func(*linkv1.Command) error) error {
			bare := replicate(1)
			bare.GetReplicate().Lease = nil
			return errors.Join(send(bare), send(replicate(7)), send(replicate(7)), send(replicate(6)),
				sleep(ctx, 10*time.Second), send(replicate(8)), sleep(ctx, time.Hour))
		}}
		var taken atomic.Int32
		source := &quiet{snapshot: func(ctx context.Context) error {
			taken.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}}
		stop := work(t, newConnector(t, plane, source))
		time.Sleep(30 * time.Second)
		if n := taken.Load(); n != 2 {
			t.Errorf("the work was begun %d times", n)
		}
		stop()
		// The older lease's work ended without a word: it has nothing to hand back.
		if ends := plane.ends(); len(ends) != 1 || ends[0].Epoch != 8 || !ends[0].GetFailure().GetRelease() {
			t.Errorf("the shutdown handed back: %v", ends)
		}
	})
}
