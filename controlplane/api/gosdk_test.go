//lint:file-ignore SA1019 the end-of-life SDK is the last one for Go that has SMS, and only a test's client

package api

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/awserr"
	"github.com/aws/aws-sdk-go/aws/credentials"
	"github.com/aws/aws-sdk-go/aws/session"
	awssms "github.com/aws/aws-sdk-go/service/sms"

	"skylift/controlplane/api/sms"
)

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
	for _, action := range b.ofSMS() {
		if !b.referee.seen[action] {
			t.Errorf("%s was not called", action)
		}
	}
}
