package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"skylift/controlplane/api/model"
	"skylift/controlplane/api/sms"
	"skylift/internal/secret"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// timeout bounds the work on a request.
const timeout = 30 * time.Second

// Config is what the API stands on.
type Config struct {
	Keys        Keys
	Catalog     Catalog
	Replication Replication
	// PageKey authenticates page tokens: at least 32 random bytes, the same
	// on all replicas of a control plane. A new one ends the listings under way.
	PageKey secret.Text
	Log     logrus.FieldLogger
	// Now is the clock that signatures and start times are judged by.
	Now func() time.Time
}

// Handler serves the API at every path it is mounted at. Below the root that
// must be the path with its last slash and without: clients differ, and none
// follows a redirect. A proxy in front of it must pass path and Host header on
// unchanged: both are signed.
type Handler struct {
	config  Config
	model   *model.Model
	actions map[string]action
	pages   pager
}

// New returns the API.
func New(c Config) (*Handler, error) {
	m, err := model.Extended()
	if err != nil {
		return nil, err
	}
	if len(c.PageKey.Reveal()) < 32 {
		return nil, errors.New("the page key must have at least 32 bytes")
	}
	h := &Handler{config: c, model: m, pages: pager{c.PageKey}}
	h.actions = h.served()
	return h, nil
}

// exchange is a request on its way, and what the log tells of it.
type exchange struct {
	id     string
	action string
	caller Caller
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := exchange{id: uuid.NewString()}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	status := http.StatusOK
	body, err := h.serve(w, r.WithContext(ctx), &x)
	if err != nil {
		var f failure
		f, body = h.failure(err, &x)
		status = f.status
	}
	if r.Context().Err() != nil {
		status = 499 // the client is gone; as nginx logs it
	} else {
		w.Header().Set("Content-Type", sms.ContentType)
		w.Header().Set(sms.RequestID, x.id)
		w.WriteHeader(status)
		_, _ = w.Write(body) // fails only when the client is gone
	}
	h.log(&x, status, time.Since(start), err)
}

// serve gives the body of the response.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, x *exchange) ([]byte, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, failure{sms.UnknownOperation, http.StatusMethodNotAllowed, "the SMS API takes POST requests only"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return nil, failure{sms.RequestTooLarge, http.StatusRequestEntityTooLarge,
				fmt.Sprintf("the request is larger than %d bytes", maxBody)}
		}
		return nil, failure{sms.Serialization, http.StatusBadRequest, "the request's body ended early"}
	}
	name, operation := h.operation(r)
	if operation != nil {
		x.action = name
	}
	if x.caller, err = h.authenticate(r, body); err != nil {
		return nil, err
	}
	if operation == nil {
		return nil, failure{sms.UnknownOperation, http.StatusBadRequest,
			"X-Amz-Target names no action of the SMS API; it must be " + sms.TargetPrefix + "<Action>"}
	}
	act, ok := h.actions[name]
	if !ok {
		return nil, failure{sms.OperationNotPermitted, http.StatusBadRequest,
			"this release of Skylift does not serve " + name + "; applications, their launch and validation are not part of it"}
	}
	if !x.caller.Role.Allows(act.needs) {
		return nil, failure{sms.UnauthorizedOperation, http.StatusBadRequest,
			fmt.Sprintf("access key %s has the role %q, and %s needs the role %s; use another key",
				x.caller.KeyID, x.caller.Role, name, act.needs)}
	}
	doc, err := h.decode(r, operation, body)
	if err != nil {
		return nil, err
	}
	out, err := act.do(withCaller(r.Context(), x.caller), doc)
	if err != nil {
		return nil, err
	}
	if body, err = json.Marshal(out); err != nil {
		return nil, fmt.Errorf("encode the response: %w", err)
	}
	return body, nil
}

// operation finds the action that the request names; nil for none.
func (h *Handler) operation(r *http.Request) (string, *model.Operation) {
	targets := r.Header.Values(sms.TargetHeader)
	if len(targets) != 1 {
		return "", nil
	}
	name, ok := strings.CutPrefix(targets[0], sms.TargetPrefix)
	if o, known := h.model.Operations[name]; ok && known {
		return name, &o
	}
	return "", nil
}

func (h *Handler) log(x *exchange, status int, took time.Duration, err error) {
	action := x.action
	if action == "" {
		action = "unknown"
	}
	log := h.config.Log.WithFields(logrus.Fields{"request": x.id, "action": action, "status": status, "duration": took.Round(time.Microsecond).String()})
	if x.caller.KeyID != "" {
		log = log.WithField("access_key", x.caller.KeyID)
	}
	if err != nil {
		log = log.WithError(err)
	}
	switch {
	case status >= 500:
		log.Error("API request failed")
	case err != nil:
		log.Warn("API request refused")
	default:
		log.Info("API request")
	}
}
