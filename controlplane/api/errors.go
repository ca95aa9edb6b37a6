package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/problem"
)

// failure is an error as the client sees it.
type failure struct {
	code    string
	status  int
	message string
}

func (f failure) Error() string { return f.code + ": " + f.message }

// refusal is an error of an action's caller. It becomes the first of its codes
// that the model lists for the action.
type refusal struct {
	codes   []string
	message string
}

func (r *refusal) Error() string { return r.message }

func invalid(format string, args ...any) error {
	return &refusal{[]string{sms.InvalidParameter}, fmt.Sprintf(format, args...)}
}

func missing(format string, args ...any) error {
	return &refusal{[]string{sms.MissingRequiredParameter, sms.InvalidParameter}, fmt.Sprintf(format, args...)}
}

// outcomes tells what a problem of the domain is in the API: the codes in the
// order they are preferred, as not every action lists every code.
var outcomes = map[*problem.Kind][]string{
	catalog.NoConnectors:                 {sms.NoConnectorsAvailable, sms.OperationNotPermitted, sms.InvalidParameter},
	catalog.ConnectorNotFound:            {sms.InvalidParameter},
	catalog.ConnectorBusy:                {sms.OperationNotPermitted, sms.InvalidParameter},
	catalog.ServerNotFound:               {sms.InvalidParameter},
	catalog.SourceNotFound:               {sms.InvalidParameter},
	catalog.CatalogBusy:                  {sms.OperationNotPermitted, sms.InvalidParameter},
	replication.JobNotFound:              {sms.ReplicationJobNotFound, sms.InvalidParameter},
	replication.RunNotFound:              {sms.InvalidParameter},
	replication.JobExists:                {sms.ReplicationJobAlreadyExists, sms.OperationNotPermitted, sms.InvalidParameter},
	replication.ServerCannotBeReplicated: {sms.ServerCannotBeReplicated, sms.OperationNotPermitted, sms.InvalidParameter},
	replication.InvalidJob:               {sms.InvalidParameter},
	replication.JobNotActive:             {sms.OperationNotPermitted, sms.InvalidParameter},
	replication.RunLimit:                 {sms.ReplicationRunLimitExceeded, sms.OperationNotPermitted, sms.InvalidParameter},
}

// failure turns any error into what the client sees, and its body. Only
// problems, which are written for users, are told; of other errors the client
// gets the request's ID and the log the rest.
func (h *Handler) failure(err error, x *exchange) (failure, []byte) {
	f := h.translate(err, x)
	body, err := json.Marshal(sms.Failure{Type: f.code, Message: f.message})
	if err != nil { // two strings always encode
		body = []byte(`{}`)
	}
	return f, body
}

func (h *Handler) translate(err error, x *exchange) failure {
	if f := (failure{}); errors.As(err, &f) {
		return f
	}
	if r := (*refusal)(nil); errors.As(err, &r) {
		return h.refuse(x, r.codes, r.message)
	}
	told := ""
	p := (*problem.Error)(nil)
	if x.caller != (Caller{}) && errors.As(err, &p) { // strangers are told nothing
		told = explain(p)
		if codes, ok := outcomes[p.Kind]; ok {
			return h.refuse(x, codes, problem.Describe(p)) // its causes are for users, too
		}
		told += " "
	}
	if p != nil && p.Kind.Retry || errors.Is(err, context.DeadlineExceeded) {
		code := h.listed(x, sms.ServiceUnavailable, sms.TemporarilyUnavailable)
		return failure{code, http.StatusServiceUnavailable,
			told + "Skylift cannot answer now; try again, and if that does not help, look for request " + x.id + " in the control plane's log"}
	}
	code := h.listed(x, sms.InternalFailure, sms.InternalError)
	return failure{code, http.StatusInternalServerError,
		told + "the request failed inside Skylift; the control plane's log tells why under request " + x.id}
}

func (h *Handler) refuse(x *exchange, codes []string, message string) failure {
	return failure{h.listed(x, sms.ValidationError, codes...), http.StatusBadRequest, message}
}

// listed returns the first code that the model lists for the action, or otherwise.
func (h *Handler) listed(x *exchange, otherwise string, codes ...string) string {
	for _, code := range codes {
		if h.model.Operations[x.action].Lists(code) {
			return code
		}
	}
	return otherwise
}

// explain tells a problem of the machinery with its hint, and the problems that
// caused it; other causes are internals.
func explain(p *problem.Error) string {
	line := ""
	for q := p; q != nil; {
		if line != "" {
			line += ": "
		}
		line += (&problem.Error{Kind: q.Kind, What: q.What}).Error()
		inner := (*problem.Error)(nil)
		errors.As(q.Cause, &inner)
		q = inner
	}
	return fmt.Sprintf("%s. %s [%s]", line, p.Kind.Hint, p.Kind.Code)
}
