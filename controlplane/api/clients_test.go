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
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/awserr"
	"github.com/aws/aws-sdk-go/aws/credentials"
	"github.com/aws/aws-sdk-go/aws/session"
	awssms "github.com/aws/aws-sdk-go/service/sms"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
	"skylift/controlplane/replication"
	"skylift/internal/need"
	"skylift/internal/secret"
)

// newServer serves a bench over TLS under a path prefix, by the real clock.
func newServer(t *testing.T) (*bench, *httptest.Server) {
	t.Helper()
	b := newBench(t)
	b.handler.Now = time.Now
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
	if list, _ := servers["serverList"].([]any); len(list) != 120 || servers["serverCatalogStatus"] != "IMPORTING" {
		t.Errorf("%d servers, the catalog is %v", len(list), servers["serverCatalogStatus"])
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
	for action := range b.handler.actions {
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
	out, failed := cli.run("get-replication-runs", "--replication-job-id", "sms-job-00000000", "--query", "replicationRunList[0].disks[0]")
	if failed != "" || out["storedBytes"] != 5.0 || out["transportReason"] != "the probe passed" {
		t.Errorf("the CLI shows %v: %s", out, failed)
	}
}

func TestTheGoSDKOfAWSDrivesEveryAction(t *testing.T) {
	b, s := newServer(t)
	config := aws.NewConfig().WithEndpoint(s.URL + "/migration").WithRegion("eu-central-1").WithHTTPClient(s.Client()).WithMaxRetries(0).
		WithCredentials(credentials.NewStaticCredentials(operatorKey, testSecret, ""))
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(name, filepath.Join(t.TempDir(), "none"))
	}
	t.Setenv("AWS_CA_BUNDLE", "")
	sess, err := session.NewSession(config)
	if err != nil {
		t.Fatal(err)
	}
	c := awssms.New(sess)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	job := aws.String("sms-job-00000000")
	_, err = c.GetConnectors(&awssms.GetConnectorsInput{MaxResults: aws.Int64(2)})
	must(err)
	_, err = c.DisassociateConnector(&awssms.DisassociateConnectorInput{ConnectorId: aws.String("c-00000000")})
	must(err)
	_, err = c.ImportServerCatalog(&awssms.ImportServerCatalogInput{})
	must(err)
	_, err = c.DeleteServerCatalog(&awssms.DeleteServerCatalogInput{})
	must(err)
	n := 0
	must(c.GetServersPages(&awssms.GetServersInput{}, func(p *awssms.GetServersOutput, _ bool) bool {
		n += len(p.ServerList)
		return true
	}))
	if n != 120 {
		t.Errorf("%d servers", n)
	}
	seed := time.Now().Truncate(time.Millisecond)
	_, err = c.CreateReplicationJob(&awssms.CreateReplicationJobInput{ServerId: aws.String("s-00000003"), SeedReplicationTime: &seed, RunOnce: aws.Bool(true)})
	must(err)
	if d := b.created.Seed.Sub(seed); !b.created.RunOnce || d.Abs() > time.Second { // this SDK sends whole seconds
		t.Errorf("made %+v", b.created)
	}
	_, err = c.GetReplicationJobs(&awssms.GetReplicationJobsInput{ReplicationJobId: job})
	must(err)
	_, err = c.UpdateReplicationJob(&awssms.UpdateReplicationJobInput{ReplicationJobId: job, Description: aws.String("x")})
	must(err)
	_, err = c.StartOnDemandReplicationRun(&awssms.StartOnDemandReplicationRunInput{ReplicationJobId: job})
	must(err)
	runs, err := c.GetReplicationRuns(&awssms.GetReplicationRunsInput{ReplicationJobId: job})
	must(err)
	if len(runs.ReplicationRunList) != 3 || !aws.TimeValue(runs.ReplicationRunList[0].ScheduledStartTime).Equal(start.Add(123*time.Millisecond)) {
		t.Errorf("the runs are %v", runs)
	}
	_, err = c.DeleteReplicationJob(&awssms.DeleteReplicationJobInput{ReplicationJobId: job})
	must(err)
	_, err = c.DeleteReplicationJob(&awssms.DeleteReplicationJobInput{ReplicationJobId: aws.String("sms-job-ffffffff")})
	if e := (*awssms.ReplicationJobNotFoundException)(nil); !errors.As(err, &e) || e.RequestID() == "" {
		t.Errorf("a job that is not there gives %v", err)
	}
	b.err = errors.New("down")
	_, err = c.GetConnectors(&awssms.GetConnectorsInput{})
	if e := (awserr.RequestFailure)(nil); !errors.As(err, &e) || e.Code() != sms.InternalFailure || e.StatusCode() != 500 {
		t.Errorf("a failure inside gives %v", err)
	}
	for action := range b.handler.actions {
		if !b.referee.seen[action] {
			t.Errorf("%s was not called", action)
		}
	}
}

func TestOurClientDrivesEveryAction(t *testing.T) {
	b, s := newServer(t)
	config := smsclient.Config{Endpoint: s.URL + "/migration/", Region: "eu-west-3", AccessKeyID: operatorKey, Secret: secret.New(testSecret), HTTP: s.Client()}
	c, err := smsclient.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	seed := time.Now().Truncate(time.Millisecond).UTC()
	connectors, servers, jobs, runs := 0, 0, 0, 0
	var first sms.ReplicationRun
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for _, err := range c.Connectors(ctx) {
		must(err)
		connectors++
	}
	for _, err := range c.Servers(ctx) {
		must(err)
		servers++
	}
	for _, err := range c.ReplicationJobs(ctx) {
		must(err)
		jobs++
	}
	for r, err := range c.ReplicationRuns(ctx, "sms-job-00000000") {
		must(err)
		if runs++; runs == 1 {
			first = r
		}
	}
	if connectors != 3 || servers != 120 || jobs != 2 || runs != 3 {
		t.Errorf("%d connectors, %d servers, %d jobs, %d runs", connectors, servers, jobs, runs)
	}
	if want := run(b.runs[0]); !reflect.DeepEqual(first, want) {
		t.Errorf("got  %+v\nwant %+v", first, want)
	}
	must(c.DisassociateConnector(ctx, "c-00000000"))
	must(c.ImportServerCatalog(ctx))
	must(c.DeleteServerCatalog(ctx))
	id, err := c.CreateReplicationJob(ctx, sms.CreateReplicationJobRequest{ServerID: "s-00000003", SeedReplicationTime: sms.At(seed), RunOnce: new(true),
		Quiesce: "never", KeepStaging: new(true), SkipDisks: []string{"disk-a"}})
	must(err)
	want := replication.NewJob{Server: "s-00000003", Seed: seed, RunOnce: true, Quiesce: "never", KeepStaging: true, SkipDisks: []string{"disk-a"}}
	if id != "sms-job-00000009" || !reflect.DeepEqual(b.created, want) {
		t.Errorf("got %q from %+v", id, b.created)
	}
	must(c.UpdateReplicationJob(ctx, sms.UpdateReplicationJobRequest{ReplicationJobID: "sms-job-00000000", KeepStaging: new(false)}))
	runID, err := c.StartOnDemandReplicationRun(ctx, "sms-job-00000000", "by hand")
	must(err)
	if runID != "sms-run-00000009" {
		t.Errorf("the run is %q", runID)
	}
	must(c.DeleteReplicationJob(ctx, "sms-job-00000000"))
	err = c.DeleteReplicationJob(ctx, "sms-job-ffffffff")
	if e := (*smsclient.Error)(nil); !errors.Is(err, &smsclient.Error{Code: sms.ReplicationJobNotFound}) || !errors.As(err, &e) || e.RequestID == "" || e.Temporary() {
		t.Errorf("a job that is not there gives %v", err)
	}
	b.err = context.DeadlineExceeded
	_, err = c.GetConnectors(ctx, sms.GetConnectorsRequest{})
	if e := (*smsclient.Error)(nil); !errors.As(err, &e) || !e.Temporary() || e.Code != sms.ServiceUnavailable {
		t.Errorf("a service that does not answer gives %v", err)
	}
	for action := range b.handler.actions {
		if !b.referee.seen[action] {
			t.Errorf("%s was not called", action)
		}
	}
	if b.regions[0] != "eu-west-3" {
		t.Errorf("the Region is %q", b.regions[0])
	}
}
