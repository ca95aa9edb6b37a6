package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Front is a Server at another address, where a test decides what becomes of
// each request. What is not disturbed goes to the Server and back unchanged,
// signatures and checksums included.
type Front struct {
	Endpoint string
	CAPEM    []byte

	http    *http.Server
	proxy   *httputil.ReverseProxy
	decide  func(Request) Fault
	count   atomic.Int64
	serving chan error
	closing chan struct{}
}

// Request is what a Front's fate is decided on.
type Request struct {
	Method string
	// Key is the object's key, empty for requests about the bucket.
	Bucket, Key string
	Query       url.Values
	// Size of the body; -1 if it is not known.
	Size int64
	// N is the how-manieth request it is, from 1.
	N int64
}

// Fault is what becomes of a request. The zero Fault lets it pass.
type Fault struct {
	// Wait is how long nothing happens first.
	Wait time.Duration
	// Status and Code refuse the request with an error of S3's: 503 and
	// "SlowDown", 403 and "ExpiredToken".
	Status int
	Code   string
	// Reset breaks the connection off before anything is done, Lost when it
	// was done, in place of the answer.
	Reset, Lost bool
	// Truncate breaks the connection off after so many bytes of the answer's
	// body.
	Truncate int64
	// Flip changes one bit on the way: of the request's body where there is
	// one, else of the answer's.
	Flip bool
	// Rate is the most bytes per second of a body, either way.
	Rate int64
}

// StartFront puts a Front before the server until Close. decide is called from
// many goroutines.
func StartFront(s *Server, decide func(Request) Fault) (*Front, error) {
	to, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, err
	}
	certPEM, keyPEM, err := newCertificate(time.Now())
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM)
	f := &Front{
		Endpoint: "https://" + listener.Addr().String(), CAPEM: certPEM,
		decide: decide, serving: make(chan error, 1), closing: make(chan struct{}),
	}
	f.proxy = &httputil.ReverseProxy{
		// The host stays the client's: its signature covers it.
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 64, DisableCompression: true},
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	f.http = &http.Server{
		Handler: f, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { f.serving <- f.http.ServeTLS(listener, "", "") }()
	return f, nil
}

// Close ends all connections. The server behind goes on.
func (f *Front) Close() error {
	close(f.closing)
	err := f.http.Close()
	if ended := <-f.serving; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	f.proxy.Transport.(*http.Transport).CloseIdleConnections()
	return err
}

// ServeHTTP implements http.Handler.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	fault := f.decide(Request{Method: r.Method, Bucket: bucket, Key: key, Query: r.URL.Query(), Size: r.ContentLength, N: f.count.Add(1)})
	if fault.Wait > 0 && !f.sleep(r.Context(), fault.Wait) {
		return
	}
	switch {
	case fault.Reset:
		panic(http.ErrAbortHandler)
	case fault.Status != 0:
		refuse(w, fault)
		return
	}
	body := r.ContentLength != 0
	if body {
		r.Body = &disturbed{ReadCloser: r.Body, front: f, ctx: r.Context(), flip: fault.Flip, rate: fault.Rate, flipAt: max(r.ContentLength/2, 0)}
	}
	f.proxy.ServeHTTP(&disturbedAnswer{
		ResponseWriter: w, front: f, ctx: r.Context(), lost: fault.Lost, truncate: fault.Truncate, flip: fault.Flip && !body, rate: fault.Rate,
	}, r)
}

// refuse answers as S3 refuses.
func refuse(w http.ResponseWriter, fault Fault) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(fault.Status)
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName struct{} `xml:"Error"`
		Code    string
		Message string
	}{Code: fault.Code, Message: "refused on request"})
}

// sleep waits; false when the client or the front is gone first.
func (f *Front) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-f.closing:
	}
	return false
}

// pace waits as long as n bytes take at rate.
func (f *Front) pace(ctx context.Context, n int, rate int64) error {
	if rate > 0 && !f.sleep(ctx, time.Duration(n)*time.Second/time.Duration(rate)) {
		return fmt.Errorf("the connection ended: %w", context.Cause(ctx))
	}
	return nil
}

// disturbed is a request's body on its way.
type disturbed struct {
	io.ReadCloser
	front  *Front
	ctx    context.Context // of the request that it is the body of
	flip   bool
	flipAt int64
	rate   int64
	at     int64
}

// Read implements io.Reader.
func (d *disturbed) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	flip(p[:n], d.at, d.flipAt, d.flip)
	d.at += int64(n)
	if paced := d.front.pace(d.ctx, n, d.rate); paced != nil {
		return n, paced
	}
	return n, err
}

// disturbedAnswer is an answer on its way.
type disturbedAnswer struct {
	http.ResponseWriter
	front    *Front
	ctx      context.Context // of the request that it answers
	lost     bool
	truncate int64
	flip     bool
	rate     int64
	at       int64
}

// Unwrap lets a ResponseController flush.
func (d *disturbedAnswer) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// WriteHeader implements http.ResponseWriter. What comes before the answer
// (100 Continue) is passed on from a goroutine that must not panic.
func (d *disturbedAnswer) WriteHeader(status int) {
	if d.lost && status >= http.StatusOK {
		panic(http.ErrAbortHandler)
	}
	d.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (d *disturbedAnswer) Write(p []byte) (int, error) {
	if d.truncate > 0 && d.at+int64(len(p)) > d.truncate {
		if n := d.truncate - d.at; n > 0 {
			_, _ = d.ResponseWriter.Write(p[:n])
			_ = http.NewResponseController(d.ResponseWriter).Flush()
		}
		panic(http.ErrAbortHandler)
	}
	flip(p, d.at, 0, d.flip)
	d.at += int64(len(p))
	if err := d.front.pace(d.ctx, len(p), d.rate); err != nil {
		return 0, err
	}
	return d.ResponseWriter.Write(p)
}

// flip changes a bit of the byte at offset want of a stream, of which p starts at at.
func flip(p []byte, at, want int64, on bool) {
	if i := want - at; on && i >= 0 && i < int64(len(p)) {
		p[i] ^= 1
	}
}
