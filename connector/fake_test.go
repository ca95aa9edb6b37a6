package connector

import (
	"context"
	"crypto/ed25519"
	"io"
	"net/http"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/sirupsen/logrus"

	"skylift/hypervisor"
	"skylift/internal/bandwidth"
	linkv1 "skylift/link/linkv1"
	"skylift/link/linkv1/linkv1connect"
	"skylift/staging"
	"skylift/transfer"
)

// control is a control plane that answers as its functions say; calls without
// one succeed. It is reached in memory, so that bubbles can hold it.
type control struct {
	linkv1connect.UnimplementedLinkServiceHandler
	hello    func() error
	commands func(ctx context.Context, send func(*linkv1.Command) error) error
	poll     func(ctx context.Context) (*linkv1.Command, error)
	renew    func(ctx context.Context) (*linkv1.RenewResponse, error)
	renewed  func(*linkv1.RenewRequest)
	record   func() error
	report   func(*linkv1.ReportInventoryRequest) error
	judge    func(*linkv1.JudgeRequest) *linkv1.JudgeResponse
	answer   func(*linkv1.AnswerRequest) error

	mu       sync.Mutex
	calls    map[string]int
	finished []*linkv1.FinishRequest
}

func (c *control) count(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[string]int{}
	}
	c.calls[name]++
}

func (c *control) made(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[name]
}

func (c *control) ends() []*linkv1.FinishRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finished
}

func (c *control) Hello(context.Context, *connect.Request[linkv1.HelloRequest]) (*connect.Response[linkv1.HelloResponse], error) {
	c.count("Hello")
	if c.hello != nil {
		if err := c.hello(); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&linkv1.HelloResponse{StagingVersion: staging.Version}), nil
}

func (c *control) Commands(ctx context.Context, _ *connect.Request[linkv1.CommandsRequest], stream *connect.ServerStream[linkv1.Command]) error {
	c.count("Commands")
	if c.commands == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.commands(ctx, stream.Send)
}

func (c *control) Poll(ctx context.Context, _ *connect.Request[linkv1.PollRequest]) (*connect.Response[linkv1.PollResponse], error) {
	c.count("Poll")
	var command *linkv1.Command
	if c.poll != nil {
		var err error
		if command, err = c.poll(ctx); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&linkv1.PollResponse{Command: command}), nil
}

func (c *control) Renew(ctx context.Context, r *connect.Request[linkv1.RenewRequest]) (*connect.Response[linkv1.RenewResponse], error) {
	c.count("Renew")
	if c.renewed != nil {
		c.renewed(r.Msg)
	}
	answer := granted(60_000)
	if c.renew != nil {
		var err error
		if answer, err = c.renew(ctx); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(answer), nil
}

func granted(ms uint32) *linkv1.RenewResponse {
	return &linkv1.RenewResponse{Lease: &linkv1.Lease{Run: "sms-run-1", Epoch: 1, TtlMs: ms}}
}

func (c *control) RecordSnapshot(context.Context, *connect.Request[linkv1.RecordSnapshotRequest]) (*connect.Response[linkv1.RecordSnapshotResponse], error) {
	c.count("RecordSnapshot")
	if c.record != nil {
		if err := c.record(); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&linkv1.RecordSnapshotResponse{}), nil
}

func (c *control) Finish(_ context.Context, r *connect.Request[linkv1.FinishRequest]) (*connect.Response[linkv1.FinishResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = append(c.finished, r.Msg)
	return connect.NewResponse(&linkv1.FinishResponse{}), nil
}

func (c *control) ReportInventory(_ context.Context, r *connect.Request[linkv1.ReportInventoryRequest]) (*connect.Response[linkv1.ReportInventoryResponse], error) {
	c.count("ReportInventory")
	if c.report != nil {
		if err := c.report(r.Msg); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&linkv1.ReportInventoryResponse{}), nil
}

func (c *control) Judge(_ context.Context, r *connect.Request[linkv1.JudgeRequest]) (*connect.Response[linkv1.JudgeResponse], error) {
	c.count("Judge")
	if c.judge != nil {
		return connect.NewResponse(c.judge(r.Msg)), nil
	}
	return connect.NewResponse(&linkv1.JudgeResponse{}), nil
}

func (c *control) Answer(_ context.Context, r *connect.Request[linkv1.AnswerRequest]) (*connect.Response[linkv1.AnswerResponse], error) {
	c.count("Answer")
	if c.answer != nil {
		if err := c.answer(r.Msg); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&linkv1.AnswerResponse{}), nil
}

// RoundTrip has the service answer a request.
func (c *control) RoundTrip(r *http.Request) (*http.Response, error) {
	_, handler := linkv1connect.NewLinkServiceHandler(c)
	body, out := io.Pipe()
	w := &answer{header: http.Header{}, out: out, begun: make(chan struct{})}
	stop := context.AfterFunc(r.Context(), func() { _ = out.CloseWithError(r.Context().Err()) })
	go func() {
		defer stop()
		handler.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		_ = out.Close()
		_ = r.Body.Close()
	}()
	select {
	case <-w.begun:
		return &http.Response{StatusCode: w.status, Header: w.header, Body: body, Request: r, ProtoMajor: 2}, nil
	case <-r.Context().Done():
		_ = body.Close()
		return nil, r.Context().Err()
	}
}

type answer struct {
	header http.Header
	status int
	out    *io.PipeWriter
	once   sync.Once
	begun  chan struct{}
}

func (w *answer) Header() http.Header { return w.header }
func (w *answer) Flush()              { w.WriteHeader(http.StatusOK) }

func (w *answer) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.header = status, w.header.Clone()
		close(w.begun)
	})
}

func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.out.Write(p)
}

// quiet is a source without servers.
type quiet struct {
	hypervisor.Source
	watch    func(ctx context.Context, emit func(hypervisor.Change) error) error
	snapshot func(ctx context.Context) error
	held     []hypervisor.SnapshotRef

	bandwidth *bandwidth.Limiter // nil for none
	shares    []hypervisor.Share
	sharesErr error

	mu      sync.Mutex
	removed []hypervisor.SnapshotRef
}

func (q *quiet) Properties() hypervisor.Properties {
	return hypervisor.Properties{Platform: "vsphere", SnapshotLimit: 2, DiskLimit: 1}
}

func (q *quiet) Shares(context.Context, hypervisor.ServerID) ([]hypervisor.Share, error) {
	return q.shares, q.sharesErr
}

func (q *quiet) Watch(ctx context.Context, emit func(hypervisor.Change) error) error {
	if q.watch != nil {
		return q.watch(ctx, emit)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (q *quiet) Held(context.Context) ([]hypervisor.SnapshotRef, []hypervisor.Anchor, error) {
	return q.held, nil, nil
}

func (q *quiet) Snapshot(ctx context.Context, run hypervisor.RunID, servers []hypervisor.ServerID, _ hypervisor.Quiesce) ([]hypervisor.SnapshotRef, error) {
	if q.snapshot != nil {
		if err := q.snapshot(ctx); err != nil {
			return nil, err
		}
	}
	return []hypervisor.SnapshotRef{{Server: servers[0], Run: run, ID: "snapshot-1"}}, nil
}

func (q *quiet) Remove(_ context.Context, ref hypervisor.SnapshotRef) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.removed = append(q.removed, ref)
	return nil
}

func newConnector(t *testing.T, c *control, q *quiet) *Connector {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	mover, err := transfer.New(transfer.Config{Bandwidth: q.bandwidth, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(Config{Mover: mover, Identity: Identity{Connector: "c-1", Installation: "i-1", Key: key}, URL: "http://control", HTTP: &http.Client{Transport: c},
		Sources: []Source{{ID: "vc-1", Name: "vcenter-1", Source: q}}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// work runs the connector until the returned function is called.
func work(t *testing.T, c *Connector) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func replicate(epoch int64) *linkv1.Command {
	return &linkv1.Command{Command: &linkv1.Command_Replicate{Replicate: &linkv1.Replicate{
		Lease: &linkv1.Lease{Run: "sms-run-1", Epoch: epoch, TtlMs: 60_000}, Job: "sms-job-1", Source: "vc-1", Server: "uuid-1"}}}
}

func heartbeat() *linkv1.Command {
	return &linkv1.Command{Command: &linkv1.Command_Heartbeat{Heartbeat: &linkv1.Heartbeat{}}}
}
