// Command skylift-controlplane is the control plane.
package main

import (
	"os"

	"skylift/cmd/internal/controlplaned"
	"skylift/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Main(controlplaned.Command(daemon.Version))) }
