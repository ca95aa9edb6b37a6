package try

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"skylift/controlplane/api/sms"
)

// Summary is what a try found.
type Summary struct {
	OK       bool            `json:"ok"`
	Seconds  float64         `json:"seconds"`
	Servers  []ServerSummary `json:"servers"`
	Problems []string        `json:"problems,omitempty"`
}

// ServerSummary is one server with its runs, oldest first.
type ServerSummary struct {
	Name string      `json:"name"`
	Job  string      `json:"job"`
	Runs []RunResult `json:"runs"`
}

func (t *tour) summary(took time.Duration, leaks []string) Summary {
	s := Summary{OK: len(leaks) == 0, Seconds: took.Seconds(), Problems: leaks}
	for _, server := range t.servers {
		s.Servers = append(s.Servers, ServerSummary{server.name, server.job, server.runs})
		for _, r := range server.runs {
			if r.Verified == "" {
				s.OK = false
				s.Problems = append(s.Problems, fmt.Sprintf("%s: %s", server.name, r.Problem))
			}
		}
	}
	return s
}

// show tells a person what happens: with bars in a terminal, in lines
// elsewhere, not at all with JSON.
type show struct {
	out    io.Writer
	quiet  bool
	json   bool
	bars   *mpb.Progress // nil where there is no terminal
	byName map[string]*bar
	last   map[string]string // the last line of each server
}

// bar is one server's run on the screen.
type bar struct {
	*mpb.Bar
	run string
	now atomic.Pointer[sms.ReplicationRun] // read by the goroutine that draws
}

func newShow(o Options) *show {
	s := &show{out: o.Out, quiet: o.JSON, json: o.JSON, byName: map[string]*bar{}, last: map[string]string{}}
	if f, ok := o.Out.(*os.File); ok && !o.JSON && term.IsTerminal(int(f.Fd())) {
		s.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(40), mpb.WithRefreshRate(200*time.Millisecond))
	}
	return s
}

func (s *show) close() {
	if s.bars != nil {
		s.bars.Shutdown()
	}
}

func (s *show) stage(what string) { s.line("\n== " + what) }

func (s *show) note(what string) { s.line("   " + what) }

func (s *show) line(text string) {
	switch {
	case s.quiet:
	case s.bars != nil:
		fmt.Fprintln(s.bars, text)
	default:
		fmt.Fprintln(s.out, text)
	}
}

// progress shows how far a server's run is.
func (s *show) progress(server string, run sms.ReplicationRun) {
	if s.quiet {
		return
	}
	if s.bars != nil {
		s.bar(server, run)
		return
	}
	text := fmt.Sprintf("   %-10s %s %s", server, run.StageDetails.Stage, run.StageDetails.StageProgress)
	if run.State != "ACTIVE" {
		text = strings.TrimRight(fmt.Sprintf("   %-10s %s %s", server, run.State, run.StatusMessage), " ")
	}
	if s.last[server] != text {
		s.last[server] = text
		s.line(text)
	}
}

func (s *show) bar(server string, run sms.ReplicationRun) {
	b := s.byName[server]
	if b == nil || b.run != run.ReplicationRunID {
		b = &bar{run: run.ReplicationRunID}
		b.now.Store(&run)
		b.Bar = s.bars.AddBar(100,
			mpb.PrependDecorators(decor.Name(server, decor.WC{W: 10, C: decor.DindentRight}), decor.Any(func(decor.Statistics) string {
				return fmt.Sprintf("%-11s", b.now.Load().StageDetails.Stage)
			})),
			mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Any(func(decor.Statistics) string {
				sent, planned := int64(0), int64(0)
				for _, d := range b.now.Load().Disks {
					sent, planned = sent+d.SentBytes, planned+d.PlannedBytes
				}
				return fmt.Sprintf("  %s of %s sent", size(sent), size(planned))
			})))
		s.byName[server] = b
	}
	b.now.Store(&run)
	percent := int64(0)
	_, _ = fmt.Sscanf(run.StageDetails.StageProgress, "%d", &percent)
	if run.State == "COMPLETED" {
		percent = 100
	}
	b.SetCurrent(percent)
}

func (s *show) ended(server string, r RunResult) {
	if s.bars != nil {
		if b := s.byName[server]; b != nil {
			b.Abort(false)
			b.Wait()
		}
		if r.Verified != "" {
			return
		}
	}
	if r.Verified == "" {
		s.line(fmt.Sprintf("   %-10s FAILED: %s", server, r.Problem))
		return
	}
	s.line(fmt.Sprintf("   %-10s %s run: %s read, %s sent, %s stored; verified against the %s", server, r.Kind,
		size(r.BytesRead), size(r.BytesSent), size(r.BytesStored), r.Verified))
}

// summary ends the show.
func (s *show) summary(sum Summary, o Options) error {
	if s.json {
		out := json.NewEncoder(s.out)
		out.SetIndent("", "  ")
		return out.Encode(sum)
	}
	if s.bars != nil {
		s.bars.Wait()
		s.bars = nil
	}
	fmt.Fprintln(s.out)
	table := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "SERVER\tRUN\tPROVISIONED\tREAD\tSENT\tSTORED\tGUEST CHANGED\tSECONDS\tTRANSPORT\tCONSISTENCY\tVERIFIED")
	for _, server := range sum.Servers {
		for _, r := range server.Runs {
			verified, written := "no", "-"
			if r.Verified != "" {
				verified = "against the " + r.Verified
			}
			if r.BytesWritten > 0 {
				written = size(r.BytesWritten)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%s\t%s\t%s\n", server.Name, r.Kind, size(r.BytesProvisioned),
				size(r.BytesRead), size(r.BytesSent), size(r.BytesStored), written, r.Seconds, r.Transport, r.Consistency, verified)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	for _, p := range sum.Problems {
		fmt.Fprintln(s.out, "PROBLEM:", p)
	}
	switch {
	case sum.OK && o.VCenter != nil:
		fmt.Fprintf(s.out, "Every image is what its block map says. %.0f s.\n", sum.Seconds)
	case sum.OK:
		fmt.Fprintf(s.out, "Every image is what its source held at the snapshot, and no snapshot was left behind. %.0f s.\n", sum.Seconds)
	}
	if o.Keep != "" {
		fmt.Fprintf(s.out, "Images are in %s/images.\n", o.Keep)
	}
	if o.Keep != "" && o.Bucket == nil {
		fmt.Fprintf(s.out, "Staging is in %s/s3; serve it with: skylift simulate s3 --dir %s/s3\n", o.Keep, o.Keep)
	}
	return nil
}

// size formats bytes in binary units.
func size(n int64) string {
	switch {
	case n >= 1<<40:
		return fmt.Sprintf("%.1f TiB", float64(n)/(1<<40))
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
