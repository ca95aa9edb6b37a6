package bucket

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	simulator "skylift/internal/simulator/s3"
)

// proxy stands between a Store and a real server and does what networks and
// servers do on bad days.
type proxy struct {
	server   *simulator.Server
	upstream *http.Client
	front    *httptest.Server

	mu    sync.Mutex
	seen  []*http.Request
	fault fault
}

// fault may answer a request in the server's place; otherwise it calls pass,
// at most once, which has the server carry the request out.
type fault func(w http.ResponseWriter, r *http.Request, pass func() *http.Response)

func newProxy(t testing.TB, s *simulator.Server) *proxy {
	t.Helper()
	p := &proxy{server: s, upstream: s.AWS().HTTPClient.(*http.Client)}
	p.front = httptest.NewTLSServer(p)
	t.Cleanup(p.upstream.CloseIdleConnections)
	t.Cleanup(p.front.Close)
	return p
}

// aws is the server's configuration with the proxy's address.
func (p *proxy) aws() aws.Config {
	cfg := p.server.AWS()
	cfg.BaseEndpoint = aws.String(p.front.URL)
	roots := x509.NewCertPool()
	roots.AddCert(p.front.Certificate())
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return cfg
}

// set changes what goes wrong, and forgets the requests seen.
func (p *proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.seen = f, nil
}

func (p *proxy) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r)
	f := p.fault
	p.mu.Unlock()
	passed := false
	pass := func() *http.Response {
		passed = true
		return p.pass(r)
	}
	if f != nil {
		f(w, r, pass)
	}
	if f == nil || !passed && !answered(w) {
		relay(w, pass())
	}
}

// answered tells a fault's own answer by a header that every one of them has.
func answered(w http.ResponseWriter) bool { return w.Header().Get("X-Fault") != "" }

// pass has the server carry the request out. The Host stays what was signed.
func (p *proxy) pass(r *http.Request) *http.Response {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, p.server.Endpoint+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out.Header, out.Host = r.Header.Clone(), r.Host
	out.Header.Del("Expect")
	resp, err := p.upstream.Do(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	whole, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	resp.Body = io.NopCloser(bytes.NewReader(whole))
	return resp
}

// relay gives the server's answer to the client.
func relay(w http.ResponseWriter, resp *http.Response) {
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// relayPart gives the first n bytes of an answer's body and breaks the connection.
func relayPart(w http.ResponseWriter, resp *http.Response, n int64) {
	resp.Body = io.NopCloser(io.LimitReader(resp.Body, n))
	relay(w, resp)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// answer is an S3 error.
func answer(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Fault", "answer")
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}

// times has a fault happen to the first n requests of a method.
func times(n int, method string, f fault) fault {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
		mu.Lock()
		hit := r.Method == method && n > 0
		if hit {
			n--
		}
		mu.Unlock()
		if hit {
			f(w, r, pass)
		}
	}
}

// The faults.

func slowDown(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
	answer(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
}

func internalError(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
	answer(w, http.StatusInternalServerError, "InternalError", "We encountered an internal error.")
}

func dropped(http.ResponseWriter, *http.Request, func() *http.Response) { panic(http.ErrAbortHandler) }

// answerLost has the server carry the request out and breaks the connection.
func answerLost(_ http.ResponseWriter, _ *http.Request, pass func() *http.Response) {
	pass()
	panic(http.ErrAbortHandler)
}

// damaged changes a byte on the way to the server.
func damaged(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
	body, _ := io.ReadAll(r.Body)
	body[len(body)/2] ^= 1
	r.Body = io.NopCloser(bytes.NewReader(body))
	relay(w, pass())
}

// plainPut stores the body by a request of its own, without the client's
// conditions and checksum, as a server does that knows neither.
func (p *proxy) plainPut(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
	body, _ := io.ReadAll(r.Body)
	p.replace(r, body)
	w.Header().Set("X-Fault", "plain")
	w.WriteHeader(http.StatusOK)
}

// replace puts another object in the place of a request's.
func (p *proxy) replace(r *http.Request, body []byte) {
	client := s3.NewFromConfig(p.server.AWS(), func(o *s3.Options) { o.UsePathStyle = true })
	key := strings.TrimPrefix(r.URL.Path, "/"+bucketName+"/")
	_, err := client.PutObject(r.Context(), &s3.PutObjectInput{Bucket: aws.String(bucketName), Key: &key, Body: bytes.NewReader(body)})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// header changes a header of the answer, or removes it when value is empty.
func header(name, value string) fault {
	return func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
		resp := pass()
		if value == "" {
			resp.Header.Del(name)
		} else {
			resp.Header.Set(name, value)
		}
		relay(w, resp)
	}
}

// issuer gives credentials and counts how often it was asked.
type issuer struct {
	err   error
	mu    sync.Mutex
	asked int
	give  func(n int) aws.Credentials
}

func (i *issuer) Retrieve(context.Context) (aws.Credentials, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	if i.err != nil {
		return aws.Credentials{}, i.err
	}
	if i.give == nil {
		return aws.Credentials{}, errors.New("nothing to give")
	}
	return i.give(i.asked), nil
}
