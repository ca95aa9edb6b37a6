// Package smsclient calls the SMS API of a control plane, Skylift's extra
// members included. It calls once: a caller that wants to try again asks
// Error.Temporary, and knows best what may be done twice.
package smsclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"skylift/controlplane/api/sms"
	"skylift/internal/secret"
)

// maxResponse bounds a response's body, in bytes.
const maxResponse = 64 << 20

// timeout is that of calls whose HTTP client is the default one.
const timeout = time.Minute

// Config says where the API is and who calls it.
type Config struct {
	// Endpoint is the API's URL, with its path if it has one.
	Endpoint    string
	Region      string // selects the target
	AccessKeyID string
	Secret      secret.Text
	// HTTP carries the requests; it has the certificate authorities, the
	// proxy and the time-outs. Redirects are never followed: a signature holds
	// for one host. Nil stands for a client that gives up after a minute.
	HTTP *http.Client
	// Now is the clock that requests are dated by; nil stands for time.Now.
	Now func() time.Time
}

// Client calls the API. It may be used by many goroutines.
type Client struct {
	config   Config
	endpoint *url.URL
	http     http.Client
	signer   *v4.Signer
}

// New returns a client.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("the API's endpoint: %w", err)
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the API's endpoint must be of the form https://host[:port][/path]")
	}
	if u.Path == "" {
		u.Path = "/"
	}
	if c.Region == "" || c.AccessKeyID == "" || c.Secret.Empty() {
		return nil, errors.New("the API needs a Region, an access key ID and its secret")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	hc := http.Client{Timeout: timeout}
	if c.HTTP != nil {
		hc = *c.HTTP
	}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{config: c, endpoint: u, http: hc, signer: v4.NewSigner()}, nil
}

// Error is an error that the API answered with.
type Error struct {
	Action    string
	Code      string // one of package sms; empty when the answer was not the API's
	Message   string
	Status    int    // of HTTP
	RequestID string // under which the control plane logged it
}

// Error gives one line.
func (e *Error) Error() string {
	s := e.Action + ": " + e.Message
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	return s
}

// Temporary reports whether the same call may succeed later without anybody's help.
func (e *Error) Temporary() bool {
	return e.Status == http.StatusTooManyRequests || e.Status == http.StatusBadGateway ||
		e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout
}

// Is matches any other error of the same code, so that errors.Is(err,
// &Error{Code: sms.ReplicationJobNotFound}) tells it.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code != "" && other.Code == e.Code
}

// call makes one request.
func call[Out any](ctx context.Context, c *Client, action string, in any) (Out, error) {
	var out Out
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("%s: encode the request: %w", action, err)
	}
	req, err := c.request(ctx, action, body)
	if err != nil {
		return out, fmt.Errorf("%s: %w", action, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("%s: call the control plane: %w", action, err)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return out, fmt.Errorf("%s: read the response: %w", action, err)
	}
	if len(answer) > maxResponse {
		return out, fmt.Errorf("%s: the response is larger than %d bytes", action, maxResponse)
	}
	if resp.StatusCode != http.StatusOK {
		return out, refused(action, resp, answer)
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, fmt.Errorf("%s: decode the response; is %s the SMS API of a control plane? %w", action, c.endpoint, err)
	}
	return out, nil
}

// request makes a signed request.
func (c *Client) request(ctx context.Context, action string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", sms.ContentType)
	req.Header.Set(sms.TargetHeader, sms.TargetPrefix+action)
	sum := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: c.config.AccessKeyID, SecretAccessKey: c.config.Secret.Reveal()}
	err = c.signer.SignHTTP(ctx, credentials, req, hex.EncodeToString(sum[:]), sms.Service, c.config.Region, c.config.Now())
	if err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	return req, nil
}

// refused makes the error of a response that is not 200.
func refused(action string, resp *http.Response, body []byte) error {
	e := &Error{Action: action, Status: resp.StatusCode, RequestID: resp.Header.Get(sms.RequestID)}
	var f sms.Failure
	if err := json.Unmarshal(body, &f); err != nil || f.Type == "" {
		e.Message = fmt.Sprintf("something between here and the control plane answered HTTP %s; check the endpoint and the proxy", resp.Status)
		return e
	}
	e.Code, e.Message = f.Type, f.Message
	return e
}
