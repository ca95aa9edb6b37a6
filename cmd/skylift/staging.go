package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/internal/dial"
	"skylift/staging"
	"skylift/staging/bucket"
)

const stagingHelp = `Credentials for --s3 come from the usual AWS variables; AWS_ENDPOINT_URL,
AWS_REGION and AWS_CA_BUNDLE are honored.`

// stagedRun says which run in which staging a command is about.
type stagedRun struct{ s3, job, run string }

func (s *stagedRun) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.s3, "s3", "", "where staging is: s3://bucket/prefix")
	cmd.Flags().StringVar(&s.job, "job", "", "ID of the replication job")
	cmd.Flags().StringVar(&s.run, "run", "", "ID of the replication run")
}

// open opens the staging that --s3 names, for reading.
func (s *stagedRun) open(ctx context.Context) (*bucket.Store, error) {
	if s.s3 == "" {
		return nil, config.Invalid.New(nil, "--s3 does not say where staging is")
	}
	b, err := parseBucket(s.s3)
	if err != nil {
		return nil, err
	}
	settings := dial.Settings{MaxConnsPerHost: 32}
	if b.CAFile != "" {
		if settings.CA, err = os.ReadFile(b.CAFile); err != nil {
			return nil, config.Invalid.New(err, "read AWS_CA_BUNDLE")
		}
	}
	transport, err := dial.NewTransport(settings)
	if err != nil {
		return nil, err
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(b.Region))
	if err != nil {
		return nil, config.Invalid.New(err, "load the AWS settings")
	}
	cfg.HTTPClient = transport.Client()
	if b.Endpoint != "" {
		cfg.BaseEndpoint = &b.Endpoint
	}
	return bucket.New(bucket.Config{AWS: cfg, PathStyle: b.PathStyle, Bucket: b.Name, Prefix: b.Prefix})
}

// places finds the disks of the run.
func (s *stagedRun) places(ctx context.Context, store staging.Store) ([]staging.Place, error) {
	if s.job == "" || s.run == "" {
		return nil, config.Invalid.New(nil, "--job and --run do not say which run")
	}
	prefix := staging.StatePrefix(s.job, s.run)
	var out []staging.Place
	err := store.List(ctx, prefix, func(o staging.Object) error {
		disk, name, _ := strings.Cut(strings.TrimPrefix(o.Key, prefix), "/")
		if name == "manifest" {
			out = append(out, staging.Place{Job: s.job, Run: s.run, Disk: disk})
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("run %s of job %s has no sealed disk in %s: it never got so far, or was purged", s.run, s.job, s.s3)
	}
	return out, err
}
