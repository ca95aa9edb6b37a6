package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/internal/problem"
	"skylift/internal/secret"
)

// requests has one good request for every action that is served.
var requests = map[string]string{
	"GetConnectors":               `{}`,
	"DisassociateConnector":       `{"connectorId":"c-00000000"}`,
	"ImportServerCatalog":         `{}`,
	"GetServers":                  `{}`,
	"DeleteServerCatalog":         `{}`,
	"CreateReplicationJob":        `{"serverId":"s-00000000","seedReplicationTime":1772600767,"frequency":12}`,
	"GetReplicationJobs":          `{}`,
	"UpdateReplicationJob":        `{"replicationJobId":"sms-job-00000000"}`,
	"DeleteReplicationJob":        `{"replicationJobId":"sms-job-00000000"}`,
	"StartOnDemandReplicationRun": `{"replicationJobId":"sms-job-00000000"}`,
	"GetReplicationRuns":          `{"replicationJobId":"sms-job-00000000"}`,
	"CheckServer":                 `{"serverId":"s-00000000"}`,
	"GetServerReadiness":          `{"serverId":"s-00000000"}`,
	"EnableChangeTracking":        `{"serverId":"s-00000000"}`,
	"CheckSource":                 `{"sourceId":"vc-1"}`,
	"GetSourceReadiness":          `{"sourceId":"vc-1"}`,
}

func TestEveryServedActionAnswers(t *testing.T) {
	b := newBench(t)
	for action := range b.handler.actions {
		if got := b.call(action, requests[action]); got.status != http.StatusOK {
			t.Errorf("%s: HTTP %d: %s", action, got.status, got.body)
		}
		if !b.referee.seen[action] {
			t.Errorf("%s was not held against the model", action)
		}
	}
	if len(b.handler.actions) != 16 {
		t.Errorf("%d actions are served", len(b.handler.actions))
	}
}

func TestThingsLookAsTheModelWantsThem(t *testing.T) {
	b := newBench(t)
	const vcenter = `"vmServerAddress":{"vmManagerId":"vc-1","vmId":"vm-2"},"vmName":"web-2","vmManagerName":"vcenter.example","vmManagerType":"VSPHERE","vmPath":"/dc/vm/web","platform":"vsphere"`
	const jobZero = `"replicationJobId":"sms-job-00000000","serverId":"s-00000002","serverType":"VIRTUAL_MACHINE","seedReplicationTime":1772600767,"frequency":12,"runOnce":false,` +
		`"nextReplicationRunStartTime":1772604367,"licenseType":"BYOL","roleName":"sms","latestAmiId":"ami-1","state":"ACTIVE","statusMessage":"waiting","description":"nightly",` +
		`"numberOfRecentAmisToKeep":3,"encrypted":true,"kmsKeyId":"alias/ebs","vmServer":{` + vcenter + `},"frequencyMinutes":720,"quiesce":"prefer","keepStaging":true,"skipDisks":["disk-b"]`
	for name, c := range map[string]struct{ action, request, list, want string }{
		"a connector": {"GetConnectors", `{"maxResults":1}`, "connectorList", `{"connectorId":"c-00000000","version":"1.0.0","status":"HEALTHY",
			"capabilityList":["SNAPSHOT_BATCHING","VSPHERE"],"vmManagerName":"vcenter.example","vmManagerType":"VSPHERE","vmManagerId":"vc-1","ipAddress":"192.0.2.1",
			"macAddress":"00:50:56:00:00:01","associatedOn":1772514367,"name":"connector-0","lastSeen":1772600767,
			"sources":[{"sourceId":"vc-1","platform":"vsphere","name":"vcenter.example"},{"sourceId":"sub-1","platform":"azure","name":"subscription"}]}`},
		"a server with a job that ended": {"GetServers", `{"vmServerAddressList":[{"vmManagerId":"vc-1","vmId":"vm-2"}]}`, "serverList", `{"serverId":"s-00000002",
			"serverType":"VIRTUAL_MACHINE","vmServer":{` + vcenter + `},"replicationJobId":"sms-job-00000000","replicationJobTerminated":true,"poweredOn":true,"guestOs":"Debian",
			"firmware":"efi","disks":[{"diskId":"disk-a","name":"Hard disk 1","sizeBytes":1099511627776},{"diskId":"disk-b","name":"Hard disk 2","sizeBytes":5,"skipReason":"a physical RDM"}]}`},
		"a server in Azure, which the model has no word for": {"GetServers", `{"vmServerAddressList":[{"vmManagerId":"sub-1","vmId":"uuid-1"}]}`, "serverList",
			`{"serverId":"s-00000001","serverType":"VIRTUAL_MACHINE","vmServer":{"vmServerAddress":{"vmManagerId":"sub-1","vmId":"uuid-1"},"vmName":"web-1",
			"vmManagerName":"subscription","vmPath":"/dc/vm/web","platform":"azure"},"poweredOn":false,"guestOs":"Debian","firmware":"efi",
			"disks":[{"diskId":"disk-a","name":"Hard disk 1","sizeBytes":1099511627776},{"diskId":"disk-b","name":"Hard disk 2","sizeBytes":5,"skipReason":"a physical RDM"}]}`},
		"a job": {"GetReplicationJobs", `{"maxResults":1}`, "replicationJobList", `{` + jobZero + `}`},
		"a run": {"GetReplicationRuns", `{"replicationJobId":"sms-job-00000000","maxResults":1}`, "replicationRunList", `{"replicationRunId":"sms-run-00000000","state":"ACTIVE",
			"type":"AUTOMATIC","stageDetails":{"stage":"Uploading","stageProgress":"45%"},"statusMessage":"disk 1 of 2","amiId":"ami-1","scheduledStartTime":1772600767.123,
			"completedTime":1772604367,"encrypted":true,"consistency":"crash","consistencyReason":"the guest did not come to rest","waitingFor":"a place","disks":[{"diskId":"disk-a","name":"Hard disk 1","kind":"comparing","reason":"tracking was reset",
			"transport":"datastore","transportReason":"the probe passed","sizeBytes":1099511627776,"plannedBytes":1,"readBytes":2,"changedBytes":3,"sentBytes":4,"storedBytes":5,
			"resumedBytes":6,"digest":"ab01","image":"snap-1"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			out := into[map[string]any](b, c.action, c.request)
			var want any
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			list, _ := out[c.list].([]any)
			if len(list) != 1 || !reflect.DeepEqual(list[0], want) {
				t.Errorf("got  %s\nwant %s", mustJSON(t, list), c.want)
			}
			if c.action == "GetServers" && (out["serverCatalogStatus"] != "AVAILABLE" || out["lastModifiedOn"] != 1772597167.0) {
				t.Errorf("the catalog's state is %v of %v", out["serverCatalogStatus"], out["lastModifiedOn"])
			}
		})
	}
	b.connectors[0].LastSeen = start.Add(-time.Hour)
	if c := into[sms.GetConnectorsResponse](b, "GetConnectors", `{"maxResults":1}`); c.ConnectorList[0].Status != "UNHEALTHY" {
		t.Errorf("a connector that was not seen for an hour is %s", c.ConnectorList[0].Status)
	}
}

func TestEveryPlatformHasItsManagerType(t *testing.T) {
	for platform, want := range map[string]string{"vsphere": "VSPHERE", "scvmm": "SCVMM", "hyperv": "HYPERV-MANAGER", "azure": ""} {
		if got := managerType(platform); got != want {
			t.Errorf("%s is %q, want %q", platform, got, want)
		}
	}
}

func TestAJobIsMadeAsItWasAskedFor(t *testing.T) {
	b := newBench(t)
	out := into[sms.CreateReplicationJobResponse](b, "CreateReplicationJob", `{"serverId":"s-00000000","seedReplicationTime":1772600767.25,"frequency":24,"runOnce":false,
		"licenseType":"AWS","roleName":"sms","description":"d","numberOfRecentAmisToKeep":270,"encrypted":true,"kmsKeyId":"arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab",
		"quiesce":"require","keepStaging":true,"skipDisks":["disk-b"]}`)
	want := replication.NewJob{Server: "s-00000000", Seed: start.Add(250 * time.Millisecond), Frequency: 24 * time.Hour, LicenseType: "AWS", RoleName: "sms", Description: "d",
		KeepImages: 270, Encrypted: true, KMSKeyID: "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab", Quiesce: "require", KeepStaging: true, SkipDisks: []string{"disk-b"}}
	if out.ReplicationJobID != "sms-job-00000009" || !reflect.DeepEqual(b.created, want) {
		t.Errorf("got %q from %+v", out.ReplicationJobID, b.created)
	}
	into[sms.CreateReplicationJobResponse](b, "CreateReplicationJob", `{"serverId":"s-00000000","seedReplicationTime":1.7726007670e9,"runOnce":true,"frequency":null}`)
	if want := (replication.NewJob{Server: "s-00000000", Seed: start, RunOnce: true, Quiesce: "prefer"}); !reflect.DeepEqual(b.created, want) {
		t.Errorf("got %+v", b.created)
	}
}

func TestMembersThatTheModelDoesNotHaveAreIgnored(t *testing.T) {
	b := newBench(t)
	rec := httptest.NewRecorder() // not before the referee, who would object
	b.handler.ServeHTTP(rec, newSigner(start).request(t, "CreateReplicationJob",
		`{"serverId":"s-00000000","ServerId":"s-ffffffff","seedReplicationTime":1772600767,"runOnce":true,"aMemberOfLaterDays":{"x":[1]}}`))
	if rec.Code != http.StatusOK || b.created.Server != "s-00000000" {
		t.Errorf("HTTP %d %s, made from %+v", rec.Code, rec.Body, b.created)
	}
}

func TestOnlyWhatIsGivenOfAJobIsChanged(t *testing.T) {
	b := newBench(t)
	into[sms.Empty](b, "UpdateReplicationJob", `{"replicationJobId":"sms-job-00000000"}`)
	if b.change != (replication.JobChange{}) {
		t.Errorf("got %+v", b.change)
	}
	into[sms.Empty](b, "UpdateReplicationJob", `{"replicationJobId":"sms-job-00000000","frequency":1,"nextReplicationRunStartTime":1772600767,"licenseType":"BYOL","roleName":"r",
		"description":"","numberOfRecentAmisToKeep":0,"encrypted":false,"kmsKeyId":"","quiesce":"never","keepStaging":false,"skipDisks":[]}`)
	next := b.change.NextRun
	want := replication.JobChange{Frequency: new(time.Hour), NextRun: next, LicenseType: new("BYOL"), RoleName: new("r"), Description: new(""), KeepImages: new(0),
		Encrypted: new(false), KMSKeyID: new(""), Quiesce: new("never"), KeepStaging: new(false), SkipDisks: &[]string{}}
	if !reflect.DeepEqual(b.change, want) || !next.Equal(start) {
		t.Errorf("got %s", mustJSON(t, b.change))
	}
}

func TestMinutesAreAFrequencyToo(t *testing.T) {
	b := newBench(t)
	into[sms.CreateReplicationJobResponse](b, "CreateReplicationJob", `{"serverId":"s-00000000","seedReplicationTime":1,"frequencyMinutes":5}`)
	into[sms.Empty](b, "UpdateReplicationJob", `{"replicationJobId":"sms-job-00000000","frequencyMinutes":90}`)
	if b.created.Frequency != 5*time.Minute || *b.change.Frequency != 90*time.Minute {
		t.Errorf("got %s and %s", b.created.Frequency, *b.change.Frequency)
	}
	b.jobs[0].Frequency = 90 * time.Minute
	b.jobs[1].Frequency, b.jobs[1].RunOnce = 0, true
	list := into[sms.GetReplicationJobsResponse](b, "GetReplicationJobs", `{}`).ReplicationJobList
	if list[0].Frequency != 0 || list[0].FrequencyMinutes != 90 || list[1].Frequency != 0 || list[1].FrequencyMinutes != 0 {
		t.Errorf("got %+v", list)
	}
}

func TestASingleJobComesWithItsLatestRuns(t *testing.T) {
	b := newBench(t)
	one := into[sms.GetReplicationJobsResponse](b, "GetReplicationJobs", `{"replicationJobId":"sms-job-00000000"}`).ReplicationJobList
	want := mustJSON(t, each(b.runs, run))
	if len(one) != 1 || string(mustJSON(t, one[0].ReplicationRunList)) != string(want) {
		t.Errorf("got %+v", one)
	}
	for _, j := range into[sms.GetReplicationJobsResponse](b, "GetReplicationJobs", `{}`).ReplicationJobList {
		if len(j.ReplicationRunList) > 0 {
			t.Errorf("job %s of a listing comes with runs", j.ReplicationJobID)
		}
	}
}

func TestAJobWhoseServerLeftTheCatalogIsShown(t *testing.T) {
	b := newBench(t)
	b.servers = nil
	if list := into[sms.GetReplicationJobsResponse](b, "GetReplicationJobs", `{}`).ReplicationJobList; len(list) != 2 || list[0].VMServer != (sms.VMServer{}) {
		t.Errorf("got %+v", list)
	}
}

func TestAWrongParameterIsNamed(t *testing.T) {
	job := func(members string) string {
		return `{"serverId":"s-00000000","seedReplicationTime":1772600767,` + members + `}`
	}
	update := func(members string) string { return `{"replicationJobId":"sms-job-00000000",` + members + `}` }
	for name, c := range map[string]struct{ action, body, code, tells string }{
		"a missing ID":               {"DisassociateConnector", `{}`, sms.MissingRequiredParameter, "connectorId"},
		"two missing members":        {"CreateReplicationJob", `{"frequency":1}`, sms.MissingRequiredParameter, "seedReplicationTime, serverId"},
		"neither rhythm":             {"CreateReplicationJob", job(`"runOnce":false`), sms.MissingRequiredParameter, "frequency"},
		"both rhythms":               {"CreateReplicationJob", job(`"runOnce":true,"frequency":1`), sms.InvalidParameter, "exclude"},
		"no minutes":                 {"CreateReplicationJob", job(`"frequencyMinutes":4`), sms.InvalidParameter, "frequencyMinutes must be 5 to 1440"},
		"more minutes than a day":    {"UpdateReplicationJob", update(`"frequencyMinutes":1441`), sms.InvalidParameter, "5 to 1440"},
		"hours and minutes":          {"UpdateReplicationJob", update(`"frequencyMinutes":60,"frequency":1`), sms.InvalidParameter, "exclude"},
		"minutes and one run":        {"CreateReplicationJob", job(`"runOnce":true,"frequencyMinutes":60`), sms.InvalidParameter, "exclude"},
		"a disk to skip twice":       {"UpdateReplicationJob", update(`"skipDisks":["a","a"]`), sms.InvalidParameter, `skipDisks\[1\]`},
		"no hours":                   {"CreateReplicationJob", job(`"frequency":0`), sms.InvalidParameter, "frequency must be 1 to 24"},
		"too many hours":             {"UpdateReplicationJob", update(`"frequency":25`), sms.InvalidParameter, "frequency must be 1 to 24"},
		"a seed beyond 30 days":      {"CreateReplicationJob", `{"serverId":"s-00000000","seedReplicationTime":1775192768,"frequency":1}`, sms.InvalidParameter, "30 days"},
		"another license":            {"CreateReplicationJob", job(`"runOnce":true,"licenseType":"FREE"`), sms.InvalidParameter, "licenseType must be one of AWS, BYOL"},
		"another quiesce":            {"UpdateReplicationJob", update(`"quiesce":"maybe"`), sms.InvalidParameter, "quiesce must be one of never, prefer, require"},
		"a role's ARN":               {"CreateReplicationJob", job(`"runOnce":true,"roleName":"arn:aws:iam::1:role/sms"`), sms.InvalidParameter, "roleName"},
		"fewer images than none":     {"UpdateReplicationJob", update(`"numberOfRecentAmisToKeep":-1`), sms.InvalidParameter, "0, which keeps all, to 270"},
		"too many images":            {"CreateReplicationJob", job(`"runOnce":true,"numberOfRecentAmisToKeep":271`), sms.InvalidParameter, "270"},
		"a key that is none":         {"UpdateReplicationJob", update(`"kmsKeyId":"my key"`), sms.InvalidParameter, "kmsKeyId"},
		"a key without encryption":   {"CreateReplicationJob", job(`"runOnce":true,"kmsKeyId":"alias/a"`), sms.InvalidParameter, "encrypted"},
		"a key against encryption":   {"UpdateReplicationJob", update(`"kmsKeyId":"alias/a","encrypted":false`), sms.InvalidParameter, "encrypted"},
		"a long description":         {"StartOnDemandReplicationRun", update(`"description":"` + strings.Repeat("x", 1025) + `"`), sms.InvalidParameter, "1024"},
		"a description in two lines": {"CreateReplicationJob", job(`"runOnce":true,"description":"a\nb"`), sms.InvalidParameter, "control"},
		"a disk without a name":      {"CreateReplicationJob", job(`"runOnce":true,"skipDisks":["a",""]`), sms.InvalidParameter, `skipDisks\[1\]`},
		"a disk twice":               {"CreateReplicationJob", job(`"runOnce":true,"skipDisks":["a","a"]`), sms.InvalidParameter, `skipDisks\[1\]`},
		"too many disks":             {"CreateReplicationJob", job(`"runOnce":true,"skipDisks":[` + strings.Repeat(`"a",`, 256) + `"a"]`), sms.InvalidParameter, `at most 256`},
		"another thing's ID":         {"DeleteReplicationJob", `{"replicationJobId":"sms-run-00000000"}`, sms.InvalidParameter, `sms-job-\[0-9a-f\]`},
		"an ID in upper case":        {"GetReplicationJobs", `{"replicationJobId":"sms-job-ABCDEF00"}`, sms.InvalidParameter, `replicationJobId`},
		"a server's ID of a job":     {"CreateReplicationJob", `{"serverId":"sms-job-00000000","seedReplicationTime":1,"runOnce":true}`, sms.InvalidParameter, "serverId"},
		"half an address":            {"GetServers", `{"vmServerAddressList":[{"vmManagerId":"vc-1"}]}`, sms.MissingRequiredParameter, `vmServerAddressList\[0\].vmId`},
		"an empty page":              {"GetServers", `{"maxResults":0}`, sms.InvalidParameter, "1 to 50"},
		"a page that is too large":   {"GetReplicationRuns", update(`"maxResults":51`), sms.InvalidParameter, "1 to 50"},
		"the same of connectors":     {"GetConnectors", `{"maxResults":51}`, sms.ValidationError, "1 to 50"},
		"a token that is none":       {"GetReplicationJobs", `{"nextToken":"x"}`, sms.InvalidParameter, "nextToken"},
		"a text for a number":        {"CreateReplicationJob", job(`"frequency":"12"`), sms.Serialization, "frequency must be a whole number"},
		"a time in words":            {"CreateReplicationJob", `{"serverId":"s-00000000","seedReplicationTime":"2026-01-01","runOnce":true}`, sms.Serialization, "seconds since 1970"},
		"a time before 1970":         {"UpdateReplicationJob", update(`"nextReplicationRunStartTime":-1`), sms.InvalidParameter, "1970"},
		"a list for an object":       {"GetServers", `[]`, sms.Serialization, "the request must be an object"},
		"half a document":            {"GetServers", `{"maxResults":`, sms.Serialization, "JSON"},
		"two documents":              {"GetServers", `{}{}`, sms.Serialization, "follows"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.call(c.action, c.body).expect(t, c.code, c.tells)
			if len(b.regions) != 0 {
				t.Error("a service was called")
			}
		})
	}
}

// TestProblemsBecomeErrorsOfTheModel goes through every kind at every action;
// the referee refuses what the model does not list.
func TestProblemsBecomeErrorsOfTheModel(t *testing.T) {
	want := map[string]map[*problem.Kind]string{
		"GetConnectors":         {catalog.NoConnectors: sms.ValidationError},
		"DisassociateConnector": {catalog.ConnectorNotFound: sms.InvalidParameter, catalog.ConnectorBusy: sms.OperationNotPermitted},
		"ImportServerCatalog":   {catalog.NoConnectors: sms.NoConnectorsAvailable, catalog.CatalogBusy: sms.OperationNotPermitted},
		"DeleteServerCatalog":   {catalog.CatalogBusy: sms.OperationNotPermitted},
		"CreateReplicationJob": {catalog.NoConnectors: sms.NoConnectorsAvailable, catalog.ServerNotFound: sms.InvalidParameter, replication.JobExists: sms.ReplicationJobAlreadyExists,
			replication.ServerCannotBeReplicated: sms.ServerCannotBeReplicated, replication.InvalidJob: sms.InvalidParameter},
		"GetReplicationJobs":   {replication.JobNotFound: sms.InvalidParameter},
		"UpdateReplicationJob": {replication.JobNotFound: sms.ReplicationJobNotFound, replication.JobNotActive: sms.OperationNotPermitted, replication.InvalidJob: sms.InvalidParameter},
		"DeleteReplicationJob": {replication.JobNotFound: sms.ReplicationJobNotFound, replication.JobNotActive: sms.OperationNotPermitted},
		"StartOnDemandReplicationRun": {replication.JobNotFound: sms.InvalidParameter, replication.JobNotActive: sms.OperationNotPermitted,
			replication.RunLimit: sms.ReplicationRunLimitExceeded},
		"GetReplicationRuns": {replication.JobNotFound: sms.InvalidParameter, replication.RunNotFound: sms.InvalidParameter},
	}
	b := newBench(t)
	for action, body := range requests {
		for kind := range outcomes {
			b.err = fmt.Errorf("internal wrap: %w", kind.New(errors.New("it is blue"), "look at the thing"))
			got := b.call(action, body)
			if code := want[action][kind]; code != "" && got.failure.Type != code {
				t.Errorf("%s of %s is %s, want %s", kind.Code, action, got.failure.Type, code)
			}
			if want := "look at the thing: " + kind.Title + ": it is blue. " + kind.Hint + " [" + kind.Code + "]"; got.failure.Message != want || got.status != 400 {
				t.Errorf("%s: HTTP %d %q, want %q", action, got.status, got.failure.Message, want)
			}
		}
	}
}

func TestFailuresInsideStayInside(t *testing.T) {
	b := newBench(t)
	locked := &problem.Kind{Code: "store-busy", Title: "the database is busy", Hint: "Nothing; it passes.", Retry: true}
	broken := &problem.Kind{Code: "store-broken", Title: "the database is damaged", Hint: "Restore it."}
	for action, body := range requests {
		for _, c := range []struct {
			err    error
			status int
			code   string
			tells  string
		}{
			{errors.New("sql: connection refused to 10.0.0.1"), 500, sms.InternalError, "request [0-9a-f-]{36}"},
			{fmt.Errorf("query: %w", context.DeadlineExceeded), 503, sms.TemporarilyUnavailable, "try again"},
			{locked.New(errors.New("sql: SQLITE_BUSY"), "read"), 503, sms.TemporarilyUnavailable, "the database is busy. Nothing"},
			{broken.New(errors.New("sql: malformed"), "read"), 500, sms.InternalError, "Restore it"},
		} {
			b.err = c.err
			b.log.Reset()
			got := b.call(action, body)
			code := c.code
			if !b.referee.base.Operations[action].Lists(code) {
				code = map[string]string{sms.InternalError: sms.InternalFailure, sms.TemporarilyUnavailable: sms.ServiceUnavailable}[code]
			}
			got.expect(t, code, c.tells)
			if got.status != c.status || strings.Contains(got.body, "10.0.0.1") || strings.Contains(got.body, "SQLITE") {
				t.Errorf("%s: HTTP %d %s", action, got.status, got.body)
			}
			if e := b.log.AllEntries(); len(e) != 1 || e[0].Level.String() != "error" || e[0].Data["error"] != c.err {
				t.Errorf("%s: the log has %v", action, e)
			}
		}
	}
}

func TestAProblemThatCausedAnotherIsTold(t *testing.T) {
	inner := catalog.ServerNotFound.New(errors.New("secret path"), "look up server s-1")
	broken := &problem.Kind{Code: "store-broken", Title: "the database is damaged", Hint: "Restore it."}
	got := explain(broken.New(fmt.Errorf("below: %w", inner), "create the job"))
	want := "create the job: " + broken.Title + ": look up server s-1: " + catalog.ServerNotFound.Title + ". " +
		broken.Hint + " [" + broken.Code + "]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestActionsThatAreNotServedSaySo(t *testing.T) {
	b := newBench(t)
	n := 0
	for action := range b.referee.base.Operations {
		if _, served := b.handler.actions[action]; !served {
			b.call(action, `{}`).expect(t, sms.OperationNotPermitted, "does not serve "+action)
			n++
		}
	}
	if n != 24 {
		t.Errorf("%d actions are not served", n)
	}
	b.call("GetConnector", `{}`).expect(t, sms.UnknownOperation, "names no action")
	b.call("", `{}`).expect(t, sms.UnknownOperation)
	for name, set := range map[string]func(*http.Request){
		"no target":       func(r *http.Request) { r.Header.Del(sms.TargetHeader) },
		"another service": func(r *http.Request) { r.Header.Set(sms.TargetHeader, "AWSOther.GetConnectors") },
	} {
		s := newSigner(start)
		s.before = set
		t.Run(name, func(t *testing.T) { b.send(s.request(t, "x", `{}`)).expect(t, sms.UnknownOperation) })
	}
}

func TestRequestsOfAnotherShapeAreRefused(t *testing.T) {
	b := newBench(t)
	r := newSigner(start).request(t, "GetServers", "{}")
	r.Method = http.MethodGet
	if got := b.send(r); got.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: HTTP %d %s", got.status, got.body)
	}
	b.call("GetServers", `{"x":"`+strings.Repeat("x", maxBody)+`"}`).expect(t, sms.RequestTooLarge, "1048576")
	if got := b.call("GetServers", ""); got.status != http.StatusOK {
		t.Errorf("without a body: HTTP %d %s", got.status, got.body)
	}
	s := newSigner(start)
	s.before = func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }
	b.send(s.request(t, "GetServers", "{}")).expect(t, sms.Serialization, "Content-Type")
	r = newSigner(start).request(t, "GetServers", "{}")
	r.Body = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))
	rec := httptest.NewRecorder()
	b.handler.ServeHTTP(rec, r)
	if !strings.Contains(rec.Body.String(), sms.Serialization) {
		t.Errorf("half a body: %s", rec.Body)
	}
}

func TestAClientThatIsGoneGetsNoAnswer(t *testing.T) {
	b := newBench(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	b.err = context.Canceled
	rec := httptest.NewRecorder()
	b.handler.ServeHTTP(rec, newSigner(start).request(t, "GetServers", "{}").WithContext(gone))
	if e := b.log.LastEntry(); rec.Body.Len() > 0 || e.Data["status"] != 499 || e.Level.String() != "warning" {
		t.Errorf("answered %s, logged %v", rec.Body, e.Data)
	}
}

func TestAShortPageKeyIsRefused(t *testing.T) {
	if _, err := New(Config{PageKey: secret.New("short")}); err == nil {
		t.Error("a page key of 5 bytes was taken")
	}
}

// FuzzRequests: what passes the model is decoded, and nothing breaks.
func FuzzRequests(f *testing.F) {
	b := newBench(f)
	for action, body := range requests {
		f.Add(action, []byte(body))
	}
	f.Add("GetServers", []byte(`{"vmServerAddressList":[{"vmId":null},{}],"maxResults":1e1}`))
	f.Add("UpdateReplicationJob", []byte(`{"replicationJobId":"sms-job-00000000","nextReplicationRunStartTime":1e-400}`))
	f.Fuzz(func(t *testing.T, action string, body []byte) {
		act, ok := b.handler.actions[action]
		if !ok {
			return
		}
		o := b.handler.model.Operations[action]
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Content-Type", sms.ContentType)
		request, err := b.handler.decode(r, &o, body)
		if err != nil {
			return
		}
		c, cancel := context.WithTimeout(withCaller(t.Context(), Caller{KeyID: "fuzz"}), time.Minute)
		defer cancel()
		_, err = act.do(c, request)
		if f := b.handler.translate(err, &exchange{id: "id", action: action, caller: Caller{KeyID: "fuzz"}}); err != nil && f.status != 400 {
			t.Fatalf("%s of %q: %v", action, body, err)
		}
	})
}
