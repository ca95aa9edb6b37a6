package vsphere

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// errLate marks that a task's own limit was over before the task ended.
var errLate = errors.New("it has not ended")

// await returns a task's result when it has ended well, and the task's fault
// when it has not. It asks instead of waiting for updates: a question survives
// a new login, a property collector does not. After limit the error is a
// TaskLate problem.
func (s *Source) await(ctx context.Context, t ref, limit time.Duration, what string) (types.AnyType, error) {
	late, cancel := context.WithTimeoutCause(ctx, limit, errLate)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		var found []mo.Task
		err := s.session.retrieve(late, []ref{t}, []string{"info"}, &found)
		switch {
		case err == nil && len(found) == 1:
			switch info := found[0].Info; info.State {
			case types.TaskInfoStateSuccess:
				return info.Result, nil
			case types.TaskInfoStateError:
				if info.Error == nil {
					return nil, fmt.Errorf("%s: the task failed without a reason", what)
				}
				return nil, fmt.Errorf("%s: %w", what, task.Error{LocalizedMethodFault: info.Error})
			}
			err = sleep(late, pause)
		case err == nil:
			err = fmt.Errorf("vSphere gave %d objects for a task", len(found))
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s: %w", what, ctx.Err())
		case late.Err() != nil:
			return nil, TaskLate.New(errLate, "%s: no end after %s", what, limit)
		default:
			return nil, fmt.Errorf("%s: ask for its task: %w", what, err)
		}
	}
}

// cancelTask asks a task to stop; many cannot.
func (s *Source) cancelTask(ctx context.Context, t ref) {
	if _, err := methods.CancelTask(ctx, s.session, &types.CancelTask{This: t}); err != nil {
		s.log.WithError(err).Debug("a vSphere task cannot be canceled")
	}
}

// isBusy reports that the machine is in the hands of another task.
func isBusy(err error) bool {
	return err != nil && (fault.Is(err, &types.TaskInProgress{}) || fault.Is(err, &types.ConcurrentAccess{}))
}
