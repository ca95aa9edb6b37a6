package hypervisor

import (
	"errors"

	"skylift/internal/problem"
)

// SnapshotGone says that a run's snapshot does not exist any more, or not
// with the identity and files it had. The run fails: what it read so far
// cannot be joined with another snapshot's bytes.
var SnapshotGone = &problem.Kind{
	Code:  "snapshot-gone",
	Title: "the run's snapshot is gone or was replaced",
	Hint:  "Look for whoever removed or reverted it (a person, a backup product, storage migration); the next run takes a new one by itself",
}

// TrackingError says that the platform cannot tell what changed since a
// change ID. The disk is then read whole and compared with its base.
type TrackingError struct {
	// Reason is one clause for people: "change tracking was reset".
	Reason string
	// Cause is the platform's answer; may be nil.
	Cause error
}

func (e *TrackingError) Error() string {
	s := "change tracking cannot be used: " + e.Reason
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *TrackingError) Unwrap() error { return e.Cause }

// TrackingUnusable finds a TrackingError in err's chain.
func TrackingUnusable(err error) (*TrackingError, bool) {
	var e *TrackingError
	return e, errors.As(err, &e)
}
