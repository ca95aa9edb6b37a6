package connectord

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	// A machine without zone files knows the timetable's zone all the same.
	_ "time/tzdata"

	"github.com/sirupsen/logrus"

	"skylift/config"
	"skylift/internal/bandwidth"
)

// lookEvery is how often the settings file is looked at. A changed one is read
// when it is the same twice, so that nothing half written is read.
const lookEvery = 500 * time.Millisecond

// limit is the bandwidth limit in force, which follows the settings.
type limit struct {
	limiter *bandwidth.Limiter
	log     logrus.FieldLogger
	started config.Connector // the settings that the daemon was started with
	inForce config.Bandwidth
	told    []string // settings that were said to need a restart
}

func newLimit(c config.Connector, log logrus.FieldLogger) (*limit, error) {
	table, err := c.Bandwidth.Timetable()
	if err != nil {
		return nil, err
	}
	return &limit{limiter: bandwidth.New(table, nil), log: log, started: c, inForce: c.Bandwidth}, nil
}

// follow loads the settings anew whenever file has changed, until ctx ends or
// stop is called. What cannot be used changes nothing.
func (l *limit) follow(ctx context.Context, file string, load func() (config.Connector, error)) (stop func()) {
	if file == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		var last, used os.FileInfo
		for {
			// A file that is away for a moment is being replaced.
			if now, err := os.Stat(file); err == nil {
				if same(last, now) && !same(used, now) {
					used = now
					l.reload(load)
				}
				last = now
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func same(a, b os.FileInfo) bool {
	return a != nil && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && os.SameFile(a, b)
}

func (l *limit) reload(load func() (config.Connector, error)) {
	c, err := load()
	if err != nil {
		l.log.WithError(err).Error("the changed settings cannot be used; the old ones stay in force")
		return
	}
	l.apply(c)
}

// apply puts the bandwidth settings of c, which are valid, into force, and says
// which others have to wait for a restart.
func (l *limit) apply(c config.Connector) {
	if c.Bandwidth != l.inForce {
		table, err := c.Bandwidth.Timetable()
		if err != nil {
			l.log.WithError(err).Error("the changed bandwidth limit cannot be used; the old one stays in force")
			return
		}
		l.limiter.Set(table)
		l.inForce = c.Bandwidth
		l.log.WithFields(logrus.Fields{"limit": c.Bandwidth.Limit, "now": l.limiter.Limit().String()}).Info("the bandwidth limit was changed")
	}
	if waiting := c.Restart(l.started); !slices.Equal(waiting, l.told) {
		l.told = waiting
		if len(waiting) > 0 {
			l.log.WithField("settings", strings.Join(waiting, ", ")).Warn("settings were changed that are used from the next start on")
		}
	}
}
