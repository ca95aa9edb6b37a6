package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/controlplane/image"
	"skylift/staging"
)

func restoreCommand() *cobra.Command {
	var s stagedRun
	var disk, out, images string
	cmd := &cobra.Command{
		Use:   "restore --job JOB --run RUN --out FILE",
		Short: "Make a raw disk image of a run",
		Long: `Write one disk of a run to a raw sparse file, as the source held it at the run's
snapshot. The run's chain must still be staged (a job's keepStaging), or begin
with an image that is kept (--images). Every block is checked.

` + stagingHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := s.open(cmd.Context())
			if err != nil {
				return err
			}
			return s.restore(cmd.Context(), cmd.OutOrStdout(), store, disk, out, images)
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&disk, "disk", "", "identity or key of the disk; may be left out for a server with one disk")
	cmd.Flags().StringVar(&out, "out", "", "file to write; it must not exist yet")
	cmd.Flags().StringVar(&images, "images", "", "folder of local images that the chain may begin with")
	return cmd
}

func (s *stagedRun) restore(ctx context.Context, w io.Writer, store staging.Store, disk, out, images string) error {
	if out == "" {
		return config.Invalid.New(nil, "--out does not say which file to write")
	}
	places, err := s.places(ctx, store)
	if err != nil {
		return err
	}
	place, err := choose(places, disk)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	r, err := image.Restore(ctx, store, place, path, image.Restoring{Images: images})
	if err != nil {
		return err
	}
	from := strings.Join(r.Runs, ", ")
	if r.Image != "" {
		from = r.Image + ", " + from
	}
	fmt.Fprintf(w, "%s: %d bytes from %s; digest %s\n", path, r.Size, from, r.Digest)
	return nil
}

// choose finds the disk by its identity or its key.
func choose(places []staging.Place, disk string) (staging.Place, error) {
	var keys []string
	for _, p := range places {
		if p.Disk == disk || p.Disk == staging.DiskKey(disk) || disk == "" && len(places) == 1 {
			return p, nil
		}
		keys = append(keys, p.Disk)
	}
	return staging.Place{}, config.Invalid.New(nil, "--disk must name one of the run's disks: %s", strings.Join(keys, ", "))
}
