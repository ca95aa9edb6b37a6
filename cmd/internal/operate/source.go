package operate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
)

// reached is a source and the connectors that reach it.
type reached struct {
	sms.ConnectorSource
	Connectors []string `json:"connectors"` // those that are connected now
}

func sources(ctx context.Context, api *smsclient.Client) ([]reached, error) {
	list := []reached{}
	for c, err := range api.Connectors(ctx) {
		if err != nil {
			return nil, err
		}
		for _, s := range c.Sources {
			i := slices.IndexFunc(list, func(r reached) bool { return r.SourceID == s.SourceID })
			if i < 0 {
				i, list = len(list), append(list, reached{ConnectorSource: s, Connectors: []string{}})
			}
			if c.Status == "HEALTHY" {
				list[i].Connectors = append(list[i].Connectors, c.ConnectorID)
			}
		}
	}
	return list, nil
}

func sourceList() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "list", Short: "Show the sources that connectors reach", Long: "Show the sources that connectors reach.\n\n" + settingsHelp, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := out.connect(cmd.Context())
			if err != nil {
				return err
			}
			list, err := sources(cmd.Context(), api)
			if err != nil {
				return err
			}
			return out.show(cmd.OutOrStdout(), list, func(w io.Writer) error {
				var rows [][]string
				for _, s := range list {
					connected := "none is connected"
					if len(s.Connectors) > 0 {
						connected = strings.Join(s.Connectors, ", ")
					}
					rows = append(rows, []string{s.SourceID, s.Platform, s.Name, connected})
				}
				return table(w, []string{"SOURCE", "PLATFORM", "NAME", "CONNECTORS"}, rows)
			})
		},
	}
	out.flag(cmd)
	return cmd
}

func sourceCheck() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "check [SOURCE]", Short: "Look at a source: what its user may do, certificate, clock, hosts",
		Long: `Ask a connector to look at a source, given by its ID or its name, and show what
it saw. Where there is one source only, it need not be given.

` + settingsHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := out.connect(ctx)
			if err != nil {
				return err
			}
			s, err := findSource(ctx, api, args)
			if err != nil {
				return err
			}
			if err := api.CheckSource(ctx, s.SourceID); err != nil {
				return err
			}
			ask := func(ctx context.Context) (*sms.Ask, error) {
				r, err := api.GetSourceReadiness(ctx, s.SourceID)
				return r.Check, err
			}
			if err := await(ctx, cmd.ErrOrStderr(), "the check of "+s.Name, ask); err != nil {
				return err
			}
			r, err := api.GetSourceReadiness(ctx, s.SourceID)
			if err != nil {
				return err
			}
			return out.show(cmd.OutOrStdout(), r, func(w io.Writer) error {
				return showReport(w, fmt.Sprintf("%s (%s)", s.Name, s.SourceID), r.Report)
			})
		},
	}
	out.flag(cmd)
	return cmd
}

func findSource(ctx context.Context, api *smsclient.Client, given []string) (reached, error) {
	list, err := sources(ctx, api)
	if err != nil {
		return reached{}, err
	}
	var fit []reached
	for _, s := range list {
		if len(given) == 0 || s.SourceID == given[0] || s.Name == given[0] {
			fit = append(fit, s)
		}
	}
	if len(fit) == 1 {
		return fit[0], nil
	}
	return reached{}, usagef("%d sources fit; give the ID of one of those that 'skylift source list' shows", len(fit))
}
