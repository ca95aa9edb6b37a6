package connectord

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/sirupsen/logrus"

	"skylift/config"
	"skylift/connector"
	"skylift/internal/bandwidth"
	"skylift/internal/dial"
	"skylift/internal/problem"
	"skylift/staging"
	"skylift/staging/bucket"
)

// NoCredentials says that there is nothing to open staging with.
var NoCredentials = &problem.Kind{
	Code:  "staging-no-credentials",
	Title: "neither the control plane nor this machine has credentials for staging",
	Hint:  "Set staging.share-credentials at the control plane, or staging.own-credentials here",
}

// stagingOpener opens the staging that commands name. Transports are shared by
// all runs of the same staging.
type stagingOpener struct {
	settings  config.Connector
	proxy     dial.Proxy
	ca        []byte
	bandwidth *bandwidth.Limiter
	log       logrus.FieldLogger

	mu      sync.Mutex
	clients map[string]*http.Client // by the control plane's additional roots
}

func newStagingOpener(c config.Connector, proxy dial.Proxy, limiter *bandwidth.Limiter, log logrus.FieldLogger) (*stagingOpener, error) {
	o := &stagingOpener{settings: c, proxy: proxy, bandwidth: limiter, log: log, clients: map[string]*http.Client{}}
	if c.Staging.CAFile != "" {
		var err error
		if o.ca, err = os.ReadFile(c.Staging.CAFile); err != nil {
			return nil, fmt.Errorf("read the certificates for staging: %w", err)
		}
	}
	return o, nil
}

func (o *stagingOpener) open(ctx context.Context, place connector.StagingPlace, credentials func() (connector.Credentials, bool)) (staging.Store, error) {
	client, err := o.client(place.CAPEM)
	if err != nil {
		return nil, err
	}
	cfg := aws.Config{Region: place.Region, HTTPClient: client}
	if place.Endpoint != "" {
		cfg.BaseEndpoint = &place.Endpoint
	}
	if cfg.Credentials, err = o.credentials(ctx, place.Region, credentials); err != nil {
		return nil, err
	}
	return bucket.New(bucket.Config{
		AWS: cfg, PathStyle: place.PathStyle, Bucket: place.Bucket, Prefix: place.Prefix,
		Capabilities: bucket.Capabilities{ConditionalCreate: place.ConditionalWrites}, Log: o.log,
	})
}

func (o *stagingOpener) client(roots string) (*http.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.clients[roots]; c != nil {
		return c, nil
	}
	t, err := dial.NewTransport(dial.Settings{
		Proxy: o.proxy, CA: append([]byte(roots+"\n"), o.ca...),
		MaxConnsPerHost: o.settings.Slots * o.settings.Parallel, Wrap: o.bandwidth.Conn,
	})
	if err != nil {
		return nil, fmt.Errorf("reach staging: %w", err)
	}
	o.clients[roots] = t.Client()
	return o.clients[roots], nil
}

// credentials are the newest that the control plane sent, or the machine's own.
func (o *stagingOpener) credentials(ctx context.Context, region string, sent func() (connector.Credentials, bool)) (aws.CredentialsProvider, error) {
	if o.settings.Staging.OwnCredentials {
		own, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(region))
		return own.Credentials, err
	}
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		c, ok := sent()
		if !ok {
			return aws.Credentials{}, NoCredentials.New(nil, "open staging")
		}
		return aws.Credentials{
			AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretKey.Reveal(), SessionToken: c.SessionToken.Reveal(),
			CanExpire: !c.Expires.IsZero(), Expires: c.Expires, Source: "control plane",
		}, nil
	}), nil
}
