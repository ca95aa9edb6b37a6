package vcenter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// Call is what Config.Fault is asked about, before anything is done.
//
//   - A SOAP call: Method is its name, as CreateSnapshot_Task, Object its object.
//   - The task that such a call started: the same with Task set. A SOAP call
//     that is refused starts none; a task that is refused fails without effect.
//   - A request for a file: Method is "GET /folder" or "HEAD /folder", Path the
//     file's path in its datastore, Host the name of the host that is asked
//     directly. For an exported disk it is "GET /nfc", and Path is
//     <ticket>/disk-0.vmdk.
//   - An export that gets ready: Method is that of the call, with Task set.
//
// The answer nil lets it pass. A SOAPFault, an HTTPStatus, ErrDropped, DropAfter and
// ErrAnswerLost fail it in their ways; any other error is a SystemError fault, and
// status 500 on /folder and /nfc.
type Call struct {
	Context context.Context // ends when the client goes away or the simulator closes
	Method  string
	Object  types.ManagedObjectReference
	Path    string
	Host    string // of a file: the host that is asked; empty for vCenter
	Task    bool
	N       int // the how-manieth call of this method (and Task) it is, from 1
	Total   int // the how-manieth call at all, from 1
}

// SOAPFault answers a call, or ends a task, with a vSphere fault.
type SOAPFault struct {
	Fault   types.BaseMethodFault
	Message string
}

// Error implements error.
func (f SOAPFault) Error() string { return fmt.Sprintf("%s (%T)", f.Message, f.Fault) }

// HTTPStatus answers a call with a bare HTTP status.
type HTTPStatus int

// Error implements error.
func (s HTTPStatus) Error() string { return fmt.Sprintf("HTTP status %d", int(s)) }

// DropAfter closes the connection after so many bytes of a file's answer; on a
// SOAP call it is the same as ErrDropped.
type DropAfter int64

// Error implements error.
func (d DropAfter) Error() string { return fmt.Sprintf("connection dropped after %d bytes", int64(d)) }

var (
	// ErrDropped closes the connection without an answer; nothing was done.
	ErrDropped = errors.New("connection dropped")
	// ErrAnswerLost does what the call asks for and closes the connection without
	// an answer.
	ErrAnswerLost = errors.New("answer lost")
)

// asSOAP is the fault for an answer of Config.Fault.
func asSOAP(err error) SOAPFault {
	var f SOAPFault
	if errors.As(err, &f) {
		return f
	}
	return SOAPFault{&types.SystemErrorFault{Reason: err.Error()}, err.Error()}
}

// record counts calls and remembers what was refused.
type record struct {
	mu      sync.Mutex
	calls   map[string]int
	total   int
	refused []string
}

func newRecord() record { return record{calls: map[string]int{}} }

// arrive counts a call and asks Config.Fault about it.
func (s *Server) arrive(ctx context.Context, call Call) error {
	key := call.Method
	if call.Task {
		key += " (task)"
	}
	s.record.mu.Lock()
	s.record.calls[key]++
	s.record.total++
	call.N, call.Total = s.record.calls[key], s.record.total
	s.record.mu.Unlock()
	if s.cfg.Fault == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-done:
		}
	}()
	call.Context = ctx
	return s.cfg.Fault(call)
}

// Calls counts what was asked for so far: SOAP methods by name, their tasks as
// "<method> (task)", files as "GET /folder".
func (s *Server) Calls() map[string]int {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return maps.Clone(s.record.calls)
}

// refuse notes something that the simulator does not do, or that no client
// should ask for.
func (s *Server) refuse(format string, args ...any) string {
	what := fmt.Sprintf(format, args...)
	s.record.mu.Lock()
	s.record.refused = append(s.record.refused, what)
	s.record.mu.Unlock()
	s.log.Warn("vCenter simulator refuses " + what)
	return what
}

// Refused lists what clients asked for and the simulator does not do, one
// sentence each. Tests should find it empty.
func (s *Server) Refused() []string {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return slices.Clone(s.record.refused)
}
