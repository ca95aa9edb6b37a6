package operate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
)

func serverList() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "list", Short: "Show the servers of the catalog", Long: "Show the servers of the catalog.\n\n" + settingsHelp, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := out.connect(cmd.Context())
			if err != nil {
				return err
			}
			servers, err := all(api.Servers(cmd.Context()))
			if err != nil {
				return err
			}
			return out.show(cmd.OutOrStdout(), servers, func(w io.Writer) error { return showServers(w, servers) })
		},
	}
	out.flag(cmd)
	return cmd
}

func showServers(w io.Writer, servers []sms.Server) error {
	var rows [][]string
	for _, s := range servers {
		var all int64
		note := ""
		for _, d := range s.Disks {
			all += d.SizeBytes
			if d.SkipReason != "" {
				note = d.Name + ": " + d.SkipReason
			}
		}
		power := "off"
		switch {
		case s.Gone:
			power = "gone"
		case s.PoweredOn:
			power = "on"
		}
		rows = append(rows, []string{
			s.ServerID, s.VMServer.VMName, s.VMServer.VMManagerName, power, fmt.Sprint(len(s.Disks)), size(all), s.ReplicationJobID, note,
		})
	}
	return table(w, []string{"SERVER", "NAME", "SOURCE", "POWER", "DISKS", "SIZE", "JOB", "NOTE"}, rows)
}

func serverCheck() *cobra.Command {
	var out output
	var last bool
	cmd := &cobra.Command{
		Use: "check SERVER", Short: "Look at a server: what stands in the way of replicating it",
		Long: `Ask a connector to look at a server, given by its ID or its name, and show what
it saw and what stands in the way. Nothing on the server is changed.

` + settingsHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := out.connect(ctx)
			if err != nil {
				return err
			}
			server, err := findServer(ctx, api, args[0])
			if err != nil {
				return err
			}
			if !last {
				if err := api.CheckServer(ctx, server.ServerID); err != nil {
					return err
				}
				ask := func(ctx context.Context) (*sms.Ask, error) {
					r, err := api.GetServerReadiness(ctx, server.ServerID)
					return r.Check, err
				}
				if err := await(ctx, cmd.ErrOrStderr(), "the check of "+server.VMServer.VMName, ask); err != nil {
					return err
				}
			}
			r, err := api.GetServerReadiness(ctx, server.ServerID)
			if err != nil {
				return err
			}
			return out.show(cmd.OutOrStdout(), r, func(w io.Writer) error {
				return showReport(w, fmt.Sprintf("%s (%s) on %s", server.VMServer.VMName, server.ServerID, r.Source.Name), r.Report)
			})
		},
	}
	out.flag(cmd)
	cmd.Flags().BoolVar(&last, "last", false, "show the last report, and ask for no new one")
	return cmd
}

// stunned says what enabling change tracking does.
const stunned = `This changes the configuration of %s on its source and, if it runs,
stuns its guest for as long as a snapshot is made and removed: seconds as a
rule, longer on a busy server.
`

func serverEnableTracking() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use: "enable-tracking SERVER", Short: "Have a server's changes tracked, so that later runs read only those",
		Long: `Switch change tracking on for all disks of a server, given by its ID or its
name. ` + fmt.Sprintf(stunned, "the server") + `It is asked for confirmation.

` + settingsHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := connect(ctx)
			if err != nil {
				return err
			}
			server, err := findServer(ctx, api, args[0])
			if err != nil {
				return err
			}
			name := server.VMServer.VMName
			if !sure {
				fmt.Fprintf(cmd.ErrOrStderr(), stunned+"Continue? [y/N] ", name)
				if err := confirm(cmd.InOrStdin()); err != nil {
					return err
				}
			}
			if err := api.EnableChangeTracking(ctx, server.ServerID); err != nil {
				return err
			}
			ask := func(ctx context.Context) (*sms.Ask, error) {
				r, err := api.GetServerReadiness(ctx, server.ServerID)
				return r.ChangeTracking, err
			}
			if err := await(ctx, cmd.ErrOrStderr(), "change tracking of "+name, ask); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "changes of %s are tracked\n", name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&sure, "yes", false, "do not ask for confirmation")
	return cmd
}

// confirm reads a line that says yes.
func confirm(in io.Reader) error {
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return usagef("nothing was done: it was not confirmed; answer yes, or give --yes")
}

// findServer finds a server by its ID or its name.
func findServer(ctx context.Context, api *smsclient.Client, given string) (sms.Server, error) {
	var named []sms.Server
	for s, err := range api.Servers(ctx) {
		if err != nil {
			return sms.Server{}, err
		}
		if s.ServerID == given {
			return s, nil
		}
		if s.VMServer.VMName == given {
			named = append(named, s)
		}
	}
	switch len(named) {
	case 0:
		return sms.Server{}, usagef("no server of the catalog has the ID or name %q; see 'skylift server list'", given)
	case 1:
		return named[0], nil
	}
	var ids []string
	for _, s := range named {
		ids = append(ids, fmt.Sprintf("%s (%s)", s.ServerID, s.VMServer.VMPath))
	}
	return sms.Server{}, usagef("several servers are called %q; give the ID of one: %s", given, strings.Join(ids, ", "))
}
