package operate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"skylift/controlplane/api/sms"
)

// look is how often an answer is asked for.
const look = time.Second

// await waits until an ask is over, and says what it waits for. The control
// plane ends every ask, so this ends as well.
func await(ctx context.Context, w io.Writer, what string, ask func(context.Context) (*sms.Ask, error)) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	told := ""
	for n := 0; ; n++ {
		a, err := ask(ctx)
		switch {
		case err != nil:
			return err
		case a == nil:
			return fmt.Errorf("%s: the control plane has forgotten that it was asked for; the server may have been removed from its source", what)
		case a.State == sms.AskCompleted:
			return nil
		case a.State == sms.AskFailed:
			return failed(what, a)
		case n > 0 && a.StatusMessage != told && a.StatusMessage != "": // most answers come at once
			told = a.StatusMessage
			fmt.Fprintf(w, "%s: %s\n", what, plain(told))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is still asked for: %w", what, ctx.Err())
		}
	}
}

func failed(what string, a *sms.Ask) error {
	text := plain(a.StatusMessage)
	if a.Hint != "" {
		text += ". " + plain(a.Hint)
	}
	if a.Code != "" {
		text += " [" + a.Code + "]"
	}
	return fmt.Errorf("%s failed: %s", what, text)
}

// showReport tells first what is wrong, then what was looked at.
func showReport(w io.Writer, of string, r *sms.ReadinessReport) error {
	if r == nil {
		_, err := fmt.Fprintf(w, "%s was not checked yet\n", plain(of))
		return err
	}
	if err := pairs(w, "of", of, "ready", yes(r.Ready), "checked", at(r.CheckedOn), "by connector", r.ConnectorID); err != nil {
		return err
	}
	for _, f := range r.Findings {
		mark := "note"
		if f.Blocks {
			mark = "BLOCKS"
		}
		fmt.Fprintf(w, "\n%s  %s  [%s]\n  %s\n", mark, plain(f.Subject), plain(f.Code), plain(f.Message))
		if f.Hint != "" {
			fmt.Fprintf(w, "  %s\n", plain(f.Hint))
		}
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, f := range bySubject(r.Facts) {
		rows = append(rows, []string{f.Subject, f.Name, f.Value})
	}
	return table(w, []string{"OF", "WHAT", "IS"}, rows)
}

// bySubject puts together what is told of one thing, in the order in which the
// things come up.
func bySubject(facts []sms.ReadinessFact) []sms.ReadinessFact {
	place := map[string]int{"": 0}
	for _, f := range facts {
		if _, ok := place[f.Subject]; !ok {
			place[f.Subject] = len(place)
		}
	}
	return slices.SortedStableFunc(slices.Values(facts), func(a, b sms.ReadinessFact) int { return place[a.Subject] - place[b.Subject] })
}
