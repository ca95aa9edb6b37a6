package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"skylift/controlplane/api/sms"
	"skylift/internal/secret"
)

func TestPagesGiveEverythingOnce(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		size  string
		pages int
	}{{``, 3}, {`,"maxResults":50`, 3}, {`,"maxResults":49`, 3}, {`,"maxResults":40`, 3}, {`,"maxResults":7`, 18}, {`,"maxResults":1`, 120}} {
		seen, pages, token := map[string]bool{}, 0, ""
		for more := true; more && pages < 200; pages++ {
			out := into[sms.GetServersResponse](b, "GetServers", `{"nextToken":"`+token+`"`+c.size+`}`)
			for _, s := range out.ServerList {
				if seen[s.ServerID] {
					t.Errorf("server %s came twice", s.ServerID)
				}
				seen[s.ServerID] = true
			}
			token = out.NextToken
			more = token != ""
		}
		if len(seen) != 120 || pages != c.pages {
			t.Errorf("with %q there are %d servers on %d pages", c.size, len(seen), pages)
		}
	}
}

func TestAPageTokenHoldsForItsListingOnly(t *testing.T) {
	b := newBench(t)
	token := into[sms.GetServersResponse](b, "GetServers", `{"maxResults":1}`).NextToken
	runs := into[sms.GetReplicationRunsResponse](b, "GetReplicationRuns", `{"replicationJobId":"sms-job-00000000","maxResults":1}`).NextToken
	filtered := `"vmServerAddressList":[{"vmManagerId":"vc-1","vmId":"vm-2"},{"vmManagerId":"vc-1","vmId":"vm-3"}]`
	some := into[sms.GetServersResponse](b, "GetServers", `{"maxResults":1,`+filtered+`}`).NextToken
	for name, c := range map[string]struct{ action, request string }{
		"another action":         {"GetReplicationJobs", `{"nextToken":%q}`},
		"another filter":         {"GetServers", `{"nextToken":%q,` + filtered + `}`},
		"a token of another job": {"GetReplicationRuns", `{"nextToken":` + fmt.Sprintf("%q", runs) + `,"replicationJobId":"sms-job-00000001","description":%q}`},
		"less of the filter":     {"GetServers", `{"nextToken":` + fmt.Sprintf("%q", some) + `,"description":%q}`},
		"a changed token":        {"GetServers", `{"nextToken":"A%.200s"}`},
		"a cut token":            {"GetServers", `{"nextToken":"%.40s"}`},
		"an endless token":       {"GetServers", `{"nextToken":"%s` + strings.Repeat("A", 2000) + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			b.call(c.action, fmt.Sprintf(c.request, token)).expect(t, sms.InvalidParameter, "nextToken is not one")
		})
	}
	s := newSigner(start)
	s.region = "us-east-1"
	b.send(s.request(t, "GetServers", `{"nextToken":"`+token+`"}`)).expect(t, sms.InvalidParameter, "nextToken")
	if got := b.call("GetServers", `{"nextToken":"`+token+`","maxResults":3}`); got.status != http.StatusOK {
		t.Errorf("another page size: HTTP %d %s", got.status, got.body)
	}
	if got := b.call("GetServers", `{"nextToken":"`+some+`",`+filtered+`}`); got.status != http.StatusOK || !strings.Contains(got.body, "s-00000003") {
		t.Errorf("the filter's second page: HTTP %d %s", got.status, got.body)
	}
	b.handler.pages = pager{secret.New(strings.Repeat("n", 32))}
	b.call("GetServers", `{"nextToken":"`+token+`"}`).expect(t, sms.InvalidParameter, "nextToken")
}

func FuzzPageToken(f *testing.F) {
	p := pager{secret.New(strings.Repeat("k", 32))}
	f.Add(p.seal("s-1", "GetServers", "eu-west-1", ""), "GetServers", "")
	f.Add(p.seal("s-1", "GetServers", "", ""), "GetServer", "s")
	f.Fuzz(func(t *testing.T, token, action, filter string) {
		after, err := p.open(token, action, filter)
		if err == nil && p.seal(after, action, filter) != token {
			t.Fatalf("%q was opened as %q", token, after)
		}
		if len(action) > 0 && len(action) < 512 {
			sealed := p.seal(action, token, filter)
			if again, err := p.open(sealed, token, filter); err != nil || again != action {
				t.Fatalf("%q came back as %q, %v", action, again, err)
			}
			if _, err := p.open(sealed, token+filter, ""); err == nil && filter != "" {
				t.Fatalf("%q holds for another listing", sealed)
			}
		}
	})
}
