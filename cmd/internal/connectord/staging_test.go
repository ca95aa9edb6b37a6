package connectord

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sync/errgroup"

	"skylift/config"
	"skylift/connector"
	"skylift/internal/bandwidth"
	"skylift/internal/dial"
	"skylift/internal/secret"
	"skylift/staging"
)

const mib = 1 << 20

// openSink opens staging on a server that takes every object.
func openSink(t *testing.T, limiter *bandwidth.Limiter) (store staging.Store, received *atomic.Int64) {
	t.Helper()
	received = new(atomic.Int64)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		received.Add(n)
		w.Header().Set("ETag", `"1"`)
	}))
	t.Cleanup(server.Close)
	log, _ := logtest.NewNullLogger()
	opener, err := newStagingOpener(config.DefaultConnector(), dial.Proxy{}, limiter, log)
	if err != nil {
		t.Fatal(err)
	}
	store, err = opener.open(t.Context(), connector.StagingPlace{
		Bucket: "b", Region: "us-east-1", Endpoint: server.URL, PathStyle: true,
		CAPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
	}, func() (connector.Credentials, bool) {
		return connector.Credentials{AccessKeyID: "id", SecretKey: secret.New("key")}, true
	})
	if err != nil {
		t.Fatal(err)
	}
	return store, received
}

func limiterOf(t *testing.T, text string) (*bandwidth.Limiter, bandwidth.Timetable) {
	t.Helper()
	table, err := bandwidth.Parse(text, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return bandwidth.New(table, nil), table
}

// TestStagingIsSentAtTheSetPace is about real connections, whose machine may
// be busy: it is generous below the limit, and not above.
func TestStagingIsSentAtTheSetPace(t *testing.T) {
	limiter, _ := limiterOf(t, "4M")
	store, received := openSink(t, limiter)
	start := time.Now()
	var group errgroup.Group
	for i := range 4 {
		group.Go(func() error { return store.Put(t.Context(), fmt.Sprint("data/", i), make([]byte, 2*mib)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); received.Load() != 8*mib || took < 1800*time.Millisecond || took > 6*time.Second {
		t.Errorf("8 MiB at 4 MiB/s: %d bytes in %s", received.Load(), took)
	}
}

func TestAnUploadToStagingEndsWhenTheTimetableShuts(t *testing.T) {
	limiter, _ := limiterOf(t, "1M")
	_, shut := limiterOf(t, "shut")
	store, _ := openSink(t, limiter)
	sending := limiter.Sending(t.Context())
	defer sending.Done()
	var at atomic.Int64
	time.AfterFunc(300*time.Millisecond, func() {
		at.Store(time.Now().UnixNano())
		limiter.Set(shut)
	})
	err := store.Put(sending.Context(), "data/1", make([]byte, 64*mib))
	if late := time.Since(time.Unix(0, at.Load())); !errors.Is(err, bandwidth.ErrShut) || late > 2*time.Second {
		t.Errorf("ended %s after that: %v", late, err)
	}
	// What asks for something goes through.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if body, err := store.Get(ctx, "data/1", 0, 0); err != nil {
		t.Errorf("get while it is shut: %v", err)
	} else if err := body.Close(); err != nil {
		t.Error(err)
	}
}
