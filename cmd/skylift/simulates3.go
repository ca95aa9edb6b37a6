package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/internal/simulator/s3"
)

func simulateS3Command() *cobra.Command {
	var dir, certificate string
	var buckets []string
	cmd := &cobra.Command{
		Use: "s3 --dir DIR", Short: "Serve an S3 bucket out of a directory", Args: cobra.NoArgs,
		Long: `Serve S3 over TLS on a free loopback port, with the objects as plain files in a
directory: an empty one, or the s3 folder that "skylift try --keep" left. Keys
and certificate are made anew each time; the AWS variables to use the server
with are printed as a shell takes them.`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if dir == "" {
				return config.Invalid.New(nil, "--dir does not say where objects are kept")
			}
			ctx := cmd.Context()
			s, err := s3.Start(ctx, s3.Config{Dir: dir, Buckets: buckets, Args: []string{asS3}})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			if err := os.WriteFile(certificate, s.CAPEM, 0o644); err != nil {
				return err
			}
			path, err := filepath.Abs(certificate)
			if err != nil {
				return err
			}
			if err := printVariables(cmd.OutOrStdout(), s, path); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-s.Done():
				return errors.New("the S3 server ended by itself")
			}
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", "", "directory of the objects; made if missing")
	flags.StringVar(&certificate, "certificate", "s3.crt", "file to write the certificate to, for clients to trust")
	flags.StringArrayVar(&buckets, "bucket", []string{"staging"}, "bucket to create unless it exists (repeatable)")
	return cmd
}

// printVariables tells a shell how the server is used.
func printVariables(w io.Writer, s *s3.Server, certificate string) error {
	_, err := fmt.Fprintf(w, `export AWS_ENDPOINT_URL='%s'
export AWS_REGION='%s'
export AWS_ACCESS_KEY_ID='%s'
export AWS_SECRET_ACCESS_KEY='%s'
export AWS_CA_BUNDLE='%s'
`, s.Endpoint, s.Region, s.AccessKey, s.SecretKey.Reveal(), certificate)
	return err
}
