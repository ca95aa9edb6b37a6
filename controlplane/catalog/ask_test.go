package catalog_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"skylift/controlplane/catalog"
)

// web has the connector report one server and returns its ID.
func (b *bench) web(connector string) string {
	b.t.Helper()
	b.ok(b.Report(b.t.Context(), connector, catalog.Report{Source: "vc-1", Servers: servers("web")}))
	return catalog.ServerID("vc-1", "web")
}

func (b *bench) take(connector string) (catalog.Ask, bool) {
	b.t.Helper()
	a, ok, err := b.TakeAsk(b.t.Context(), connector)
	b.ok(err)
	return a, ok
}

func (b *bench) standing(server string) catalog.Standing {
	b.t.Helper()
	s, err := b.ServerStanding(b.t.Context(), server)
	b.ok(err)
	return s
}

func report(findings ...catalog.Finding) *catalog.Readiness {
	return &catalog.Readiness{Facts: []catalog.Fact{{Name: "hardware version", Value: "vmx-19"}}, Findings: findings}
}

func TestACheckIsAskedOnceAndItsReportKept(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	id := b.web(c)
	if st := b.standing(id); st.Check.ID != "" || !st.Report.Made.IsZero() {
		t.Errorf("before any check: %+v", st)
	}
	woken := b.woken
	b.ok(b.CheckServer(ctx, id))
	b.ok(b.CheckServer(ctx, id)) // the same one
	if b.woken == woken {
		t.Error("nobody was woken to take it")
	}
	a, ok := b.take(c)
	if !ok || a.Question != catalog.CheckServer || a.Source != "vc-1" || a.VM != "web" {
		t.Fatalf("taken: %+v, %v", a, ok)
	}
	if again, ok := b.take(c); ok {
		t.Errorf("it was given out twice: %+v", again)
	}
	b.ok(b.CheckServer(ctx, id))
	if st := b.standing(id); st.Check.ID != a.ID || st.Check.State != catalog.AskGiven || !strings.Contains(st.Check.Waits, c) {
		t.Errorf("while it is worked on: %+v", st.Check)
	}
	b.now = b.now.Add(10 * time.Second)
	blocking := catalog.Finding{Code: "vsphere-disk-shared", Blocks: true, Subject: "Hard disk 1", What: "shared", Hint: "unshare it"}
	b.ok(b.Answer(ctx, c, a.ID, report(blocking), nil))
	b.ok(b.Answer(ctx, c, a.ID, report(), nil)) // the first answer counts
	st := b.standing(id)
	if st.Check.State != catalog.AskDone || st.Check.Connector != c || !st.Check.Answered.Equal(b.now) || st.Check.Waits != "" {
		t.Errorf("the check is %+v", st.Check)
	}
	if r := st.Report; !r.Made.Equal(b.now) || r.Connector != c || r.Ready() || len(r.Findings) != 1 || r.Findings[0] != blocking || len(r.Facts) != 1 || r.Facts[0] != report().Facts[0] {
		t.Errorf("the report is %+v", r)
	}
	// A later check that fails leaves the last report.
	b.ok(b.CheckServer(ctx, id))
	a, _ = b.take(c)
	b.ok(b.Answer(ctx, c, a.ID, nil, &catalog.Failure{Code: "x", Message: "no", Hint: "try"}))
	if st := b.standing(id); st.Check.State != catalog.AskFailed || st.Check.Failure.Message != "no" || len(st.Report.Findings) != 1 {
		t.Errorf("after a failed check: %+v", st)
	}
	// So does one that is answered with nothing.
	b.ok(b.CheckServer(ctx, id))
	a, _ = b.take(c)
	b.ok(b.Answer(ctx, c, a.ID, nil, nil))
	if st := b.standing(id); st.Check.State != catalog.AskFailed || len(st.Report.Findings) != 1 {
		t.Errorf("after an empty answer: %+v", st)
	}
}

func TestAnAskGoesToAConnectorOfItsSource(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c, other := b.connector("vc-1"), b.connector("vc-2")
	b.ok(b.CheckSource(ctx, "vc-1"))
	if _, ok := b.take(other); ok {
		t.Error("a connector was asked about a source that it does not reach")
	}
	a, ok := b.take(c)
	if !ok || a.Question != catalog.CheckSource || a.VM != "" {
		t.Fatalf("taken: %+v, %v", a, ok)
	}
	b.refused(b.Answer(ctx, other, a.ID, report(), nil), catalog.SourceNotAnnounced)
	b.ok(b.Answer(ctx, c, a.ID, report(), nil))
	st, err := b.SourceStanding(ctx, "vc-1")
	b.ok(err)
	if st.Check.State != catalog.AskDone || len(st.Report.Facts) != 1 || st.Source.Name != "vc-1.example" {
		t.Errorf("the standing is %+v", st)
	}
	b.ok(b.Answer(ctx, c, "ask-of-yesterday", report(), nil)) // nobody waits for it
	b.refused(b.CheckSource(ctx, "vc-9"), catalog.SourceNotFound)
	b.refused(b.CheckServer(ctx, "s-none"), catalog.ServerNotFound)
	b.refused(b.EnableTracking(ctx, "s-none"), catalog.ServerNotFound)
	_, err = b.SourceStanding(ctx, "vc-9")
	b.refused(err, catalog.SourceNotFound)
	_, err = b.ServerStanding(ctx, "s-none")
	b.refused(err, catalog.ServerNotFound)
}

func TestAnAskThatLostItsConnectorIsGivenOutAgain(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c, other := b.connector("vc-1"), b.connector("vc-1")
	id := b.web(c)
	b.ok(b.CheckServer(ctx, id))
	a, _ := b.take(c)
	b.ok(b.ReturnAsk(ctx, a))
	if again, ok := b.take(other); !ok || again.ID != a.ID {
		t.Errorf("after a delivery that failed: %+v, %v", again, ok)
	}
	b.ok(b.Announce(ctx, other, catalog.Announcement{Sources: []catalog.Source{{ID: "vc-1"}}}))
	if again, ok := b.take(other); !ok || again.ID != a.ID {
		t.Errorf("after a new session: %+v, %v", again, ok)
	}
	b.now = b.now.Add(catalog.Alive + time.Second)
	b.ok(b.Touch(ctx, c))
	if again, ok := b.take(c); !ok || again.ID != a.ID {
		t.Errorf("after the connector fell silent: %+v, %v", again, ok)
	}
	b.ok(b.Disassociate(ctx, c))
	b.ok(b.Touch(ctx, other))
	if again, ok := b.take(other); !ok || again.ID != a.ID {
		t.Errorf("after the connector was removed: %+v, %v", again, ok)
	}
}

func TestAnAskThatNobodyAnswersFailsWithTheReason(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	id := b.web(c)
	b.ok(b.EnableTracking(ctx, id))
	if st := b.standing(id); st.Tracking.State != catalog.AskWaiting || !strings.Contains(st.Tracking.Waits, "have not taken it yet") || st.Check.ID != "" {
		t.Errorf("at once: %+v", st)
	}
	b.now = b.now.Add(catalog.Alive + time.Second)
	st := b.standing(id)
	if f := st.Tracking.Failure; st.Tracking.State != catalog.AskFailed || f.Code != catalog.AskUnanswered.Code || !strings.Contains(f.Message, "no connector that reaches source vc-1.example is connected") {
		t.Errorf("after two minutes: %+v", st.Tracking)
	}
	b.ok(b.Touch(ctx, c))
	if a, ok := b.take(c); ok {
		t.Errorf("a change was begun late: %+v", a)
	}
	// Asked again, it is a new one, and has its own time from when it was given.
	b.ok(b.EnableTracking(ctx, id))
	a, ok := b.take(c)
	if !ok {
		t.Fatal("it was not given out")
	}
	b.now = b.now.Add(30 * time.Minute)
	if st := b.standing(id); st.Tracking.State != catalog.AskGiven {
		t.Errorf("while it is done: %+v", st.Tracking)
	}
	b.now = b.now.Add(31 * time.Minute)
	if st := b.standing(id); st.Tracking.State != catalog.AskFailed {
		t.Errorf("after its time: %+v", st.Tracking)
	}
	b.ok(b.Answer(ctx, c, a.ID, nil, nil)) // late, but true
	if st := b.standing(id); st.Tracking.State != catalog.AskDone {
		t.Errorf("after a late answer: %+v", st.Tracking)
	}
}

func TestTrackingThatWasEnabledIsLookedAt(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	id := b.web(c)
	b.ok(b.EnableTracking(ctx, id))
	a, _ := b.take(c)
	b.ok(b.Answer(ctx, c, a.ID, nil, nil))
	if check, ok := b.take(c); !ok || check.Question != catalog.CheckServer || check.VM != "web" {
		t.Errorf("taken next: %+v, %v", check, ok)
	}
	if st := b.standing(id); st.Tracking.State != catalog.AskDone || st.Check.State != catalog.AskGiven {
		t.Errorf("the standing is %+v", st)
	}
}

func TestAConnectorIsNotSwampedWithAsks(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	var vms []string
	for i := range 20 {
		vms = append(vms, fmt.Sprintf("vm-%02d", i))
	}
	b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Servers: servers(vms...)}))
	for _, vm := range vms {
		b.now = b.now.Add(time.Millisecond)
		b.ok(b.CheckServer(ctx, catalog.ServerID("vc-1", vm)))
	}
	var first catalog.Ask
	n := 0
	for {
		a, ok := b.take(c)
		if !ok {
			break
		}
		if n++; n == 1 {
			first = a
		}
	}
	if n != 8 || first.VM != "vm-00" {
		t.Errorf("%d were given out at once, the first for %s", n, first.VM)
	}
	b.ok(b.Answer(ctx, c, first.ID, report(), nil))
	if a, ok := b.take(c); !ok || a.VM != "vm-08" {
		t.Errorf("next: %+v, %v", a, ok)
	}
}

func TestReadinessGoesWithItsServer(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.connector("vc-1")
	id := b.web(c)
	check := func() {
		t.Helper()
		b.ok(b.CheckServer(ctx, id))
		a, ok := b.take(c)
		if !ok {
			t.Fatal("no check")
		}
		b.ok(b.Answer(ctx, c, a.ID, report(), nil))
	}
	for name, remove := range map[string]func(){
		"removed":       func() { b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Gone: []string{"web"}})) },
		"not in a list": func() { b.ok(b.Report(ctx, c, catalog.Report{Source: "vc-1", Sync: "s" + b.now.String(), Last: true})) },
		"cleared":       func() { b.ok(b.Clear(ctx)); b.ok(b.Import(ctx)) },
	} {
		check()
		remove()
		b.now = b.now.Add(time.Second)
		b.web(c)
		if st := b.standing(id); st.Check.ID != "" || !st.Report.Made.IsZero() {
			t.Errorf("%s: %+v", name, st)
		}
	}
}
