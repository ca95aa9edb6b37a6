package operate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"

	"skylift/cmd/internal/daemon"
	"skylift/config"
	"skylift/controlplane/api/smsclient"
	"skylift/internal/secret"
)

// callLimit bounds one call of the API.
const callLimit = time.Minute

const settingsHelp = `The control plane's address comes from AWS_ENDPOINT_URL_SMS or AWS_ENDPOINT_URL,
the access key from the usual AWS variables or files; AWS_REGION and
AWS_CA_BUNDLE are honored.`

// Commands are all of them.
func Commands() []*cobra.Command {
	server := &cobra.Command{Use: "server", Short: "Show servers, check what stands in their way, enable change tracking"}
	server.AddCommand(serverList(), serverCheck(), serverEnableTracking())
	source := &cobra.Command{Use: "source", Short: "Show sources and check what stands in their way"}
	source.AddCommand(sourceList(), sourceCheck())
	run := &cobra.Command{Use: "run", Short: "Show replication runs"}
	run.AddCommand(runList(), runShow())
	return []*cobra.Command{server, source, run}
}

// connect makes a client of the API.
func connect(ctx context.Context) (*smsclient.Client, error) {
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, config.Invalid.New(err, "load the AWS settings")
	}
	endpoint := os.Getenv("AWS_ENDPOINT_URL_SMS")
	if endpoint == "" && cfg.BaseEndpoint != nil {
		endpoint = *cfg.BaseEndpoint
	}
	if endpoint == "" {
		return nil, config.Invalid.New(errors.New("AWS_ENDPOINT_URL_SMS is not set"), "find the control plane")
	}
	if cfg.Region == "" {
		return nil, config.Invalid.New(errors.New("AWS_REGION is not set"), "find the control plane")
	}
	key, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, config.Invalid.New(err, "find the access key")
	}
	client := &http.Client{Timeout: callLimit}
	if built, ok := cfg.HTTPClient.(interface{ GetTransport() *http.Transport }); ok {
		client.Transport = built.GetTransport() // it trusts AWS_CA_BUNDLE
	}
	c, err := smsclient.New(smsclient.Config{
		Endpoint: endpoint, Region: cfg.Region, AccessKeyID: key.AccessKeyID, Secret: secret.New(key.SecretAccessKey), HTTP: client,
	})
	if err != nil {
		return nil, config.Invalid.New(err, "reach the control plane")
	}
	return c, nil
}

// usage is a command line that cannot be carried out as it is given.
type usage struct{ error }

// ExitCode implements daemon.Coder.
func (usage) ExitCode() int { return daemon.ExitUsage }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }
