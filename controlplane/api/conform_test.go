package api

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"skylift/controlplane/api/model"
	"skylift/controlplane/api/sms"
	"skylift/internal/secret"
)

// common are the errors that any action may answer with, by their status.
var common = map[string]int{
	sms.InternalFailure: 500, sms.ServiceUnavailable: 503, sms.ValidationError: 400, sms.Serialization: 400, sms.UnknownOperation: 400,
	sms.RequestTooLarge: 413, sms.MissingAuthenticationToken: 403, sms.IncompleteSignature: 403, sms.InvalidSignature: 403,
	sms.SignatureDoesNotMatch: 403, sms.UnrecognizedClient: 403,
}

// referee stands before a handler and holds every request that is accepted,
// and every response, against the models.
type referee struct {
	http.Handler
	t              testing.TB
	base, extended *model.Model

	mu   sync.Mutex
	seen map[string]bool // actions that were answered with 200
}

func newReferee(t testing.TB, h http.Handler) *referee {
	t.Helper()
	base, err := model.Base()
	if err != nil {
		t.Fatal(err)
	}
	extended, err := model.Extended()
	if err != nil {
		t.Fatal(err)
	}
	if base.Metadata.TargetPrefix+"." != sms.TargetPrefix || base.Metadata.EndpointPrefix != sms.Service {
		t.Fatalf("the model is that of %+v", base.Metadata)
	}
	return &referee{Handler: h, t: t, base: base, extended: extended, seen: map[string]bool{}}
}

func (f *referee) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("read the request: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(request))
	rec := httptest.NewRecorder()
	f.Handler.ServeHTTP(rec, r)
	action := strings.TrimPrefix(r.Header.Get(sms.TargetHeader), sms.TargetPrefix)
	f.judge(action, request, rec)
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

func (f *referee) judge(action string, request []byte, rec *httptest.ResponseRecorder) {
	if rec.Header().Get("Content-Type") != "application/x-amz-json-1.1" || len(rec.Header().Get("x-amzn-RequestId")) != 36 {
		f.t.Errorf("%s: the response lacks its content type or request ID: %v", action, rec.Header())
	}
	if rec.Code != http.StatusOK {
		f.judgeError(action, rec)
		return
	}
	f.mu.Lock()
	f.seen[action] = true
	f.mu.Unlock()
	o := f.extended.Operations[action]
	f.holds(action+" request", o.Input.Shape, request)
	f.holds(action+" response", o.Output.Shape, rec.Body.Bytes())
}

// ofSMS are the actions served that AWS SMS had.
func (b *bench) ofSMS() (actions []string) {
	for action := range b.handler.actions {
		if _, ok := b.referee.base.Operations[action]; ok {
			actions = append(actions, action)
		}
	}
	return actions
}

// holds allows no difference from the extended model, and only additional
// members over the base one.
func (f *referee) holds(what, shape string, body []byte) {
	doc, err := parse(body)
	if err != nil {
		f.t.Errorf("%s: %v", what, err)
		return
	}
	if _, violations := f.extended.Check(shape, doc); len(violations) > 0 {
		f.t.Errorf("%s differs from the extended model: %v\n%s", what, violations, body)
	}
	if _, own := f.base.Shapes[shape]; !own { // of an action of ours
		return
	}
	_, violations := f.base.Check(shape, doc)
	for _, v := range violations {
		if v.Fault != model.Unknown {
			f.t.Errorf("%s differs from the base model: %v\n%s", what, v, body)
		}
	}
}

func (f *referee) judgeError(action string, rec *httptest.ResponseRecorder) {
	var got sms.Failure
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got.Message == "" {
		f.t.Errorf("%s: HTTP %d with %q is not an error of the protocol", action, rec.Code, rec.Body)
		return
	}
	o, known := f.base.Operations[action]
	if !known {
		o, known = f.extended.Operations[action]
	}
	shape, modeled := f.base.Shapes[got.Type]
	status, anywhere := common[got.Type]
	switch {
	case modeled && !(known && o.Lists(got.Type)):
		f.t.Errorf("%s answered with %s, which the model does not list for it", action, got.Type)
	case modeled:
		status = map[string]int{sms.InternalError: 500, sms.TemporarilyUnavailable: 503}[got.Type]
		if (status != 0) != shape.Fault {
			f.t.Errorf("%s: is it a fault? the model says %v", got.Type, shape.Fault)
		}
		if status == 0 {
			status = 400
		}
	case !anywhere:
		f.t.Errorf("%s answered with %s, which is neither the model's nor a common error", action, got.Type)
	}
	if rec.Code != status && rec.Code != http.StatusMethodNotAllowed {
		f.t.Errorf("%s: %s came with HTTP %d, want %d", action, got.Type, rec.Code, status)
	}
	f.holds(action+" error", "InvalidParameterException", mustJSON(f.t, map[string]string{"message": got.Message}))
	for _, internal := range []string{testSecret, "sql:", "goroutine", ".go:"} {
		if strings.Contains(rec.Body.String(), internal) {
			f.t.Errorf("%s: the error tells internals: %s", action, rec.Body)
		}
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bench is an API over a world, with its log.
type bench struct {
	*world
	handler *Handler
	referee *referee
	log     *logtest.Hook
	now     time.Time
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{world: newWorld(t), now: start}
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	b.log = hook
	h, err := New(Config{Keys: b.world, Catalog: b.world, Replication: b.world, PageKey: secret.New(strings.Repeat("k", 32)),
		Log: logger, Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	b.handler, b.referee = h, newReferee(t, h)
	return b
}

// reply is what came back for a request.
type reply struct {
	status  int
	body    string
	failure sms.Failure
}

// send serves a request that is ready to go.
func (b *bench) send(r *http.Request) reply {
	b.t.Helper()
	rec := httptest.NewRecorder()
	b.referee.ServeHTTP(rec, r)
	out := reply{status: rec.Code, body: rec.Body.String()}
	if rec.Code != http.StatusOK {
		if err := json.Unmarshal(rec.Body.Bytes(), &out.failure); err != nil {
			b.t.Errorf("decode the error %q: %v", rec.Body, err)
		}
	}
	return out
}

// call makes, signs and serves a request of the operator.
func (b *bench) call(action, body string) reply {
	b.t.Helper()
	return b.send(newSigner(b.now).request(b.t, action, body))
}

// into calls and decodes what came back.
func into[T any](b *bench, action, body string) T {
	b.t.Helper()
	var out T
	got := b.call(action, body)
	if got.status != http.StatusOK {
		b.t.Fatalf("%s: HTTP %d: %s", action, got.status, got.body)
	}
	if err := json.Unmarshal([]byte(got.body), &out); err != nil {
		b.t.Fatal(err)
	}
	return out
}

// expect holds an error against its code and what its message must tell.
func (r reply) expect(t testing.TB, code string, tells ...string) {
	t.Helper()
	if r.failure.Type != code {
		t.Errorf("got HTTP %d %s, want %s", r.status, r.body, code)
	}
	for _, part := range tells {
		if !regexp.MustCompile(part).MatchString(r.failure.Message) {
			t.Errorf("the message %q does not tell %q", r.failure.Message, part)
		}
	}
}
