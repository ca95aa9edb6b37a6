package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
)

// serveSink is the sink's process.
func serveSink(ctx context.Context) error {
	server := httptest.NewUnstartedServer(&sink{objects: map[string][]byte{}})
	server.StartTLS()
	defer server.Close()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return answerAll(ctx, func(context.Context, struct{}) (endpoint, error) {
		return endpoint{URL: server.URL, CertificatePEM: cert, User: "bench", Password: "bench", Region: "us-east-1"}, nil
	})
}

// sink speaks as much of the S3 protocol as a run needs and does as little as
// it can: segments are thrown away unread, the few small objects of
// a run are kept, no signature and no checksum is looked at.
type sink struct {
	mu      sync.Mutex
	objects map[string][]byte
	buffers sync.Pool
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.URL.Path
	s.mu.Lock()
	object, exists := s.objects[key]
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodPut && exists && r.Header.Get("If-None-Match") == "*":
		w.WriteHeader(http.StatusPreconditionFailed)
	case r.Method == http.MethodPut:
		if err := s.put(key, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	case r.URL.Query().Get("list-type") == "2":
		// Nothing that a run lists is kept.
		fmt.Fprint(w, `<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>`)
	case !exists:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `<Error><Code>NoSuchKey</Code></Error>`)
	default:
		sum := sha256.Sum256(object)
		w.Header().Set("Content-Length", strconv.Itoa(len(object)))
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		_, _ = w.Write(object) // a client that goes does not matter
	}
}

func (s *sink) put(key string, body io.Reader) error {
	if !strings.Contains(key, "/segment-") {
		p, err := io.ReadAll(body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.objects[key] = p
		return err
	}
	buffer, ok := s.buffers.Get().(*[256 << 10]byte)
	if !ok {
		buffer = new([256 << 10]byte)
	}
	defer s.buffers.Put(buffer)
	for {
		if _, err := body.Read(buffer[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
