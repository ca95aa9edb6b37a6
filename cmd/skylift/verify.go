package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/controlplane/image"
	"skylift/staging"
)

func verifyCommand() *cobra.Command {
	var s stagedRun
	cmd := &cobra.Command{
		Use:   "verify [IMAGE-FOLDER]",
		Short: "Hold an image or a staged run against its block map",
		Long: `With the folder of a local image: read every disk of it and compare each block
with the block map that the connector took at the source.
With --job and --run: read all that is staged of the run and check that an image
can be built of it, hash by hash.
Exit code 3 says that something differs.

` + stagingHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := s.open(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return verifyImage(cmd.Context(), cmd.OutOrStdout(), store, args[0])
			}
			return s.verify(cmd.Context(), cmd.OutOrStdout(), store)
		},
	}
	s.flags(cmd)
	return cmd
}

// verifyImage holds a local image's disks against their block maps.
func verifyImage(ctx context.Context, out io.Writer, store staging.Store, folder string) error {
	p, err := os.ReadFile(filepath.Join(folder, "image.json"))
	if err != nil {
		return config.Invalid.New(err, "%s is no folder of an image", folder)
	}
	var record image.Record
	if err := json.Unmarshal(p, &record); err != nil {
		return config.Invalid.New(err, "read image.json in %s", folder)
	}
	var bad []error
	for _, d := range record.Disks {
		place := staging.Place{Job: record.Job, Run: record.Run, Disk: d.Key}
		manifest, err := staging.ReadSealed(ctx, store, place, d.Manifest)
		if err != nil {
			return err
		}
		found, err := verifyFile(ctx, store, manifest, filepath.Join(folder, d.File))
		if err != nil {
			return err
		}
		if err := found.Err(); err != nil {
			fmt.Fprintf(out, "%s: DIFFERS: %v\n", d.File, err)
			bad = append(bad, differs{d.File})
			continue
		}
		fmt.Fprintf(out, "%s: all %d blocks are what run %s read at the source\n", d.File, found.Blocks, record.Run)
	}
	return errors.Join(bad...)
}

func verifyFile(ctx context.Context, store staging.Store, m *staging.Manifest, path string) (r image.Result, err error) {
	f, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	return image.VerifyImage(ctx, f, info.Size(), m, store, nil)
}

// verify checks that the staged run is whole.
func (s *stagedRun) verify(ctx context.Context, out io.Writer, store staging.Store) error {
	places, err := s.places(ctx, store)
	if err != nil {
		return err
	}
	var bad []error
	for _, place := range places {
		found, err := image.VerifyStaged(ctx, store, place)
		if err != nil {
			return err
		}
		name := found.Run.Disk.Name
		if found.OK() {
			fmt.Fprintf(out, "%s (%s): %d segments with %d blocks are whole; digest %s\n", name, place.Disk, found.Segments, found.Blocks, found.Run.Digest)
			continue
		}
		for _, fault := range found.Faults {
			fmt.Fprintf(out, "%s (%s): %v\n", name, place.Disk, fault)
		}
		if found.More > 0 {
			fmt.Fprintf(out, "%s (%s): and %d faults more\n", name, place.Disk, found.More)
		}
		bad = append(bad, differs{"disk " + name + " of run " + s.run + " cannot be built from staging"})
	}
	return errors.Join(bad...)
}
