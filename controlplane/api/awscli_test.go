package api

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/need"
)

// newServer serves a bench over TLS under a path prefix, by the real clock.
func newServer(t *testing.T) (*bench, *httptest.Server) {
	t.Helper()
	b := newBench(t)
	b.handler.config.Now = time.Now
	mux := http.NewServeMux()
	for _, path := range []string{"/migration", "/migration/"} { // the AWS CLI leaves out the slash, the SDK puts it there
		mux.Handle(path, http.StripPrefix("/migration", b.referee))
	}
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return b, s
}

// awsCLI runs Debian's AWS CLI, shut off from the machine's own settings.
type awsCLI struct {
	t        *testing.T
	program  string
	endpoint string
	ca       string
	env      map[string]string
}

func newAWSCLI(t *testing.T, s *httptest.Server) awsCLI {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return awsCLI{t, need.Program(t, "/usr/bin/aws"), s.URL + "/migration", ca, map[string]string{
		"PATH": "/usr/bin:/bin", "HOME": dir, "LC_ALL": "C.UTF-8", "NO_PROXY": "*", "AWS_PAGER": "",
		"AWS_CONFIG_FILE": filepath.Join(dir, "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "none"),
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "eu-central-1", "AWS_MAX_ATTEMPTS": "1",
		"AWS_ACCESS_KEY_ID": operatorKey, "AWS_SECRET_ACCESS_KEY": testSecret,
	}}
}

func (c awsCLI) with(name, value string) awsCLI {
	c.env = maps.Clone(c.env)
	c.env[name] = value
	return c
}

// run returns what the CLI printed, or its error output.
func (c awsCLI) run(args ...string) (map[string]any, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, append([]string{"--endpoint-url", c.endpoint, "--ca-bundle", c.ca, "--output", "json", "sms"}, args...)...)
	for name, value := range c.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || stderr.Len() == 0 {
			c.t.Errorf("aws sms %q: %v: %s", args, err, &stderr)
		}
		return nil, stderr.String()
	}
	var out map[string]any
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
			c.t.Errorf("aws sms %q printed %q: %v", args, &stdout, err)
		}
	}
	return out, ""
}

func TestTheAWSCLIDrivesEveryAction(t *testing.T) {
	b, s := newServer(t)
	cli := newAWSCLI(t, s)
	must := func(args ...string) map[string]any {
		t.Helper()
		out, failed := cli.run(args...)
		if failed != "" {
			t.Errorf("aws sms %q: %s", args, failed)
		}
		return out
	}
	seed := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	if list, _ := must("get-connectors")["connectorList"].([]any); len(list) != 3 {
		t.Errorf("%d connectors", len(list))
	}
	must("disassociate-connector", "--connector-id", "c-00000000")
	must("import-server-catalog")
	must("delete-server-catalog")
	servers := must("get-servers", "--page-size", "50")
	if list, _ := servers["serverList"].([]any); len(list) != 120 || b.status != catalog.Importing {
		t.Errorf("%d servers, the catalog is %v", len(list), b.status)
	}
	made := must("create-replication-job", "--server-id", "s-00000003", "--seed-replication-time", seed.Format(time.RFC3339), "--frequency", "12",
		"--license-type", "BYOL", "--number-of-recent-amis-to-keep", "5", "--encrypted", "--no-run-once", "--description", "nächtlich")
	if made["replicationJobId"] != "sms-job-00000009" || b.created.Frequency != 12*time.Hour || !b.created.Seed.Equal(seed) || !b.created.Encrypted || b.created.Description != "nächtlich" {
		t.Errorf("got %v from %+v", made, b.created)
	}
	if list, _ := must("get-replication-jobs")["replicationJobList"].([]any); len(list) != 2 {
		t.Errorf("%d jobs", len(list))
	}
	must("update-replication-job", "--replication-job-id", "sms-job-00000000", "--frequency", "1", "--next-replication-run-start-time", seed.Format(time.RFC3339))
	if b.change.Frequency == nil || *b.change.Frequency != time.Hour || b.change.NextRun == nil || !b.change.NextRun.Equal(seed) {
		t.Errorf("the change is %+v", b.change)
	}
	if run := must("start-on-demand-replication-run", "--replication-job-id", "sms-job-00000000"); run["replicationRunId"] != "sms-run-00000009" {
		t.Errorf("the run is %v", run)
	}
	runs := must("get-replication-runs", "--replication-job-id", "sms-job-00000000", "--page-size", "1")
	if list, _ := runs["replicationRunList"].([]any); len(list) != 3 {
		t.Errorf("%d runs", len(list))
	}
	must("delete-replication-job", "--replication-job-id", "sms-job-00000000")
	for _, action := range b.ofSMS() {
		if !b.referee.seen[action] {
			t.Errorf("%s was not called", action)
		}
	}
}

func TestTheAWSCLIShowsErrors(t *testing.T) {
	_, s := newServer(t)
	cli := newAWSCLI(t, s)
	for name, c := range map[string]struct {
		cli  awsCLI
		args []string
		want []string
	}{
		"of a wrong secret": {cli.with("AWS_SECRET_ACCESS_KEY", "no"), []string{"get-connectors"}, []string{"(SignatureDoesNotMatch)", "check the secret"}},
		"of a viewer who changes": {cli.with("AWS_ACCESS_KEY_ID", viewerKey).with("AWS_SESSION_TOKEN", "from/elsewhere="), []string{"import-server-catalog"},
			[]string{"(UnauthorizedOperationException)", "viewer"}},
		"of a job that is not there": {cli, []string{"delete-replication-job", "--replication-job-id", "sms-job-ffffffff"},
			[]string{"(ReplicationJobNotFoundException)", replication.JobNotFound.Title, replication.JobNotFound.Hint}},
	} {
		t.Run(name, func(t *testing.T) {
			_, failed := c.cli.run(c.args...)
			for _, part := range c.want {
				if !strings.Contains(failed, part) {
					t.Errorf("the CLI says %q, which lacks %q", failed, part)
				}
			}
		})
	}
}

func TestTheAWSCLITakesTheExtendedModel(t *testing.T) {
	b, s := newServer(t)
	models, err := filepath.Abs("model")
	if err != nil {
		t.Fatal(err)
	}
	cli := newAWSCLI(t, s).with("AWS_DATA_PATH", models)
	_, failed := cli.run("create-replication-job", "--server-id", "s-00000003", "--seed-replication-time", "2026-01-01T00:00:00Z", "--run-once",
		"--quiesce", "require", "--keep-staging", "--skip-disks", "disk-a", "disk-b")
	if failed != "" || b.created.Quiesce != "require" || !b.created.KeepStaging || !slices.Equal(b.created.SkipDisks, []string{"disk-a", "disk-b"}) {
		t.Errorf("got %+v: %s", b.created, failed)
	}
	out, failed := cli.run("get-server-readiness", "--server-id", "s-00000003")
	if of, _ := out["report"].(map[string]any); failed != "" || of["ready"] != false {
		t.Errorf("the readiness is %v: %s", out, failed)
	}
	if _, failed = cli.run("enable-change-tracking", "--server-id", "s-00000003"); failed != "" || !slices.Equal(b.asked, []string{"enable s-00000003"}) {
		t.Errorf("asked %q: %s", b.asked, failed)
	}
	out, failed = cli.run("get-replication-runs", "--replication-job-id", "sms-job-00000000", "--page-size", "2", // and its pages
		"--query", "{runs: length(replicationRunList), job: replicationJob.replicationJobId, disk: replicationRunList[0].disks[0]}")
	disk, _ := out["disk"].(map[string]any)
	if failed != "" || out["runs"] != 3.0 || out["job"] != "sms-job-00000000" || disk["storedBytes"] != 5.0 || disk["transportReason"] != "the probe passed" {
		t.Errorf("the CLI shows %v: %s", out, failed)
	}
}
