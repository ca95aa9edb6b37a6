package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"skylift/cmd/internal/daemon"
	"skylift/internal/simulator/s3"
)

func main() { os.Exit(daemon.Main(command())) }

// The hidden subcommands: what this binary is executed again as.
const (
	asSource    = "run-source"
	asSink      = "run-sink"
	asConnector = "run-connector"
	asBare      = "run-bare"
	asS3        = "run-s3"
)

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure what moving disks costs", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.IntVar(&o.sizeMiB, "size", 1024, "size of the full runs' disks in MiB")
	flags.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	flags.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flags.StringVar(&o.profile, "profile", "", "a directory to write the connector's CPU and allocation profiles of the last round to")
	flags.StringSliceVar(&o.only, "only", nil, "measure only these: random, text, zero, versitygw, incremental, peers")
	flags.StringSliceVar(&o.disks, "disks", []string{"server", "random"}, "what peers are measured with, also text and zero")
	flags.DurationSliceVar(&o.latencies, "latency", []time.Duration{0, 5 * time.Millisecond}, "what passes before each of the source's answers, where peers are measured")
	for name, role := range map[string]func(context.Context) error{
		asSource:    serveSource,
		asSink:      serveSink,
		asConnector: answerOnce(move),
		asBare:      answerOnce(bare),
		asS3:        func(ctx context.Context) error { return s3.Serve(ctx, os.Stdin, os.Stdout) },
	} {
		cmd.AddCommand(&cobra.Command{Use: name, Hidden: true, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return role(cmd.Context()) }})
	}
	return cmd
}

type options struct {
	sizeMiB, rounds int
	json            bool
	profile         string
	only, disks     []string
	latencies       []time.Duration
}

func run(ctx context.Context, o options) error {
	if o.sizeMiB < 64 || o.rounds < 1 {
		return fmt.Errorf("disks of %d MiB and %d rounds measure nothing: use 64 and 1 at least", o.sizeMiB, o.rounds)
	}
	for _, name := range o.disks {
		if _, ok := contents(0)[name]; !ok {
			return fmt.Errorf("there is no disk %q", name)
		}
	}
	if o.profile != "" {
		dir, err := filepath.Abs(o.profile)
		if err != nil {
			return err
		}
		o.profile = dir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	r, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if o.json {
		return r.printJSON(os.Stdout)
	}
	return r.print(os.Stdout)
}
