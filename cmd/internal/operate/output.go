package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"skylift/controlplane/api/smsclient"

	"skylift/controlplane/api/sms"
)

// output is how a command shows what it has found.
type output struct{ form string }

func (o *output) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.form, "output", "table", "table, for people, or json, as the API answers")
}

// connect makes a client of the API, unless the form is one that cannot be
// shown: then nothing is asked for.
func (o *output) connect(ctx context.Context) (*smsclient.Client, error) {
	if o.form != "table" && o.form != "json" {
		return nil, usagef("--output is %q; it can be table or json", o.form)
	}
	return connect(ctx)
}

// all collects what the API lists; never nil, which JSON would call null.
func all[T any](list iter.Seq2[T, error]) ([]T, error) {
	found := []T{}
	for v, err := range list {
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	return found, nil
}

// show prints v as JSON, or has people shown it.
func (o *output) show(w io.Writer, v any, people func(io.Writer) error) error {
	if o.form == "table" {
		return people(w)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows under heads; a column whose cells are all empty is left out.
func table(w io.Writer, heads []string, rows [][]string) error {
	var used []int
	for i := range heads {
		for _, row := range rows {
			if row[i] != "" {
				used = append(used, i)
				break
			}
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{heads}, rows...) {
		var cells []string
		for _, i := range used {
			cells = append(cells, plain(row[i]))
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	return t.Flush()
}

// pairs prints names and values; those without a value are left out.
func pairs(w io.Writer, of ...string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(of); i += 2 {
		if of[i+1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", of[i], plain(of[i+1]))
		}
	}
	return t.Flush()
}

// plain keeps what sources and guests have named from moving the cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// size is n bytes for people, with three digits.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

func at(t sms.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateTime) + " UTC"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
