package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"skylift/cmd/internal/daemon"
	"skylift/cmd/internal/try"
	"skylift/config"
)

func tryCommand() *cobra.Command {
	var o try.Options
	var v try.VCenter
	var bucket string
	cmd := &cobra.Command{
		Use: "try", Short: "Show a whole migration on this machine, and prove it byte for byte", Args: cobra.NoArgs,
		Long: `Start a simulated vCenter with a few servers, an S3 server, the control plane
and the connector, all on loopback in a temporary directory. Replicate every
server in full, let the guests write, replicate again, and compare every image
byte for byte with what the source held at the snapshot.

--vcenter and --s3 put real ones in the place of the stand-ins. Credentials for
--s3 come from the usual AWS variables; AWS_ENDPOINT_URL, AWS_REGION and
AWS_CA_BUNDLE are honored.`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Executable, err = os.Executable(); err != nil {
				return err
			}
			o.AsConn, o.AsControlPlane, o.AsS3 = []string{asConnector}, []string{asControlPlane}, []string{asS3}
			o.Out, o.Err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if v.URL != "" {
				if o.VCenter, err = realVCenter(v); err != nil {
					return err
				}
			}
			if bucket != "" {
				if o.Bucket, err = parseBucket(bucket); err != nil {
					return err
				}
			}
			return try.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.Disks, "disk", nil, "raw disk image to migrate as one more server; it is not modified (repeatable)")
	flags.StringVar(&o.Keep, "keep", "", "directory to keep images and staging in")
	flags.BoolVar(&o.JSON, "json", false, "print a summary as JSON and nothing else")
	flags.StringVar(&v.URL, "vcenter", "", "URL of a real vCenter")
	flags.StringVar(&v.User, "vcenter-user", "", "its user")
	flags.StringVar(&v.PasswordFile, "vcenter-password-file", "", "file with its password")
	flags.StringVar(&v.CAFile, "vcenter-ca-file", "", "file with certificates to trust for it")
	flags.StringVar(&v.Fingerprint, "vcenter-fingerprint", "", "SHA-256 of its certificate, to trust no other")
	flags.StringArrayVar(&v.Servers, "server", nil, "name of a server in the real vCenter to migrate (repeatable)")
	flags.StringVar(&bucket, "s3", "", "real bucket for staging: s3://bucket/prefix")
	return cmd
}

func realVCenter(v try.VCenter) (*try.VCenter, error) {
	if v.User == "" || v.PasswordFile == "" || len(v.Servers) == 0 {
		return nil, config.Invalid.New(nil, "--vcenter needs --vcenter-user, --vcenter-password-file and at least one --server")
	}
	return &v, nil
}

// parseBucket reads s3://bucket/prefix and the usual AWS variables beside it.
func parseBucket(s string) (*try.Bucket, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, config.Invalid.New(err, "%q is no s3://bucket/prefix", s)
	}
	b := &try.Bucket{
		Name: u.Host, Prefix: strings.Trim(u.Path, "/"),
		Region:   firstEnv("AWS_REGION", "AWS_DEFAULT_REGION"),
		Endpoint: firstEnv("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), CAFile: firstEnv("AWS_CA_BUNDLE"),
	}
	if b.Region == "" {
		b.Region = "us-east-1"
	}
	// Servers other than AWS's own rarely have a host name per bucket.
	b.PathStyle = b.Endpoint != "" && !strings.HasSuffix(strings.TrimSuffix(b.Endpoint, "/"), ".amazonaws.com")
	return b, nil
}

func firstEnv(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

// differs is an error of a verification that found a difference.
type differs struct{ what string }

func (d differs) Error() string { return fmt.Sprintf("verification failed: %s", d.what) }

func (differs) ExitCode() int { return daemon.ExitDiffer }
