package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/internal/simulator/vcenter"
)

func simulateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "simulate", Short: "Serve a stand-in for a platform that is not at hand"}
	cmd.AddCommand(simulateVCenterCommand(), simulateS3Command())
	return cmd
}

// simulation is what the flags of "simulate vcenter" say.
type simulation struct {
	listen, certificate string
	disks               []string
	servers             int
	size                int64
	writes              time.Duration

	standalone, locked bool
	latency            time.Duration
	transfers          int
	denied             []string
	deltas             string
	lease              time.Duration
	faults             string
}

func simulateVCenterCommand() *cobra.Command {
	var o simulation
	cmd := &cobra.Command{
		Use: "vcenter", Short: "Serve a vCenter whose disks hold real bytes, with change tracking and snapshots", Args: cobra.NoArgs,
		Long: `Serve a vCenter, or a standalone ESXi host, until it is interrupted: with logins,
inventory, snapshots, changed disk areas, datastore files, exports, and service
tickets of hosts. What clients need is printed. Where vSphere is known to be slow, strict
or broken, the flags make this one so:

  skylift simulate vcenter --latency 5ms --host-transfers 4 \
      --denied VApp.Export@server-002 --fault-script faults.txt

A fault script has one rule per line, for calls in the order of their arrival:

  # the third to fifth request for files of any host fail
  GET /folder @3-5: 503
  # transfers of disks break off after a megabyte, each tenth time
  GET /folder path=*-flat.vmdk @every 10: after 1048576 drop
  # the first snapshot's task fails, and the first removal's answer is lost
  CreateSnapshot_Task @1 task: fault FileFault the disk is full
  RemoveSnapshot_Task @1: answer lost
  # everything is slow
  *: latency 200ms

A rule is a call (GET or HEAD with a place, the name of a method, or *), what
else must fit (path=, object= and host= with * for any text, task for what the
call started), when (@3, @3-5, @3-, @every 7; counted over the calls that fit),
and after the colon what happens: a status from 400 to 599, drop, after <bytes>
drop, answer lost, latency <duration>, or fault <name> [message].`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := o.config()
			if err != nil {
				return err
			}
			s, err := vcenter.Start(c)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			if err := os.WriteFile(o.certificate, s.CertificatePEM, 0o644); err != nil {
				return err
			}
			path, err := filepath.Abs(o.certificate)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "URL:          %s\nuser:         %s\npassword:     %s\ncertificate:  %s\n", s.URL, s.User, s.Password, path)
			for _, h := range s.Hosts() {
				fmt.Fprintf(cmd.OutOrStdout(), "host:         %s at %s, SHA-1 %s\n", h.Name(), h.Address(), h.Thumbprint())
			}
			return serveGuests(cmd, s, c.Servers, o.writes)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8989", "host:port to listen on")
	flags.StringVar(&o.certificate, "certificate", "vcenter.crt", "file to write the certificate to, for clients to trust")
	flags.IntVar(&o.servers, "servers", 3, "how many servers with generated disks")
	flags.Int64Var(&o.size, "size", 1024, "size of a generated disk in MiB")
	flags.StringArrayVar(&o.disks, "disk", nil, "raw image for the disk of one more server; it is not modified (repeatable)")
	flags.DurationVar(&o.writes, "write-every", 0, "let a guest write 64 KiB somewhere each time this has passed; 0 for never")
	flags.BoolVar(&o.standalone, "standalone", false, "be an ESXi host without vCenter")
	flags.BoolVar(&o.locked, "locked", false, "refuse reads of running servers' disk files, as ESXi does where file system locks forbid them")
	flags.DurationVar(&o.latency, "latency", 0, "what passes before the first byte of every answer")
	flags.IntVar(&o.transfers, "host-transfers", 0, "how many files a host serves at a time, answering 503 to more; 0 for any number")
	flags.StringArrayVar(&o.denied, "denied", nil, "privilege that the user lacks, everywhere or with @name on one object and below (repeatable)")
	flags.StringVar(&o.deltas, "deltas", vcenter.DeltasSESparse, "format of snapshots' delta files: sesparse or vmfsSparse")
	flags.DurationVar(&o.lease, "lease-timeout", 5*time.Minute, "how long an export's lease lives without a report of progress")
	flags.StringVar(&o.faults, "fault-script", "", "file with the faults to inject")
	return cmd
}

// config is what the flags make of a simulator.
func (o simulation) config() (vcenter.Config, error) {
	c := vcenter.Config{
		Address: o.listen, Standalone: o.standalone, HostTransfers: o.transfers, Denied: o.denied,
		Latency:      vcenter.Latency{File: o.latency, Call: o.latency},
		Datastores:   []vcenter.Datastore{{Name: "datastore1", Deltas: o.deltas}},
		LeaseTimeout: o.lease,
	}
	switch {
	case o.latency < 0 || o.transfers < 0:
		return c, config.Invalid.New(nil, "--latency and --host-transfers cannot be negative")
	case o.lease <= 0:
		return c, config.Invalid.New(nil, "--lease-timeout must be more than nothing")
	case o.deltas != vcenter.DeltasSESparse && o.deltas != vcenter.DeltasVMFSSparse:
		return c, config.Invalid.New(nil, "--deltas is sesparse or vmfsSparse, not %q", o.deltas)
	}
	if o.faults != "" {
		text, err := os.ReadFile(o.faults)
		if err != nil {
			return c, config.Invalid.New(err, "read the fault script")
		}
		if c.Fault, err = vcenter.ParseScript(string(text)); err != nil {
			return c, config.Invalid.New(err, "%s", o.faults)
		}
	}
	for i := range o.servers {
		content := vcenter.Generated(vcenter.Pattern{Seed: uint64(i + 1), Random: 10, Text: 20}, o.size<<20)
		c.Servers = append(c.Servers, o.server(fmt.Sprintf("server-%03d", i+1), content))
	}
	for i, path := range o.disks {
		c.Servers = append(c.Servers, o.server(fmt.Sprintf("disk-%03d", i+1), vcenter.File(path)))
	}
	return c, nil
}

func (o simulation) server(name string, content vcenter.Content) vcenter.ServerSpec {
	return vcenter.ServerSpec{
		Name: name, ChangeTracking: true, Disks: []vcenter.DiskSpec{{Content: content}},
		Quirks: vcenter.Quirks{FlatLocked: o.locked},
	}
}

// serveGuests lets guests write until the command is ended.
func serveGuests(cmd *cobra.Command, s *vcenter.Server, specs []vcenter.ServerSpec, every time.Duration) error {
	ctx := cmd.Context()
	if every <= 0 || len(specs) == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	source := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, 64<<10)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		disk := s.VM(specs[n%len(specs)].Name).Disk(0)
		_, _ = source.Read(piece)
		if room := disk.Size() - int64(len(piece)); room > 0 {
			if _, err := disk.WriteAt(piece, int64(source.Uint64()%uint64(room))/512*512); err != nil {
				return err
			}
		}
	}
}
