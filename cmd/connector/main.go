// Command skylift-connector is the daemon in the data centre.
package main

import (
	"os"

	"skylift/cmd/internal/connectord"
	"skylift/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Main(connectord.Command(daemon.Version))) }
