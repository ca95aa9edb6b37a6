package try

import (
	"fmt"
	"time"

	"skylift/controlplane/api/sms"
)

// runLimit bounds the wait for runs of stand-ins; real ones take their time.
const runLimit = 15 * time.Minute

// follow waits until every server's n-th run has ended, shows how far they
// are, and checks each image as soon as it is there.
func (t *tour) follow(n int) error {
	limit := runLimit
	if t.VCenter != nil || t.Bucket != nil {
		limit = 7 * 24 * time.Hour
	}
	began := time.Now()
	open := map[*serverTry]bool{}
	for _, s := range t.servers {
		open[s] = true
	}
	return t.poll("the runs to end", limit, func() (bool, error) {
		for _, s := range t.servers {
			if !open[s] {
				continue
			}
			run, found, err := t.nthRun(s, n)
			if err != nil {
				return false, err
			}
			if !found {
				continue
			}
			t.show.progress(s.name, run)
			if run.State != "COMPLETED" && run.State != "FAILED" && run.State != "MISSED" && run.State != "DELETED" {
				continue
			}
			delete(open, s)
			result, err := t.check(s, run, time.Since(began))
			if err != nil {
				return false, err
			}
			s.runs = append(s.runs, result)
			t.show.ended(s.name, result)
		}
		return len(open) == 0, nil
	})
}

// nthRun returns a server's n-th run, oldest first.
func (t *tour) nthRun(s *serverTry, n int) (sms.ReplicationRun, bool, error) {
	var runs []sms.ReplicationRun
	for run, err := range t.api.ReplicationRuns(t.ctx, s.job) {
		if err != nil {
			return sms.ReplicationRun{}, false, fmt.Errorf("ask for the runs of %s: %w", s.name, err)
		}
		runs = append(runs, run)
	}
	if len(runs) <= n {
		return sms.ReplicationRun{}, false, nil
	}
	oldest, newest := runs[0].ScheduledStartTime.Time, runs[len(runs)-1].ScheduledStartTime.Time
	if oldest.After(newest) {
		return runs[len(runs)-1-n], true, nil
	}
	return runs[n], true, nil
}
