// Package daemon runs a command line the way all of ours run: it ends on the
// usual signals, says an error as a person wants to read it, and exits with a
// code that tells what kind of failure it was.
package daemon

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"skylift/internal/problem"
)

// Exit codes; README.md documents them.
const (
	ExitFailed = 1 // the work failed; the message says why
	ExitUsage  = 2 // the command line or the settings cannot be used
	ExitDiffer = 3 // a verification found a difference
)

// Coder is an error that knows its exit code.
type Coder interface{ ExitCode() int }

// Version is set when a release is linked.
var Version = "dev"

// Main runs cmd and returns the exit code. Interrupt and SIGTERM end its
// context; a second one ends the process at once.
func Main(cmd *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	refuseUnknown(cmd)
	understood := false
	cmd.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "error:", problem.Describe(err))
	if !understood {
		return ExitUsage
	}
	return exitCode(err)
}

// refuseUnknown has commands that only group others refuse what they don't
// know; by itself the library shows their help and calls it a success.
func refuseUnknown(cmd *cobra.Command) {
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range cmd.Commands() {
		refuseUnknown(sub)
	}
}
