// Command skylift is the operator's tool: it shows the product at work, serves
// a simulated vCenter, verifies images and staged runs, restores disks, and asks
// a control plane about servers and runs.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"skylift/cmd/internal/connectord"
	"skylift/cmd/internal/controlplaned"
	"skylift/cmd/internal/daemon"
	"skylift/cmd/internal/operate"
	"skylift/internal/simulator/s3"
)

func main() { os.Exit(daemon.Main(command())) }

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "skylift", Short: "Migrate servers to AWS without an agent in the guest",
		Version: daemon.Version, SilenceUsage: true, SilenceErrors: true,
	}
	cmd.AddCommand(operate.Commands()...)
	cmd.AddCommand(tryCommand(), simulateCommand(), verifyCommand(), restoreCommand())
	// "try" executes this binary again as the daemons, so that what it shows
	// is the daemons as they are.
	cmd.AddCommand(
		hidden(connectord.Command(daemon.Version), asConnector),
		hidden(controlplaned.Command(daemon.Version), asControlPlane),
		&cobra.Command{Use: asS3, Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return s3.Serve(cmd.Context(), os.Stdin, os.Stdout)
		}},
	)
	return cmd
}

// The hidden subcommands.
const (
	asConnector    = "run-connector"
	asControlPlane = "run-controlplane"
	asS3           = "run-s3"
)

func hidden(cmd *cobra.Command, name string) *cobra.Command {
	cmd.Use, cmd.Hidden = name, true
	return cmd
}
