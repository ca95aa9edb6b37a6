package connectord

import (
	"github.com/spf13/cobra"

	"skylift/config"
)

// Command is the command line of the connector.
func Command(version string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "skylift-connector",
		Short: "Find the servers of a data centre and bring their disks to AWS",
		Long: "The connector dials out to the control plane, finds servers in vSphere, takes snapshots and streams\n" +
			"changed blocks to staging. Settings come from a file, and from SKYLIFT_… in the environment.",
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (config.Connector, error) { return config.LoadConnector(file, cmd.Flags()) }
			c, err := load()
			if err != nil {
				return err
			}
			return Run(cmd.Context(), c, version, file, load)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "settings file (YAML)")
	cmd.Flags().String("dir", "", "directory of the connector's identity")
	cmd.Flags().String("control-plane.url", "", "URL of the control plane")
	return cmd
}
