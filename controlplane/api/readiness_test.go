package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"skylift/controlplane/api/sms"
	"skylift/controlplane/catalog"
)

func (w *world) order(ctx context.Context, what, id string) error {
	leave, err := w.enter(ctx)
	defer leave()
	w.asked = append(w.asked, what+" "+id)
	return err
}

func (w *world) CheckServer(ctx context.Context, id string) error {
	return w.order(ctx, "check", id)
}

func (w *world) EnableTracking(ctx context.Context, id string) error {
	return w.order(ctx, "enable", id)
}

func (w *world) CheckSource(ctx context.Context, id string) error {
	return w.order(ctx, "check", id)
}

func (w *world) ServerStanding(ctx context.Context, id string) (catalog.Standing, error) {
	leave, err := w.enter(ctx)
	defer leave()
	st := standing
	st.Server = id
	if id == "s-0000ffff" {
		st = catalog.Standing{Server: id, Source: st.Source}
	}
	return st, err
}

func (w *world) SourceStanding(ctx context.Context, id string) (catalog.Standing, error) {
	leave, err := w.enter(ctx)
	defer leave()
	if id != "vc-1" {
		return catalog.Standing{}, catalog.SourceNotFound.New(nil, "find source %q", id)
	}
	return standing, err
}

var standing = catalog.Standing{
	Source: catalog.Source{ID: "vc-1", Platform: "vsphere", Name: "vcenter.example"},
	Report: catalog.ReadinessReport{Made: start, Connector: "c-00000000", Readiness: catalog.Readiness{
		Facts:    []catalog.Fact{{Name: "hardware version", Value: "vmx-19"}, {Subject: "Hard disk 1", Name: "mode", Value: "persistent"}},
		Findings: []catalog.Finding{{Code: "vsphere-disk-shared", Blocks: true, Subject: "Hard disk 1", What: "shared", Hint: "unshare it"}},
	}},
	Check:    catalog.Ask{ID: "ask-1", State: catalog.AskGiven, Asked: start, Connector: "c-00000000", Waits: "it is at work"},
	Tracking: catalog.Ask{ID: "ask-2", State: catalog.AskFailed, Asked: start, Answered: start, Connector: "c-00000000", Failure: catalog.Failure{Code: "c", Message: "m", Hint: "h"}},
}

func TestReadinessIsShownWhole(t *testing.T) {
	b := newBench(t)
	got := b.call("GetServerReadiness", `{"serverId":"s-00000000"}`)
	want := `{"serverId":"s-00000000","source":{"sourceId":"vc-1","platform":"vsphere","name":"vcenter.example"},` +
		`"report":{"ready":false,"checkedOn":1772600767,"connectorId":"c-00000000",` +
		`"facts":[{"name":"hardware version","value":"vmx-19"},{"subject":"Hard disk 1","name":"mode","value":"persistent"}],` +
		`"findings":[{"code":"vsphere-disk-shared","blocks":true,"subject":"Hard disk 1","message":"shared","hint":"unshare it"}]},` +
		`"check":{"state":"ACTIVE","askedOn":1772600767,"connectorId":"c-00000000","statusMessage":"it is at work"},` +
		`"changeTracking":{"state":"FAILED","askedOn":1772600767,"answeredOn":1772600767,"connectorId":"c-00000000","statusMessage":"m","code":"c","hint":"h"}}`
	if got.body != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}
	if got := b.call("GetServerReadiness", `{"serverId":"s-0000ffff"}`); got.body !=
		`{"serverId":"s-0000ffff","source":{"sourceId":"vc-1","platform":"vsphere","name":"vcenter.example"}}` {
		t.Errorf("before the first check: %s", got.body)
	}
	source := into[map[string]json.RawMessage](b, "GetSourceReadiness", `{"sourceId":"vc-1"}`)
	if len(source) != 3 || !strings.Contains(string(source["report"]), "vmx-19") {
		t.Errorf("of a source: %s", source)
	}
	b.call("GetSourceReadiness", `{"sourceId":"vc-2"}`).expect(t, sms.InvalidParameter, "vc-2", catalog.SourceNotFound.Hint)
}

func TestWhatIsAskedForReachesTheCatalog(t *testing.T) {
	b := newBench(t)
	for _, action := range []string{"CheckServer", "EnableChangeTracking", "CheckSource"} {
		if got := b.call(action, requests[action]); got.status != http.StatusOK || got.body != "{}" {
			t.Errorf("%s: %s", action, got.body)
		}
	}
	if got := strings.Join(b.asked, ", "); got != "check s-00000000, enable s-00000000, check vc-1" {
		t.Errorf("asked: %s", got)
	}
	s := newSigner(b.now)
	s.key = viewerKey
	for _, action := range []string{"CheckServer", "EnableChangeTracking", "CheckSource"} {
		b.send(s.request(t, action, requests[action])).expect(t, sms.UnauthorizedOperation, "viewer")
		b.call(action, `{}`).expect(t, sms.MissingRequiredParameter)
	}
	for _, action := range []string{"CheckServer", "EnableChangeTracking", "GetServerReadiness"} {
		b.call(action, `{"serverId":"i-1"}`).expect(t, sms.InvalidParameter, "serverId must be")
	}
	b.call("CheckSource", `{"sourceId":""}`).expect(t, sms.InvalidParameter, "sourceId must be 1 to 256 characters long")
	if len(b.asked) != 3 {
		t.Errorf("asked: %q", b.asked)
	}
}
