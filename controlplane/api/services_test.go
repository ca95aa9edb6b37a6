package api

import (
	"crypto/ed25519"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"skylift/controlplane/access"
	"skylift/controlplane/api/sms"
	"skylift/controlplane/api/smsclient"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/controlplane/store"
	"skylift/internal/secret"
)

// TestTheRealServicesAnswer takes the API down to the database and back: what
// the services give fits the model, and their problems become its errors.
func TestTheRealServicesAnswer(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := store.Open(ctx, filepath.Join(dir, "db"))
	must(err)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	sealing, err := access.LoadSealingKey(filepath.Join(dir, "sealing.key"))
	must(err)
	keys, servers := access.NewKeys(db, sealing), catalog.NewService(db, nil)
	log, _ := logtest.NewNullLogger()
	h, err := New(Config{Keys: keys, Catalog: servers, Replication: replication.NewService(db, servers, replication.Options{}),
		PageKey: secret.New(strings.Repeat("k", 32)), Log: log, Now: time.Now})
	must(err)
	s := httptest.NewTLSServer(newReferee(t, h))
	t.Cleanup(s.Close)
	key, err := keys.Create(ctx, access.Operator, "test")
	must(err)
	c, err := smsclient.New(smsclient.Config{Endpoint: s.URL, Region: "eu-west-1", AccessKeyID: key.ID, Secret: key.Secret, HTTP: s.Client()})
	must(err)
	refused := func(err error, code string) {
		t.Helper()
		if !errors.Is(err, &smsclient.Error{Code: code}) {
			t.Errorf("got %v, want %s", err, code)
		}
	}

	refused(c.ImportServerCatalog(ctx), sms.NoConnectorsAvailable)
	connector := enrol(t, db, servers)
	must(c.ImportServerCatalog(ctx))
	must(servers.Report(ctx, connector, catalog.Report{Source: "vc-1", Sync: "1", Last: true, Servers: []catalog.Server{
		{VM: "uuid-1", ManagerID: "vm-1", Name: "web-1", PoweredOn: true, Disks: []catalog.Disk{{ID: "a", Name: "Hard disk 1", Size: 1 << 30}}},
		{VM: "uuid-2", ManagerID: "vm-2", Name: "web-2", Disks: []catalog.Disk{{ID: "b", Name: "Hard disk 1", Size: 1 << 30, Skip: "a physical RDM"}}},
	}}))
	found := map[string]sms.Server{}
	one := int32(1)
	for in := (sms.GetServersRequest{Page: sms.Page{MaxResults: &one}}); ; {
		out, err := c.GetServers(ctx, in)
		must(err)
		for _, s := range out.ServerList {
			found[s.VMServer.VMName] = s
		}
		if in.NextToken = out.NextToken; in.NextToken == "" {
			break
		}
	}
	if len(found) != 2 || found["web-1"].VMServer.VMServerAddress != (sms.VMServerAddress{VMManagerID: "vc-1", VMID: "vm-1"}) {
		t.Fatalf("the servers are %+v", found)
	}
	byAddress, err := c.GetServers(ctx, sms.GetServersRequest{VMServerAddressList: []sms.VMServerAddress{found["web-2"].VMServer.VMServerAddress}})
	must(err)
	if len(byAddress.ServerList) != 1 || byAddress.ServerList[0].ServerID != found["web-2"].ServerID {
		t.Errorf("by address there are %+v", byAddress.ServerList)
	}

	request := sms.CreateReplicationJobRequest{ServerID: found["web-1"].ServerID, SeedReplicationTime: sms.At(time.Now().Add(time.Hour)), FrequencyMinutes: new(int32(90))}
	job, err := c.CreateReplicationJob(ctx, request)
	must(err)
	_, err = c.CreateReplicationJob(ctx, request)
	refused(err, sms.ReplicationJobAlreadyExists)
	request.ServerID = found["web-2"].ServerID
	_, err = c.CreateReplicationJob(ctx, request)
	if refused(err, sms.ServerCannotBeReplicated); !strings.Contains(err.Error(), "a physical RDM") {
		t.Errorf("%v does not tell why", err)
	}
	request.ServerID = "s-00000000"
	_, err = c.CreateReplicationJob(ctx, request)
	refused(err, sms.InvalidParameter)
	refused(c.DeleteServerCatalog(ctx), sms.OperationNotPermitted)
	must(c.UpdateReplicationJob(ctx, sms.UpdateReplicationJobRequest{ReplicationJobID: job, Description: new("nightly"), NumberOfRecentAmisToKeep: new(int32(3))}))
	refused(c.UpdateReplicationJob(ctx, sms.UpdateReplicationJobRequest{ReplicationJobID: "sms-job-00000000"}), sms.ReplicationJobNotFound)

	run, err := c.StartOnDemandReplicationRun(ctx, job, "by hand")
	must(err)
	_, err = c.StartOnDemandReplicationRun(ctx, job, "again")
	refused(err, sms.ReplicationRunLimitExceeded)
	runs, err := c.GetReplicationRuns(ctx, sms.GetReplicationRunsRequest{ReplicationJobID: job})
	must(err)
	j := runs.ReplicationJob
	if len(runs.ReplicationRunList) != 1 || runs.ReplicationRunList[0].ReplicationRunID != run || runs.ReplicationRunList[0].Description != "by hand" ||
		j.VMServer.VMName != "web-1" || j.Description != "nightly" || j.NumberOfRecentAmisToKeep != 3 || j.FrequencyMinutes != 90 || j.State != "ACTIVE" {
		t.Errorf("the runs are %+v", runs)
	}
	jobs, err := c.GetReplicationJobs(ctx, sms.GetReplicationJobsRequest{ReplicationJobID: job})
	must(err)
	if len(jobs.ReplicationJobList) != 1 || len(jobs.ReplicationJobList[0].ReplicationRunList) != 1 {
		t.Errorf("the job is %+v", jobs.ReplicationJobList)
	}
	must(c.DeleteReplicationJob(ctx, job))
	must(c.DisassociateConnector(ctx, connector))
	refused(c.DisassociateConnector(ctx, connector), sms.InvalidParameter)
	must(keys.Revoke(ctx, key.ID))
	refused(c.ImportServerCatalog(ctx), sms.UnrecognizedClient)
}

// enrol makes a connector with one source.
func enrol(t *testing.T, db *store.DB, servers *catalog.Service) string {
	t.Helper()
	enrolment := access.NewEnrolment(db)
	code, _, err := enrolment.Issue(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := enrolment.Enrol(t.Context(), code, public, "connector", "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	err = servers.Announce(t.Context(), id, catalog.Announcement{Version: "1.0.0", Sources: []catalog.Source{{ID: "vc-1", Platform: "vsphere", Name: "vcenter.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}
