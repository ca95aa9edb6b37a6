package bucket

import (
	"crypto/rand"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	simulator "skylift/internal/simulator/s3"
	"skylift/staging"
)

func TestMain(m *testing.M) { simulator.Main(m) }

const bucketName = "staging"

// quickRetry makes retries fast; no test waits for one.
var quickRetry = Retry{Attempts: 5, Elapsed: time.Minute, First: time.Millisecond, Longest: 2 * time.Millisecond}

// server starts a real S3 server with an empty bucket.
func server(t testing.TB) *simulator.Server {
	t.Helper()
	s, err := simulator.Start(t.Context(), simulator.Config{Dir: t.TempDir(), Buckets: []string{bucketName}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// store makes a Store on the server at cfg's endpoint.
func store(t testing.TB, cfg aws.Config, edits ...func(*Config)) *Store {
	t.Helper()
	c := Config{AWS: cfg, PathStyle: true, Bucket: bucketName, Prefix: "sky/lift", Retry: quickRetry}
	for _, edit := range edits {
		edit(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.page = 25 // so that a few objects make pages and batches
	if client, ok := cfg.HTTPClient.(*http.Client); ok {
		t.Cleanup(client.CloseIdleConnections)
	}
	return s
}

func conditional(c *Config) { c.Capabilities.ConditionalCreate = true }

// setVersioning changes a server's bucket.
func setVersioning(t testing.TB, s *simulator.Server, status types.BucketVersioningStatus) {
	t.Helper()
	client := s3.NewFromConfig(s.AWS(), func(o *s3.Options) { o.UsePathStyle = true })
	_, err := client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: aws.String(bucketName), VersioningConfiguration: &types.VersioningConfiguration{Status: status},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// versionsLeft counts the versions and delete markers of a server's bucket.
func versionsLeft(t testing.TB, s *simulator.Server) int {
	t.Helper()
	client := s3.NewFromConfig(s.AWS(), func(o *s3.Options) { o.UsePathStyle = true })
	out, err := client.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(bucketName)})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Versions) + len(out.DeleteMarkers)
}

func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.Read(p)
	return p
}

func read(t testing.TB, s staging.Store, key string, off, n int64) ([]byte, error) {
	t.Helper()
	r, err := s.Get(t.Context(), key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
