package operate

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
)

func runList() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "list JOB", Short: "Show the runs of a replication job, the latest first", Args: cobra.ExactArgs(1),
		Long: "Show the runs of a replication job, the latest first.\n\n" + settingsHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := out.connect(cmd.Context())
			if err != nil {
				return err
			}
			runs, err := all(api.ReplicationRuns(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return out.show(cmd.OutOrStdout(), runs, func(w io.Writer) error { return showRuns(w, runs) })
		},
	}
	out.flag(cmd)
	return cmd
}

func showRuns(w io.Writer, runs []sms.ReplicationRun) error {
	var rows [][]string
	for _, r := range runs {
		var read, stored int64
		for _, d := range r.Disks {
			read, stored = read+d.ReadBytes, stored+d.StoredBytes
		}
		rows = append(rows, []string{
			r.ReplicationRunID, r.State, progress(r), strings.Join(modes(r), ", "), r.Consistency,
			size(read), size(stored), at(r.ScheduledStartTime), r.AmiID,
		})
	}
	return table(w, []string{"RUN", "STATE", "STAGE", "MODE", "CONSISTENCY", "READ", "STORED", "STARTED", "IMAGE"}, rows)
}

// progress is the stage with its percent, while it says something.
func progress(r sms.ReplicationRun) string {
	if r.State != "ACTIVE" || r.StageDetails.StageProgress == "" {
		return r.StageDetails.Stage
	}
	return r.StageDetails.Stage + " " + r.StageDetails.StageProgress
}

// modes are those of the run's disks, each once.
func modes(r sms.ReplicationRun) (list []string) {
	seen := map[string]bool{}
	for _, d := range r.Disks {
		if d.Kind != "" && !seen[d.Kind] {
			seen[d.Kind] = true
			list = append(list, d.Kind)
		}
	}
	return list
}

func runShow() *cobra.Command {
	var out output
	var job string
	cmd := &cobra.Command{
		Use: "show RUN", Short: "Show a run: per disk its mode, transport and progress, and what it waits for", Args: cobra.ExactArgs(1),
		Long: `Show a run: per disk its mode, transport and progress, and why so; what the run
waits for, and the consistency that its snapshot reached.

` + settingsHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := out.connect(cmd.Context())
			if err != nil {
				return err
			}
			r, err := findRun(cmd.Context(), api, job, args[0])
			if err != nil {
				return err
			}
			return out.show(cmd.OutOrStdout(), r, func(w io.Writer) error { return showRun(w, r) })
		},
	}
	out.flag(cmd)
	cmd.Flags().StringVar(&job, "job", "", "job of the run; without it, all jobs are searched")
	return cmd
}

// findRun searches the job's runs, or those of all jobs.
func findRun(ctx context.Context, api *smsclient.Client, job, id string) (sms.ReplicationRun, error) {
	jobs := []string{job}
	if job == "" {
		jobs = nil
		for j, err := range api.ReplicationJobs(ctx) {
			if err != nil {
				return sms.ReplicationRun{}, err
			}
			jobs = append(jobs, j.ReplicationJobID)
		}
	}
	for _, job := range jobs {
		for r, err := range api.ReplicationRuns(ctx, job) {
			if err != nil {
				return sms.ReplicationRun{}, err
			}
			if r.ReplicationRunID == id {
				return r, nil
			}
		}
	}
	return sms.ReplicationRun{}, usagef("there is no run %q; 'skylift run list JOB' shows those of a job", id)
}

func showRun(w io.Writer, r sms.ReplicationRun) error {
	consistency := r.Consistency
	if r.ConsistencyReason != "" {
		consistency += ", because " + r.ConsistencyReason
	}
	message := r.StatusMessage
	if strings.HasSuffix(message, r.WaitingFor) && r.WaitingFor != "" || message == r.ConsistencyReason {
		message = ""
	}
	if err := pairs(w,
		"run", r.ReplicationRunID, "state", r.State, "stage", progress(r), "waits for", r.WaitingFor, "message", message,
		"consistency", consistency, "started", at(r.ScheduledStartTime), "completed", at(r.CompletedTime), "image", r.AmiID,
	); err != nil {
		return err
	}
	if len(r.Disks) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, d := range r.Disks {
		rows = append(rows, []string{
			diskName(d), d.Kind, d.Transport, size(d.SizeBytes), size(d.PlannedBytes), size(d.ReadBytes),
			size(d.ChangedBytes), size(d.SentBytes), size(d.StoredBytes),
		})
	}
	if err := table(w, []string{"DISK", "MODE", "TRANSPORT", "SIZE", "PLANNED", "READ", "CHANGED", "SENT", "STORED"}, rows); err != nil {
		return err
	}
	for _, d := range r.Disks {
		for _, why := range []struct{ what, reason string }{{d.Kind, d.Reason}, {"by " + d.Transport, d.TransportReason}} {
			if why.reason != "" {
				fmt.Fprintf(w, "\n%s, %s:\n  %s\n", plain(diskName(d)), plain(why.what), plain(why.reason))
			}
		}
	}
	return nil
}

func diskName(d sms.RunDisk) string {
	if d.Name != "" {
		return d.Name
	}
	return d.DiskID
}
