package operate

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"skylift/config"
	"skylift/controlplane/access"
	"skylift/controlplane/api"
	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/internal/problem"
	"skylift/internal/secret"
)

// plane is a control plane with one connector, in this process.
type plane struct {
	t         *testing.T
	catalog   *catalog.Service
	runs      *replication.Service
	connector string

	mu     sync.Mutex
	asked  []catalog.Question
	answer func(catalog.Ask) (*catalog.Readiness, *catalog.Failure) // nil: none
	hold   chan struct{}                                            // answers come when it is closed; nil: at once
	late   sync.WaitGroup
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t}
	ctx, dir := t.Context(), t.TempDir()
	db, err := store.Open(ctx, filepath.Join(dir, "db"))
	p.must(err)
	t.Cleanup(func() { p.must(db.Close()) })
	sealing, err := access.LoadSealingKey(filepath.Join(dir, "sealing.key"))
	p.must(err)
	keys := access.NewKeys(db, sealing)
	p.catalog = catalog.NewService(db, p.work)
	p.runs = replication.NewService(db, p.catalog, replication.Options{})
	log := logrus.New()
	log.SetOutput(io.Discard)
	h, err := api.New(api.Config{Keys: keys, Catalog: p.catalog, Replication: p.runs,
		PageKey: secret.New(strings.Repeat("k", 32)), Log: log, Now: time.Now})
	p.must(err)
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	key, err := keys.Create(ctx, access.Operator, "test")
	p.must(err)
	ca := filepath.Join(dir, "ca.pem")
	p.must(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_SMS": s.URL, "AWS_ENDPOINT_URL": "https://elsewhere.invalid", "AWS_CA_BUNDLE": ca, "AWS_REGION": "eu-central-1",
		"AWS_ACCESS_KEY_ID": key.ID, "AWS_SECRET_ACCESS_KEY": key.Secret.Reveal(), "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": filepath.Join(dir, "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "none"), "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	enrolment := access.NewEnrolment(db)
	code, _, err := enrolment.Issue(ctx, time.Hour)
	p.must(err)
	p.connector, err = enrolment.Enrol(ctx, code, make([]byte, 32), "appliance", "1")
	p.must(err)
	p.must(p.catalog.Announce(ctx, p.connector, catalog.Announcement{Sources: []catalog.Source{{ID: "vc-1", Platform: "vsphere", Name: "vcenter.example"}}}))
	p.must(p.catalog.Report(ctx, p.connector, catalog.Report{Source: "vc-1", Sync: "1", Last: true, Servers: []catalog.Server{
		{VM: "uuid-1", ManagerID: "vm-1", Name: "web-01", Path: "/DC0/vm/web-01", PoweredOn: true, Disks: []catalog.Disk{{ID: "d1", Name: "Hard disk 1", Size: 40 << 30}}},
		{VM: "uuid-2", ManagerID: "vm-2", Name: "twin", Path: "/DC0/vm/a/twin", Disks: []catalog.Disk{{ID: "d2", Name: "Hard disk 1", Size: 1 << 30, Skip: "it is independent"}}},
		{VM: "uuid-3", ManagerID: "vm-3", Name: "twin", Path: "/DC0/vm/b/twin\x1b[2J", Disks: []catalog.Disk{{ID: "d3", Name: "Hard disk 1", Size: 1 << 30}}},
	}}))
	return p
}

func (p *plane) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// work is what the connector does when it is woken: it answers.
func (p *plane) work() {
	p.mu.Lock()
	answer, hold := p.answer, p.hold
	p.mu.Unlock()
	if answer == nil {
		return
	}
	a, ok, err := p.catalog.TakeAsk(p.t.Context(), p.connector)
	if err != nil || !ok {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, a.Question)
	p.mu.Unlock()
	tell := func() {
		report, failure := answer(a)
		if err := p.catalog.Answer(p.t.Context(), p.connector, a.ID, report, failure); err != nil {
			p.t.Error(err)
		}
	}
	if hold == nil {
		tell()
		return
	}
	p.late.Go(func() { <-hold; tell() })
}

func (p *plane) questions() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.asked {
		list = append(list, string(q))
	}
	return list
}

// skylift runs a command line, with what a person types.
func skylift(t *testing.T, typed string, args ...string) (out, errs string, err error) {
	t.Helper()
	root := &cobra.Command{Use: "skylift", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands()...)
	var o, e bytes.Buffer
	root.SetIn(strings.NewReader(typed))
	root.SetOut(&o)
	root.SetErr(&e)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	if strings.ContainsAny(o.String()+e.String(), "\x1b\x00") {
		t.Errorf("control characters reach the terminal: %q", o.String()+e.String())
	}
	return o.String(), e.String(), err
}

// want fails the test unless out is what is wanted, line by line without
// trailing spaces; "..." in a line stands for anything.
func want(t *testing.T, out, wanted string) {
	t.Helper()
	got, lines := strings.Split(strings.TrimSpace(out), "\n"), strings.Split(strings.TrimSpace(wanted), "\n")
	if len(got) != len(lines) {
		t.Fatalf("it shows\n%s\nwanted\n%s", out, wanted)
	}
	for i, line := range lines {
		at, fits := 0, true
		for _, part := range strings.Split(line, "...") {
			j := strings.Index(got[i][at:], part)
			fits = fits && j >= 0
			at += max(j, 0) + len(part)
			at = min(at, len(got[i]))
		}
		if !fits {
			t.Errorf("line %d is\n%q, wanted\n%q", i+1, got[i], line)
		}
	}
}

func ready(catalog.Ask) (*catalog.Readiness, *catalog.Failure) {
	return &catalog.Readiness{
		Facts: []catalog.Fact{{Subject: "Hard disk 1", Name: "mode", Value: "persistent"}, {Name: "hardware version", Value: "vmx-19"}},
		Findings: []catalog.Finding{
			{Code: "vsphere-disk-shared", Blocks: true, Subject: "Hard disk 1", What: "the disk is shared", Hint: "Unshare it"},
			{Code: "vsphere-tracking-off", Subject: "web-01", What: "tracking is off\x07", Hint: "Enable it"},
		},
	}, nil
}

func TestServersAreListed(t *testing.T) {
	p := newPlane(t)
	out, _, err := skylift(t, "", "server", "list")
	p.must(err)
	for _, line := range []string{"SERVER...NAME    SOURCE           POWER  DISKS  SIZE", "web-01  vcenter.example  on     1      40.0 GiB", "twin    vcenter.example  off    1      1.0 GiB  ", "Hard disk 1: it is independent"} {
		for _, part := range strings.Split(line, "...") {
			if !strings.Contains(out, part) {
				t.Errorf("%q is not in\n%s", part, out)
			}
		}
	}
	out, _, err = skylift(t, "", "server", "list", "--output", "json")
	p.must(err)
	var servers []sms.Server
	p.must(json.Unmarshal([]byte(out), &servers))
	if len(servers) != 3 {
		t.Errorf("as JSON: %s", out)
	}
}

func TestACheckShowsWhatStandsInTheWay(t *testing.T) {
	p := newPlane(t)
	p.answer = ready
	id := catalog.ServerID("vc-1", "uuid-1")
	const shown = `
of:            web-01 (...) on vcenter.example
ready:         no
checked:       20... UTC
by connector:  c-...

BLOCKS  Hard disk 1  [vsphere-disk-shared]
  the disk is shared
  Unshare it

note  web-01  [vsphere-tracking-off]
  tracking is off 
  Enable it

OF           WHAT              IS
             hardware version  vmx-19
Hard disk 1  mode              persistent
`
	for _, args := range [][]string{{"server", "check", "web-01"}, {"server", "check", id}, {"server", "check", "web-01", "--last"}} {
		out, _, err := skylift(t, "", args...)
		p.must(err)
		want(t, out, shown)
	}
	if got := p.questions(); len(got) != 2 {
		t.Errorf("asked: %q", got)
	}
	out, _, err := skylift(t, "", "server", "check", "web-01", "--output", "json")
	p.must(err)
	var r sms.GetServerReadinessResponse
	p.must(json.Unmarshal([]byte(out), &r))
	if r.ServerID != id || r.Report == nil || r.Report.Ready || r.Check.State != sms.AskCompleted {
		t.Errorf("as JSON: %s", out)
	}
	out, _, err = skylift(t, "", "source", "check")
	p.must(err)
	if !strings.Contains(out, "vcenter.example (vc-1)") || !strings.Contains(out, "vmx-19") {
		t.Errorf("of the source it shows %s", out)
	}
	out, _, err = skylift(t, "", "source", "list")
	p.must(err)
	want(t, out, "SOURCE  PLATFORM  NAME             CONNECTORS\nvc-1    vsphere   vcenter.example  c-...")
}

func TestACheckThatFailsSaysWhy(t *testing.T) {
	p := newPlane(t)
	p.answer = func(catalog.Ask) (*catalog.Readiness, *catalog.Failure) {
		return nil, &catalog.Failure{Code: "vsphere-unreachable", Message: "vSphere does not answer", Hint: "Look at it"}
	}
	_, _, err := skylift(t, "", "server", "check", "web-01")
	if err == nil || !strings.Contains(err.Error(), "the check of web-01 failed: vSphere does not answer. Look at it [vsphere-unreachable]") {
		t.Errorf("it says %v", err)
	}
}

func TestWhatAWaitIsForIsTold(t *testing.T) {
	p := newPlane(t)
	p.answer, p.hold = ready, make(chan struct{})
	root := &cobra.Command{Use: "skylift", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands()...)
	told, tell := io.Pipe()
	root.SetOut(io.Discard)
	root.SetErr(tell)
	root.SetArgs([]string{"server", "check", "web-01"})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(t.Context()) }()
	line := make([]byte, 200)
	n, err := told.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "the check of web-01: connector "+p.connector+" is at work on it") {
		t.Errorf("it tells %q, %v", line[:n], err)
	}
	close(p.hold)
	p.late.Wait()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEnablingTrackingIsConfirmed(t *testing.T) {
	p := newPlane(t)
	p.answer = func(catalog.Ask) (*catalog.Readiness, *catalog.Failure) { return &catalog.Readiness{}, nil }
	for _, typed := range []string{"", "n\n", "\n", "what?\n"} {
		_, errs, err := skylift(t, typed, "server", "enable-tracking", "web-01")
		if !errors.As(err, new(usage)) || !strings.Contains(errs, "stuns its guest for as long as a snapshot") || !strings.Contains(errs, "web-01") {
			t.Errorf("after %q: %v, %q", typed, err, errs)
		}
	}
	if got := p.questions(); len(got) != 0 {
		t.Fatalf("asked without confirmation: %q", got)
	}
	out, _, err := skylift(t, "Yes\n", "server", "enable-tracking", "web-01")
	p.must(err)
	want(t, out, "changes of web-01 are tracked")
	_, errs, err := skylift(t, "", "server", "enable-tracking", "web-01", "--yes")
	p.must(err)
	if strings.Contains(errs, "Continue") {
		t.Errorf("it asks all the same: %q", errs)
	}
	if got := strings.Join(p.questions(), " "); got != "enable-tracking check enable-tracking check" {
		t.Errorf("asked: %q", got)
	}
}

func TestCommandLinesThatCannotBeUnderstoodAreRefused(t *testing.T) {
	p := newPlane(t)
	for name, c := range map[string]struct {
		args  []string
		tells string
	}{
		"a server that is not there": {[]string{"server", "check", "db-01"}, `"db-01"`},
		"a name of two servers":      {[]string{"server", "check", "twin"}, catalog.ServerID("vc-1", "uuid-2") + " (/DC0/vm/a/twin)"},
		"a source that is not there": {[]string{"source", "check", "vc-2"}, "0 sources fit"},
		"another form of output":     {[]string{"server", "list", "--output", "xml"}, `"xml"`},
		"a run that is not there":    {[]string{"run", "show", "sms-run-00000000"}, "sms-run-00000000"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := skylift(t, "", c.args...)
			if !errors.As(err, new(usage)) || !strings.Contains(err.Error(), c.tells) {
				t.Errorf("it says %v", err)
			}
		})
	}
	for _, name := range []string{"AWS_ENDPOINT_URL_SMS", "AWS_REGION", "AWS_ACCESS_KEY_ID"} {
		t.Run("without "+name, func(t *testing.T) {
			t.Setenv(name, "")
			if name == "AWS_ENDPOINT_URL_SMS" {
				t.Setenv("AWS_ENDPOINT_URL", "")
			}
			_, _, err := skylift(t, "", "server", "list")
			if !problem.Has(err, config.Invalid) {
				t.Errorf("it says %v", err)
			}
		})
	}
	_, _, err := skylift(t, "", "run", "list", "sms-job-00000000")
	if err == nil || !strings.Contains(err.Error(), "there is no such replication job") {
		t.Errorf("it says %v", err)
	}
	p.must(p.catalog.Touch(t.Context(), p.connector))
}

func TestARunShowsHowItGetsOnAndWhy(t *testing.T) {
	p := newPlane(t)
	ctx := t.Context()
	job, err := p.runs.Create(ctx, replication.NewJob{Server: catalog.ServerID("vc-1", "uuid-1"), RunOnce: true})
	p.must(err)
	_, _, err = p.runs.ClaimStep(ctx, "r-1")
	p.must(err)
	run, err := p.runs.StartOnDemand(ctx, job.ID, "")
	p.must(err)
	out, _, err := skylift(t, "", "run", "show", run.ID)
	p.must(err)
	want(t, out, `
run:        sms-run-...
state:      PENDING
stage:      Preparing
waits for:  the connectors that reach source vcenter.example have not taken it yet; they may be busy with other runs
started:    20... UTC
`)
	a, ok, err := p.runs.Claim(ctx, p.connector, 8)
	p.must(err)
	if !ok {
		t.Fatal("the run is not handed out")
	}
	p.must(p.runs.RecordSnapshot(ctx, a.Lease, replication.Snapshot{Server: "uuid-1", Run: run.ID, ID: "snapshot-1", Consistency: "crash", Note: "VMware Tools is not running in the guest"}))
	_, err = p.runs.Renew(ctx, a.Lease, replication.Progress{Uploading: true, WaitingFor: "host esx-1 has 8 of 8 disks", Disks: []replication.DiskProgress{{Done: 5 << 30, RunDisk: replication.RunDisk{
		ID: "d1", Name: "Hard disk 1", Kind: "comparing", Reason: "change tracking was reset", Transport: "datastore", TransportWhy: "a trial range could be read",
		Size: 40 << 30, Planned: 10 << 30, Read: 5 << 30, Changed: 2 << 30, Sent: 1 << 30, Stored: 300 << 20,
	}}}})
	p.must(err)
	for _, args := range [][]string{{"run", "show", run.ID}, {"run", "show", run.ID, "--job", job.ID}} {
		out, _, err = skylift(t, "", args...)
		p.must(err)
		want(t, out, `
run:          sms-run-...
state:        ACTIVE
stage:        Uploading 50%
waits for:    host esx-1 has 8 of 8 disks
consistency:  crash, because VMware Tools is not running in the guest
started:      20... UTC

DISK         MODE       TRANSPORT  SIZE      PLANNED   READ     CHANGED  SENT     STORED
Hard disk 1  comparing  datastore  40.0 GiB  10.0 GiB  5.0 GiB  2.0 GiB  1.0 GiB  300 MiB

Hard disk 1, comparing:
  change tracking was reset

Hard disk 1, by datastore:
  a trial range could be read
`)
	}
	out, _, err = skylift(t, "", "run", "list", job.ID)
	p.must(err)
	want(t, out, `
RUN...STATE   STAGE...MODE       CONSISTENCY  READ     STORED   STARTED
sms-run-...ACTIVE  Uploading 50%  comparing  crash        5.0 GiB  300 MiB  20... UTC
`)
	out, _, err = skylift(t, "", "run", "show", run.ID, "--output", "json")
	p.must(err)
	var r sms.ReplicationRun
	p.must(json.Unmarshal([]byte(out), &r))
	if r.WaitingFor != "host esx-1 has 8 of 8 disks" || r.ConsistencyReason == "" || r.Disks[0].TransportReason == "" {
		t.Errorf("as JSON: %s", out)
	}
}

func TestSizesHaveThreeDigits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 KiB", 1 << 20: "1.0 MiB", 300 << 20: "300 MiB", 1023 << 30: "1.0 TiB", 1 << 62: "4.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
