package s3_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"skylift/internal/simulator/s3"
)

// crc is the checksum by which the server can see that bytes changed.
func crc(p []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))))
}

func TestAFrontDisturbsRequestsAsItIsTold(t *testing.T) {
	s, err := s3.Start(t.Context(), s3.Config{Dir: t.TempDir(), Buckets: []string{"staging"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var fault atomic.Pointer[s3.Fault]
	front, err := s3.StartFront(s, func(r s3.Request) s3.Fault {
		if r.Bucket != "staging" || r.Key != "some/key" {
			t.Errorf("asked about %+v", r)
		}
		return *fault.Load()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := front.Close(); err != nil {
			t.Error(err)
		}
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(front.CAPEM)
	cfg := s.AWS()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	cfg.HTTPClient, cfg.BaseEndpoint = &http.Client{Transport: transport}, aws.String(front.Endpoint)
	client := awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		o.UsePathStyle, o.RetryMaxAttempts = true, 1
		o.ContinueHeaderThresholdBytes = 1 // so that there are answers ahead of the answer
	})
	want := bytes.Repeat([]byte("skylift "), 10_000)
	put := func(f s3.Fault) error {
		fault.Store(&f)
		_, err := client.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("staging"), Key: aws.String("some/key"), Body: bytes.NewReader(want), ChecksumCRC32C: aws.String(crc(want))})
		return err
	}
	get := func(f s3.Fault) ([]byte, error) {
		fault.Store(&f)
		out, err := client.GetObject(t.Context(), &awss3.GetObjectInput{Bucket: aws.String("staging"), Key: aws.String("some/key")})
		if err != nil {
			return nil, err
		}
		defer out.Body.Close()
		return io.ReadAll(out.Body)
	}
	code := func(err error) string {
		var e smithy.APIError
		if errors.As(err, &e) {
			return e.ErrorCode()
		}
		return ""
	}

	if err := put(s3.Fault{Reset: true}); err == nil {
		t.Error("a reset request was answered")
	}
	if _, err := get(s3.Fault{}); code(err) != "NoSuchKey" {
		t.Errorf("a reset request took effect: %v", err)
	}
	if err := put(s3.Fault{Flip: true}); code(err) == "" {
		t.Errorf("bytes that changed on their way were taken: %v", err)
	}
	if err := put(s3.Fault{Lost: true}); err == nil {
		t.Error("a lost answer arrived")
	}
	if got, err := get(s3.Fault{Rate: 1 << 20}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was done before its answer got lost: %d bytes, %v", len(got), err)
	}
	if err := put(s3.Fault{}); err != nil {
		t.Errorf("an undisturbed request: %v", err)
	}
	if _, err := get(s3.Fault{Status: 503, Code: "SlowDown"}); code(err) != "SlowDown" {
		t.Errorf("a refused request: %v", err)
	}
	if got, err := get(s3.Fault{Truncate: 1000}); err == nil || len(got) != 1000 {
		t.Errorf("a truncated answer: %d bytes, %v", len(got), err)
	}
	if got, err := get(s3.Fault{Flip: true}); err == nil && bytes.Equal(got, want) {
		t.Error("an answer that changes on its way came unchanged")
	}
}
