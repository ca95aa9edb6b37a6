package connectord

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"skylift/config"
	"skylift/internal/bandwidth"
)

// settingsFile is a settings file that a person edits.
type settingsFile struct {
	t    *testing.T
	path string
}

const rest = `
control-plane: {url: "https://skylift.example.com"}
vsphere: [{url: "https://vcenter.example.com", user: u, password-file: /p}]
`

func (f settingsFile) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(text+rest), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f settingsFile) load() (config.Connector, error) { return config.LoadConnector(f.path, nil) }

func TestTheBandwidthLimitFollowsTheSettingsFile(t *testing.T) {
	f := settingsFile{t, filepath.Join(t.TempDir(), "connector.yaml")}
	f.write("bandwidth: {limit: 1M}")
	synctest.Test(t, func(t *testing.T) {
		c, err := f.load()
		if err != nil {
			t.Fatal(err)
		}
		log, said := logtest.NewNullLogger()
		l, err := newLimit(c, log)
		if err != nil {
			t.Fatal(err)
		}
		stop := l.follow(t.Context(), f.path, f.load)
		defer stop()
		after := func(text string, want bandwidth.Limit, level logrus.Level, message string) {
			t.Helper()
			said.Reset()
			f.write(text)
			time.Sleep(2 * time.Second)
			if got := l.limiter.Limit(); got != want {
				t.Errorf("after %q the limit is %s, want %s", text, got, want)
			}
			var got []string
			for _, e := range said.AllEntries() {
				got = append(got, e.Level.String()+": "+e.Message)
			}
			if want := []string{level.String() + ": " + message}; message != "" && !slices.Equal(got, want) || message == "" && len(got) > 0 {
				t.Errorf("after %q it says %q, want %q", text, got, message)
			}
		}
		time.Sleep(10*time.Second + lookEvery/2) // from here on never at a moment at which it looks
		if n := len(said.AllEntries()); n != 0 {
			t.Errorf("%d lines although nothing has changed", n)
		}
		const changed, unusable, restart = "the bandwidth limit was changed", "the changed settings cannot be used; the old ones stay in force",
			"settings were changed that are used from the next start on"
		after("bandwidth: {limit: 20M}", 20<<20, logrus.InfoLevel, changed)
		after("bandwidth: {limit: 20X }", 20<<20, logrus.ErrorLevel, unusable)
		after("bandwidth: {limit: 30M  }", 30<<20, logrus.InfoLevel, changed)
		after("slots: 9\nbandwidth: {limit: 30M}", 30<<20, logrus.WarnLevel, restart)
		after("slots: 9\nbandwidth: {limit: shut}", bandwidth.Shut, logrus.InfoLevel, changed)
		after("", bandwidth.Unlimited, logrus.InfoLevel, changed)
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		after("bandwidth: {limit: 2M}", 2<<20, logrus.InfoLevel, changed)
	})
}

func TestAFileThatIsReplacedIsReadAlthoughItLooksTheSame(t *testing.T) {
	dir := t.TempDir()
	f := settingsFile{t, filepath.Join(dir, "connector.yaml")}
	f.write("bandwidth: {limit: 1M}")
	before, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	other := settingsFile{t, filepath.Join(dir, "new.yaml")}
	other.write("bandwidth: {limit: 2M}")
	if err := errors.Join(os.Chtimes(other.path, before.ModTime(), before.ModTime()), os.Rename(other.path, f.path)); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(f.path)
	if err != nil || same(before, after) {
		t.Errorf("the two files are the same: %v", err)
	}
}
