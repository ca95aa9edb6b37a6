package api

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
	"skylift/controlplane/replication"
	"skylift/internal/secret"
)

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
	must(errors.Join(c.CheckServer(ctx, "s-00000003"), c.EnableChangeTracking(ctx, "s-00000003"), c.CheckSource(ctx, "vc-1")))
	ofServer, err := c.GetServerReadiness(ctx, "s-00000003")
	must(err)
	ofSource, err := c.GetSourceReadiness(ctx, "vc-1")
	must(err)
	if ofServer.ServerID != "s-00000003" || ofServer.Report.Facts[0].Value != "vmx-19" || ofServer.ChangeTracking.Hint != "h" || ofSource.Check.State != sms.AskActive {
		t.Errorf("readiness: %+v, %+v", ofServer, ofSource)
	}
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
