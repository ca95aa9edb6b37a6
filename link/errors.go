package link

import (
	"errors"

	"connectrpc.com/connect"

	"skylift/internal/problem"
)

const problemHeader, hintHeader = "Skylift-Problem", "Skylift-Hint"

// Error makes the connect error that carries err to the other end, with a
// problem's code and hint beside its text.
func Error(code connect.Code, err error) *connect.Error {
	e := connect.NewError(code, err)
	if k := problem.Of(err); k != nil {
		e.Meta().Set(problemHeader, k.Code)
		e.Meta().Set(hintHeader, k.Hint)
	}
	return e
}

// Stale reports whether the control plane refused a call because the lease
// has ended or somebody else holds the run: all work on it is to stop, and
// nothing of it to be removed.
func Stale(err error) bool { return connect.CodeOf(err) == connect.CodeAborted }

// Problem returns the code and the hint of the problem that the other end
// reported; empty for other errors.
func Problem(err error) (code, hint string) {
	if e := (*connect.Error)(nil); errors.As(err, &e) {
		return e.Meta().Get(problemHeader), e.Meta().Get(hintHeader)
	}
	return "", ""
}
