package controlplaned

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/controlplane/access"
)

// Command is the command line of the control plane.
func Command(version string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "skylift-controlplane",
		Short:   "Plan replication runs and make images of what connectors bring",
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&file, "config", "", "settings file (YAML); SKYLIFT_… in the environment overrides it")
	open := func(cmd *cobra.Command) (*Plane, error) {
		c, err := config.LoadControlPlane(file, cmd.Flags())
		if err != nil {
			return nil, err
		}
		return Open(cmd.Context(), c)
	}
	serve := &cobra.Command{
		Use: "serve", Short: "Run the control plane", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			p, err := open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			return p.Serve(cmd.Context())
		},
	}
	serve.Flags().String("listen", "", "host:port for the SMS API and for connectors")
	serve.Flags().String("dir", "", "directory of the database")
	cmd.AddCommand(serve, activationCode(open), accessKey(open))
	return cmd
}

type opener func(cmd *cobra.Command) (*Plane, error)

func activationCode(open opener) *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "activation-code", Short: "Make a one-time code that enrols a connector", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			p, err := open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			code, expires, err := p.Enrolment.Issue(cmd.Context(), ttl)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "It works once, until %s.\n", expires.Local().Format(time.RFC1123))
			fmt.Fprintln(cmd.OutOrStdout(), code.Reveal())
			return nil
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the code can be used")
	return cmd
}

func accessKey(open opener) *cobra.Command {
	cmd := &cobra.Command{Use: "access-key", Short: "Make, list and revoke access keys of the SMS API"}
	var role, description string
	create := &cobra.Command{
		Use: "create", Short: "Make an access key; its secret is shown once, as JSON", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			p, err := open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			key, err := p.Keys.Create(cmd.Context(), access.Role(role), description)
			if err != nil {
				return err
			}
			out := json.NewEncoder(cmd.OutOrStdout())
			out.SetIndent("", "  ")
			return out.Encode(CreatedKey{AccessKeyID: key.ID, SecretAccessKey: key.Secret.Reveal(), Role: string(key.Role)})
		},
	}
	create.Flags().StringVar(&role, "role", string(access.Operator), "viewer, operator or admin")
	create.Flags().StringVar(&description, "description", "", "what the key is for")
	list := &cobra.Command{
		Use: "list", Short: "List access keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			p, err := open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			keys, err := p.Keys.List(cmd.Context())
			if err != nil {
				return err
			}
			return printKeys(cmd.OutOrStdout(), keys)
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Revoke an access key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p, err := open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			return p.Keys.Revoke(cmd.Context(), args[0])
		},
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}

// CreatedKey is what "access-key create" prints.
type CreatedKey struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	Role            string `json:"role"`
}

func printKeys(w io.Writer, keys []access.Key) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tROLE\tCREATED\tREVOKED\tDESCRIPTION")
	for _, k := range keys {
		revoked := "-"
		if !k.Revoked.IsZero() {
			revoked = k.Revoked.Local().Format(time.DateTime)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", k.ID, k.Role, k.Created.Local().Format(time.DateTime), revoked, k.Description)
	}
	return table.Flush()
}
