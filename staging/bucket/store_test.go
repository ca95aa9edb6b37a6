package bucket

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"skylift/internal/problem"
	"skylift/staging/stagingtest"
)

func TestTheStoreKeepsTheContractOnARealServer(t *testing.T) {
	t.Run("without conditional writes", func(t *testing.T) { stagingtest.TestStore(t, store(t, server(t).AWS())) })
	t.Run("with conditional writes", func(t *testing.T) { stagingtest.TestStore(t, store(t, server(t).AWS(), conditional)) })
	t.Run("without a prefix", func(t *testing.T) {
		stagingtest.TestStore(t, store(t, server(t).AWS(), func(c *Config) { c.Prefix = "" }))
	})
	for _, status := range []types.BucketVersioningStatus{types.BucketVersioningStatusEnabled, types.BucketVersioningStatusSuspended} {
		t.Run("on a bucket whose versioning is "+string(status), func(t *testing.T) {
			srv := server(t)
			setVersioning(t, srv, types.BucketVersioningStatusEnabled)
			setVersioning(t, srv, status)
			stagingtest.TestStore(t, store(t, srv.AWS(), conditional))
			if n := versionsLeft(t, srv); n != 0 {
				t.Errorf("%d versions and delete markers are left", n)
			}
		})
	}
}

func TestDeleteRemovesTheVersionsOfItsKeysAndNoOthers(t *testing.T) {
	srv := server(t)
	setVersioning(t, srv, types.BucketVersioningStatusEnabled)
	s := store(t, srv.AWS())
	for _, key := range []string{"dir/a", "dir/a", "dir/a-b", "dir/aa", "dir/b", "dir/b"} {
		if err := s.Put(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), []string{"dir/b", "dir/a"}); err != nil {
		t.Fatal(err)
	}
	if n := versionsLeft(t, srv); n != 2 {
		t.Errorf("%d versions are left, want those of the 2 others", n)
	}
}

func TestTheServerRefusesBytesThatAreNotThoseOfTheChecksum(t *testing.T) {
	s := store(t, server(t).AWS())
	_, err := s.put(t.Context(), "a", []byte("damaged"), checksum([]byte("sent")), false)
	if statusOf(err) != http.StatusBadRequest {
		t.Errorf("got %v", err)
	}
	if _, err := read(t, s, "a", 0, -1); err == nil {
		t.Error("the damaged object is there")
	}
}

func TestAPutIsOnePlainRequest(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws(), conditional)
	if err := s.Put(t.Context(), "a", random(3<<20)); err != nil {
		t.Fatal(err)
	}
	requests := p.requests()
	if len(requests) != 1 {
		t.Fatalf("%d requests", len(requests))
	}
	h := requests[0].Header
	if got := h.Get("X-Amz-Content-Sha256"); got != "UNSIGNED-PAYLOAD" {
		t.Errorf("the payload's hash is %q", got)
	}
	if h.Get("X-Amz-Checksum-Crc32c") == "" || h.Get("X-Amz-Trailer") != "" || h.Get("Content-Encoding") != "" || requests[0].ContentLength != 3<<20 {
		t.Errorf("not a plain body with a CRC-32C: %d bytes, %v", requests[0].ContentLength, h)
	}
	if !strings.Contains(h.Get("Authorization"), "x-amz-checksum-crc32c") {
		t.Error("the checksum is not signed")
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	creds := credentials.NewStaticCredentialsProvider("a", "b", "")
	for _, tt := range []struct {
		name string
		cfg  Config
		kind *problem.Kind
	}{
		{"no bucket", Config{AWS: aws.Config{Credentials: creds}}, nil},
		{"no credentials", Config{Bucket: "b"}, nil},
		{"a prefix with a leading slash", Config{Bucket: "b", Prefix: "/p", AWS: aws.Config{Credentials: creds}}, nil},
		{"no TLS", Config{Bucket: "b", AWS: aws.Config{Credentials: creds, BaseEndpoint: aws.String("HTTP://s3.local")}}, KindPlain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(tt.cfg); err == nil || problem.Of(err) != tt.kind {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestARealServersRefusalsAreTypedAndNotTriedAgain(t *testing.T) {
	srv := server(t)
	for _, tt := range []struct {
		name string
		kind *problem.Kind
		edit func(*Config)
	}{
		{"a wrong secret", KindKey, func(c *Config) {
			c.AWS.Credentials = credentials.NewStaticCredentialsProvider(srv.AccessKey, "wrong", "")
		}},
		{"an unknown key", KindKey, func(c *Config) {
			c.AWS.Credentials = credentials.NewStaticCredentialsProvider("nobody", srv.SecretKey.Reveal(), "")
		}},
		{"a bucket that does not exist", KindNoBucket, func(c *Config) { c.Bucket = "another" }},
		{"another Region", KindRegion, func(c *Config) { c.AWS.Region = "eu-west-1" }},
		{"an untrusted certificate", KindUntrusted, func(c *Config) { c.AWS.HTTPClient = &http.Client{} }},
		{"an issuer that fails", KindNoCredentials, func(c *Config) { c.AWS.Credentials = &issuer{err: errors.New("no link")} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := store(t, srv.AWS(), tt.edit)
			err := s.Put(t.Context(), "a", []byte("x"))
			if problem.Of(err) != tt.kind || strings.Contains(err.Error(), "attempt") {
				t.Errorf("got %v", err)
			}
			if _, err := read(t, s, "a", 0, -1); problem.Of(err) != tt.kind {
				t.Errorf("Get: %v", err)
			}
			if tt.kind == KindRegion && !strings.Contains(err.Error(), "lies in us-east-1") {
				t.Errorf("the right Region is not named: %v", err)
			}
			if strings.Contains(problem.Describe(err), srv.SecretKey.Reveal()) {
				t.Error("the secret is in the error")
			}
		})
	}
}

func TestProbeFindsWhatARealServerCanDo(t *testing.T) {
	srv := server(t)
	s := store(t, srv.AWS())
	caps, err := s.Probe(t.Context())
	if err != nil || caps != (Capabilities{ConditionalCreate: true}) {
		t.Errorf("got %+v, %v", caps, err)
	}
	setVersioning(t, srv, types.BucketVersioningStatusEnabled)
	caps, err = s.Probe(t.Context())
	if err != nil || caps != (Capabilities{ConditionalCreate: true, Versioned: true}) {
		t.Errorf("with versions: got %+v, %v", caps, err)
	}
	if n := versionsLeft(t, srv); n != 0 {
		t.Errorf("the probe left %d versions behind", n)
	}
}

func TestAPutDoesNotCopyItsBytes(t *testing.T) {
	const puts, size = 4, 8 << 20
	s := store(t, server(t).AWS())
	p := random(size)
	if err := s.Put(t.Context(), "a", p); err != nil { // makes the connection
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range puts {
		if err := s.Put(t.Context(), "a", p); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// The race detector has pools forget, hence the generous limit.
	if each := (after.TotalAlloc - before.TotalAlloc) / puts; each > size/2 {
		t.Errorf("a Put of %d bytes allocates %d", size, each)
	}
}
