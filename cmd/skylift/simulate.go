package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"skylift/internal/simulator/vcenter"
)

func simulateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "simulate", Short: "Serve a stand-in for a platform that is not at hand"}
	cmd.AddCommand(simulateVCenterCommand(), simulateS3Command())
	return cmd
}

func simulateVCenterCommand() *cobra.Command {
	var o struct {
		listen, certificate string
		disks               []string
		servers             int
		size                int64
		writes              time.Duration
	}
	cmd := &cobra.Command{
		Use: "vcenter", Short: "Serve a vCenter whose disks hold real bytes, with change tracking and snapshots", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			var specs []vcenter.ServerSpec
			for i := range o.servers {
				specs = append(specs, vcenter.ServerSpec{Name: fmt.Sprintf("server-%03d", i+1), ChangeTracking: true, Disks: []vcenter.DiskSpec{
					{Content: vcenter.Generated(vcenter.Pattern{Seed: uint64(i + 1), Random: 10, Text: 20}, o.size<<20)},
				}})
			}
			for i, path := range o.disks {
				specs = append(specs, vcenter.ServerSpec{Name: fmt.Sprintf("disk-%03d", i+1), ChangeTracking: true, Disks: []vcenter.DiskSpec{{Content: vcenter.File(path)}}})
			}
			s, err := vcenter.Start(vcenter.Config{Address: o.listen, Servers: specs})
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
			return serveGuests(cmd, s, specs, o.writes)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8989", "host:port to listen on")
	flags.StringVar(&o.certificate, "certificate", "vcenter.crt", "file to write the certificate to, for clients to trust")
	flags.IntVar(&o.servers, "servers", 3, "how many servers with generated disks")
	flags.Int64Var(&o.size, "size", 1024, "size of a generated disk in MiB")
	flags.StringArrayVar(&o.disks, "disk", nil, "raw image for the disk of one more server; it is not modified (repeatable)")
	flags.DurationVar(&o.writes, "write-every", 0, "let a guest write 64 KiB somewhere each time this has passed; 0 for never")
	return cmd
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
