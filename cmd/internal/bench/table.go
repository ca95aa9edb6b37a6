package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

const gib = 1 << 30

func (r *report) printJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// print writes the tables. Figures are medians over the rounds; ratios are
// medians of each round's own, since its two halves met the same machine.
func (r *report) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d × %s, %s, disks of %d MiB, medians of %d rounds\n", r.Processors, r.Processor, r.Go, r.DiskBytes>>20, r.Rounds)
	if len(r.Full) > 0 {
		fmt.Fprint(&b, "\nfull run: source, sink and connector share the machine\n")
		r.printFull(&b)
		fmt.Fprint(&b, "\nthe bare work's processor seconds per GiB, step by step\n")
		r.printSteps(&b)
	}
	if r.Versitygw != nil {
		fmt.Fprint(&b, "\nrandom data into versitygw, which checks and writes everything\n")
		w := table(&b, "", "MiB/s", "CPU s/GiB", "MiB peak")
		row(w, "connector", throughput(r.Versitygw.Connector), processorTime(r.Versitygw.Connector), peak(r.Versitygw.Connector))
		_ = w.Flush() // into memory
	}
	if r.Changed != nil {
		r.printChanged(&b)
	}
	if r.Peers != nil {
		r.printPeers(&b)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *report) printFull(b *strings.Builder) {
	w := table(b, "data", "stored", "MiB/s", "bare", "ratio", "CPU s/GiB", "bare", "ratio", "MiB peak", "MiB allocated")
	for _, f := range r.Full {
		bare := f.Bare["send"]
		row(w, f.Data,
			fmt.Sprintf("%.0f %%", 100*median(f.Connector, func(u usage) float64 { return float64(u.Stored) / float64(u.Read) })),
			throughput(f.Connector), throughput(bare),
			ratio(f.Connector, bare, func(u usage) float64 { return u.Wall.Seconds() }),
			processorTime(f.Connector), processorTime(bare),
			ratio(f.Connector, bare, func(u usage) float64 { return u.CPU().Seconds() }),
			peak(f.Connector),
			fmt.Sprintf("%.0f", median(f.Connector, func(u usage) float64 { return float64(u.Allocated) / (1 << 20) })),
		)
	}
	_ = w.Flush() // into memory
}

func (r *report) printSteps(b *strings.Builder) {
	names := []string{"data"}
	for _, s := range steps {
		names = append(names, s.name)
	}
	w := table(b, append(names, "all")...)
	for _, f := range r.Full {
		cells, before := []string{f.Data}, 0.0
		for _, s := range steps {
			so := median(f.Bare[s.name], perGiB)
			cells = append(cells, fmt.Sprintf("%.2f", so-before))
			before = so
		}
		row(w, append(cells, fmt.Sprintf("%.2f", before))...)
	}
	_ = w.Flush() // into memory
}

func (r *report) printChanged(b *strings.Builder) {
	c := r.Changed
	fmt.Fprintf(b, "\na disk of %d GiB of which %d blocks change between runs (%s)\n", c.Size>>30, c.ChangedBlocks, c.Mode)
	w := table(b, "seconds", "CPU s", "MiB read", "MiB sent", "MiB stored", "MiB peak")
	mib := func(of func(usage) int64) string {
		return fmt.Sprintf("%.0f", median(c.Runs, func(u usage) float64 { return float64(of(u)) / (1 << 20) }))
	}
	row(w,
		fmt.Sprintf("%.2f", median(c.Runs, func(u usage) float64 { return u.Wall.Seconds() })),
		fmt.Sprintf("%.2f", median(c.Runs, func(u usage) float64 { return u.CPU().Seconds() })),
		mib(func(u usage) int64 { return u.Read }), mib(func(u usage) int64 { return u.Sent }), mib(func(u usage) int64 { return u.Stored }),
		peak(c.Runs))
	_ = w.Flush() // into memory
}

func (r *report) printPeers(b *strings.Builder) {
	fmt.Fprintf(b, "\nthe same disk into versitygw by other means, every process from its start to its end\n(%s)\n", strings.Join(r.Peers.Programs, ", "))
	for _, c := range r.Peers.Disks {
		fmt.Fprintf(b, "\n%s, %v before each of the source's answers\n", c.Data, c.Latency)
		w := table(b, "", "seconds", "MiB/s", "CPU s", "skylift is faster by")
		var left []string
		for i, way := range c.Ways {
			if way.Missing != "" {
				left = append(left, fmt.Sprintf("%s: %s\n", way.Name, way.Missing))
				continue
			}
			seconds := median(way.Rounds, func(s spent) float64 { return s.Wall.Seconds() })
			faster := ""
			if i > 0 {
				faster = ratio(c.Ways[0].Rounds, way.Rounds, func(s spent) float64 { return s.Wall.Seconds() })
			}
			row(w, way.Name, fmt.Sprintf("%.2f", seconds), fmt.Sprintf("%.0f", float64(r.DiskBytes>>20)/seconds),
				fmt.Sprintf("%.2f", median(way.Rounds, func(s spent) float64 { return s.CPU.Seconds() })), faster)
		}
		_ = w.Flush() // into memory
		b.WriteString(strings.Join(left, ""))
	}
}

func table(b *strings.Builder, heads ...string) *tabwriter.Writer {
	w := tabwriter.NewWriter(b, 0, 0, 3, ' ', tabwriter.AlignRight)
	row(w, heads...)
	return w
}

func row(w *tabwriter.Writer, cells ...string) {
	fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
}

func perGiB(u usage) float64 { return u.CPU().Seconds() / float64(u.Read) * gib }

func processorTime(rounds []usage) string { return fmt.Sprintf("%.2f", median(rounds, perGiB)) }

func throughput(rounds []usage) string {
	return fmt.Sprintf("%.0f", median(rounds, func(u usage) float64 { return float64(u.Read) / (1 << 20) / u.Wall.Seconds() }))
}

func peak(rounds []usage) string {
	return fmt.Sprintf("%.0f", median(rounds, func(u usage) float64 { return float64(u.Peak) / (1 << 20) }))
}

// ratio is how much more the others took than the connector, in each round: the
// median, the least and the most.
func ratio[T any](connector, bare []T, of func(T) float64) string {
	ratios := make([]float64, len(connector))
	for i := range connector {
		ratios[i] = of(bare[i]) / of(connector[i])
	}
	low, high := ratios[0], ratios[0]
	for _, v := range ratios {
		low, high = min(low, v), max(high, v)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(ratios, func(v float64) float64 { return v }), low, high)
}
