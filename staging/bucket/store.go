package bucket

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/sirupsen/logrus"

	"skylift/staging"
)

// Config says where the staging prefix lies and how it is reached.
type Config struct {
	// AWS holds Region, credentials, HTTP client and, for a server that is not
	// Amazon's, BaseEndpoint. Its retry settings are not used.
	AWS aws.Config
	// PathStyle puts the bucket in the path instead of the host name, as most
	// servers other than Amazon's want it.
	PathStyle bool
	Bucket    string
	// Prefix is set before every key, with a slash between; may be empty.
	Prefix string
	// Capabilities is what Probe found; the zero value assumes the least.
	Capabilities Capabilities
	// Retry is the budget of each operation; zero fields take the defaults.
	Retry Retry
	// Log gets a warning for every attempt that is tried again; may be nil.
	Log logrus.FieldLogger
}

// Store is a staging.Store on a bucket.
type Store struct {
	client      *s3.Client
	credentials *renewable
	bucket      string
	prefix      string // empty or ends in a slash
	caps        Capabilities
	retry       Retry
	log         logrus.FieldLogger
	page        int // objects that one request lists or deletes
}

// pageSize is the most that S3 lists or deletes at once.
const pageSize = 1000

var _ staging.Store = (*Store)(nil)

// New makes a Store. It does not talk to the server.
func New(cfg Config) (*Store, error) {
	switch {
	case cfg.Bucket == "":
		return nil, errors.New("staging bucket: no bucket is named")
	case cfg.AWS.Credentials == nil:
		return nil, errors.New("staging bucket: no credentials are configured")
	case strings.HasPrefix(cfg.Prefix, "/"):
		return nil, fmt.Errorf("staging bucket: the prefix %q begins with a slash", cfg.Prefix)
	}
	s := &Store{
		credentials: newRenewable(cfg.AWS.Credentials),
		bucket:      cfg.Bucket,
		prefix:      strings.TrimSuffix(cfg.Prefix, "/"),
		caps:        cfg.Capabilities,
		retry:       cfg.Retry.orDefaults(),
		log:         cfg.Log,
		page:        pageSize,
	}
	if s.prefix != "" {
		s.prefix += "/"
	}
	if s.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		s.log = silent
	}
	s.client = s3.NewFromConfig(cfg.AWS, func(o *s3.Options) {
		o.UsePathStyle = cfg.PathStyle
		o.Credentials = s.credentials
		o.Retryer = aws.NopRetryer{}
		o.RetryMaxAttempts = 0
		// Checksums are set where they are wanted; nothing is hashed twice.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		// A wrong clock breaks more than S3: it is reported, not papered over.
		o.DisableClockSkewCorrection = true
	})
	// The SDK finds endpoints in the environment and in its own files too.
	endpoint := aws.ToString(s.client.Options().BaseEndpoint)
	if strings.HasPrefix(strings.ToLower(endpoint), "http:") {
		return nil, KindPlain.New(nil, "use %s", endpoint)
	}
	return s, nil
}

// With returns a Store that makes use of what Probe found. It shares the
// receiver's client.
func (s *Store) With(caps Capabilities) *Store {
	out := *s
	out.caps = caps
	return &out
}

// Put implements staging.Store.
func (s *Store) Put(ctx context.Context, key string, p []byte) error {
	sum := checksum(p)
	return s.operation("put", key).do(ctx, func() error {
		_, err := s.put(ctx, key, p, sum, false)
		return err
	})
}

// Create implements staging.Store.
func (s *Store) Create(ctx context.Context, key string, p []byte) error {
	if s.caps.ConditionalCreate {
		return s.createConditionally(ctx, key, p)
	}
	sum := checksum(p)
	looked := false
	return s.operation("create", key).do(ctx, func() error {
		if !looked {
			switch err := s.head(ctx, key); {
			case err == nil:
				return staging.ErrExists
			case !errors.Is(err, staging.ErrNotFound):
				return err
			}
			// Not asked again: what a later attempt would see may be ours.
			looked = true
		}
		_, err := s.put(ctx, key, p, sum, false)
		return err
	})
}

// createConditionally has the server refuse a second object of a key.
func (s *Store) createConditionally(ctx context.Context, key string, p []byte) error {
	sum := checksum(p)
	unsure := false // an attempt whose answer was lost may have been carried out
	return s.operation("create", key).do(ctx, func() error {
		_, err := s.put(ctx, key, p, sum, true)
		switch status := statusOf(err); {
		case err == nil:
			return nil
		case status == http.StatusPreconditionFailed && unsure:
			return s.mustBe(ctx, key, p)
		case status == http.StatusPreconditionFailed:
			return staging.ErrExists
		case status < 400 || status >= 500:
			unsure = true
		}
		return err
	})
}

// mustBe returns nil when the object under key is p, and ErrExists when it is another.
func (s *Store) mustBe(ctx context.Context, key string, p []byte) (err error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key)})
	if err != nil {
		return asNotFound(err)
	}
	defer func() { err = errors.Join(err, out.Body.Close()) }()
	if size := aws.ToInt64(out.ContentLength); size != int64(len(p)) {
		return staging.ErrExists
	}
	there, err := io.ReadAll(io.LimitReader(out.Body, int64(len(p))+1))
	if err != nil {
		return err
	}
	if !bytes.Equal(there, p) {
		return staging.ErrExists
	}
	return nil
}

// put is one attempt.
func (s *Store) put(ctx context.Context, key string, p []byte, sum string, create bool) (*s3.PutObjectOutput, error) {
	in := &s3.PutObjectInput{
		Bucket:         &s.bucket,
		Key:            aws.String(s.prefix + key),
		Body:           bytes.NewReader(p),
		ContentLength:  aws.Int64(int64(len(p))),
		ChecksumCRC32C: &sum,
	}
	if create {
		in.IfNoneMatch = aws.String("*")
	}
	// With a checksum given and over TLS, the SDK signs the headers alone and
	// sends the body as it is: no second hash, no chunks, no trailer.
	return s.client.PutObject(ctx, in)
}

// head is one attempt to see whether there is an object.
func (s *Store) head(ctx context.Context, key string) error {
	_, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key)})
	return asNotFound(err)
}

// checksum is the x-amz-checksum-crc32c of p: CRC-32C, big-endian, base64.
func checksum(p []byte) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return base64.StdEncoding.EncodeToString(b[:])
}
