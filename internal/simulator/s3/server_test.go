package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"skylift/internal/secret"
)

// grandparentEnv makes the test binary a parent that starts a server, says so
// and waits to be killed.
const grandparentEnv = "SKYLIFT_SIMULATOR_S3_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(grandparentEnv); dir != "" && os.Getenv(childEnv) == "" {
		s, err := Start(context.Background(), Config{Dir: dir})
		if err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString(s.Endpoint + "\n")
		select {}
	}
	Main(m)
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
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

func client(t *testing.T, cfg aws.Config) *s3.Client {
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = true
		o.RetryMaxAttempts = 1
	})
}

func TestAnObjectSurvivesAKillOfTheServer(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "new"), Access: "me", Secret: secret.New("a long secret"), Buckets: []string{"one", "two"}}
	began := time.Now()
	s := start(t, cfg)
	t.Logf("started in %v", time.Since(began))
	bucket, key := "two", "a/b"
	_, err := client(t, s.AWS()).PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader("kept")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	s = start(t, cfg)
	out, err := client(t, s.AWS()).GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	if p, err := io.ReadAll(out.Body); err != nil || string(p) != "kept" {
		t.Errorf("read %q, %v", p, err)
	}
}

func TestADirectoryIsServedAgainUnderTheNameItsBucketsBelongTo(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Buckets: []string{"staging"}}
	first, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	if again.AccessKey != first.AccessKey || again.SecretKey == first.SecretKey {
		t.Errorf("the account was %q and is %q; its secret must be another", first.AccessKey, again.AccessKey)
	}
}

func TestTheServerRefusesWhatS3Refuses(t *testing.T) {
	s := start(t, Config{Dir: t.TempDir(), Buckets: []string{"bucket"}})
	body := []byte("some bytes")
	crc := func(p []byte) *string {
		b := binary.BigEndian.AppendUint32(nil, crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
		return aws.String(base64.StdEncoding.EncodeToString(b))
	}
	for _, tt := range []struct {
		name string
		code string
		in   s3.PutObjectInput
		edit func(*aws.Config)
	}{
		{"a wrong secret", "SignatureDoesNotMatch", s3.PutObjectInput{}, func(c *aws.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider(s.AccessKey, "wrong", "")
		}},
		{"an unknown account", "InvalidAccessKeyId", s3.PutObjectInput{}, func(c *aws.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider("nobody", s.SecretKey.Reveal(), "")
		}},
		{"a wrong CRC-32C", "BadDigest", s3.PutObjectInput{ChecksumCRC32C: crc([]byte("other bytes"))}, nil},
		{"a wrong SHA-256", "BadDigest", s3.PutObjectInput{ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(make([]byte, 32)))}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := s.AWS()
			if tt.edit != nil {
				tt.edit(&cfg)
			}
			tt.in.Bucket, tt.in.Key, tt.in.Body = aws.String("bucket"), aws.String("key"), bytes.NewReader(body)
			_, err := client(t, cfg).PutObject(t.Context(), &tt.in)
			if api := smithy.APIError(nil); !errors.As(err, &api) || api.ErrorCode() != tt.code {
				t.Errorf("got %v, want %s", err, tt.code)
			}
		})
	}
	t.Run("but takes what is right", func(t *testing.T) {
		_, err := client(t, s.AWS()).PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String("bucket"), Key: aws.String("key"), Body: bytes.NewReader(body), ChecksumCRC32C: crc(body)})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestTheServerEndsWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), grandparentEnv+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(strings.TrimSpace(string(line[:n])), "https://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("the server does not listen on %s: %v", addr, err)
	}
	defer conn.Close()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	// The server closes its connections when it ends.
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(line); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server outlived its parent: %v", err)
	}
}

func TestAStartThatFailsSaysWhy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "objects"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), Config{Dir: dir}); err == nil {
		s.Close()
		t.Error("a directory that is a file was served")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Config{Dir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled start: %v", err)
	}
	_, err := Start(t.Context(), Config{Dir: t.TempDir(), Args: []string{"-no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "-test.v") {
		t.Errorf("a child that ends at once: %v", err)
	}
}

func TestTheKeyAndTheSettingsArePrivate(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	info, err := os.Stat(filepath.Join(dir, "tls", "key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	for _, place := range append(s.cmd.Args, s.cmd.Env...) {
		if strings.Contains(place, s.SecretKey.Reveal()) {
			t.Error("the secret is in the arguments or the environment")
		}
	}
}
