package controlplaned

import (
	"context"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/sirupsen/logrus"

	"skylift/config"
	"skylift/controlplane/link"
	"skylift/internal/dial"
	"skylift/internal/secret"
	"skylift/staging/bucket"
)

// stagingConns bounds the connections to the staging bucket.
const stagingConns = 64

// openedStaging is the staging bucket as both sides are to use it.
type openedStaging struct {
	store       *bucket.Store
	place       link.Staging
	credentials link.CredentialSource // nil: connectors have their own
}

// openStaging opens the bucket and finds out what it can do.
func openStaging(ctx context.Context, c config.ControlPlane, log logrus.FieldLogger) (*openedStaging, error) {
	var ca []byte
	if c.Staging.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(c.Staging.CAFile); err != nil {
			return nil, config.Invalid.New(err, "read the certificates for staging")
		}
	}
	password, err := c.Proxy.PasswordFile.Read()
	if err != nil {
		return nil, err
	}
	transport, err := dial.NewTransport(dial.Settings{
		Proxy: dial.Proxy{URL: c.Proxy.URL, User: c.Proxy.User, Password: password, Except: c.Proxy.Except}, CA: ca, MaxConnsPerHost: stagingConns,
	})
	if err != nil {
		return nil, fmt.Errorf("reach staging: %w", err)
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(c.Staging.Region))
	if err != nil {
		return nil, config.Invalid.New(err, "load the AWS settings")
	}
	cfg.HTTPClient = transport.Client()
	if c.Staging.Endpoint != "" {
		cfg.BaseEndpoint = &c.Staging.Endpoint
	}
	store, err := bucket.New(bucket.Config{AWS: cfg, PathStyle: c.Staging.PathStyle, Bucket: c.Staging.Bucket, Prefix: c.Staging.Prefix, Log: log})
	if err != nil {
		return nil, err
	}
	found, err := store.Probe(ctx)
	if err != nil {
		return nil, err
	}
	opened := &openedStaging{
		store: store.With(found),
		place: link.Staging{
			Bucket: c.Staging.Bucket, Prefix: c.Staging.Prefix, Region: c.Staging.Region, Endpoint: c.Staging.Endpoint,
			PathStyle: c.Staging.PathStyle, CAPEM: string(ca), ConditionalWrites: found.ConditionalCreate,
		},
	}
	if c.Staging.ShareCredentials {
		opened.credentials = shared{cfg.Credentials}
	}
	return opened, nil
}

// shared hands the control plane's own credentials to connectors.
type shared struct{ own aws.CredentialsProvider }

func (s shared) Credentials(ctx context.Context, _, _ string) (link.Credentials, error) {
	c, err := s.own.Retrieve(ctx)
	if err != nil {
		return link.Credentials{}, err
	}
	out := link.Credentials{AccessKeyID: c.AccessKeyID, SecretKey: secret.New(c.SecretAccessKey), SessionToken: secret.New(c.SessionToken)}
	if c.CanExpire {
		out.Expires = c.Expires
	}
	return out, nil
}
