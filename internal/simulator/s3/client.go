package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// AWS returns a configuration that reaches this server: endpoint, Region,
// account and trusted certificate. Its S3 clients need UsePathStyle.
func (s *Server) AWS() aws.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM)
	client := &http.Client{
		Transport: &http.Transport{ // no Proxy: this is loopback
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: 64,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return aws.Config{
		Region:       s.Region,
		BaseEndpoint: aws.String(s.Endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey.Reveal(), ""),
		HTTPClient:   client,
	}
}

// createBuckets also proves that the server answers over TLS and takes the account.
func (s *Server) createBuckets(ctx context.Context, names []string) error {
	cfg := s.AWS()
	defer cfg.HTTPClient.(*http.Client).CloseIdleConnections()
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	for _, name := range names {
		_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
		if owned := (*types.BucketAlreadyOwnedByYou)(nil); err != nil && !errors.As(err, &owned) {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	if _, err := client.ListBuckets(ctx, &s3.ListBucketsInput{}); err != nil {
		return fmt.Errorf("S3 server does not answer: %w", err)
	}
	return nil
}
