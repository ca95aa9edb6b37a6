package vcenter

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func TestConsolidationTakesItsTimeAndShowsProgress(t *testing.T) {
	s, c, _ := frozenOn(t, Config{}, noise(1, mib))
	vm := s.VM("web")
	if err := vm.SetQuirks(Quirks{ConsolidationTakes: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	task, err := machineOf(c, vm).RemoveSnapshot(t.Context(), "s", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var states []int32
	err = property.Wait(t.Context(), property.DefaultCollector(c.Client), task.Reference(), []string{"info"}, func(changes []types.PropertyChange) bool {
		info := changes[0].Val.(types.TaskInfo)
		if info.State != types.TaskInfoStateRunning {
			return true
		}
		if states = append(states, info.Progress); info.Progress > 0 && len(s.OpenSnapshots()) > 0 {
			t.Error("the snapshot is still in the tree")
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	if passed := time.Since(begin); passed < 200*time.Millisecond || len(states) < 3 || !slices.IsSorted(states) {
		t.Errorf("after %v, having shown %v", passed, states)
	}
	var m mo.VirtualMachine
	if err := c.RetrieveOne(t.Context(), vm.Reference(), []string{"recentTask"}, &m); err != nil || !slices.Contains(m.RecentTask, task.Reference()) {
		t.Errorf("the server's recent tasks are %v: %v", m.RecentTask, err)
	}
}

func TestASlowSnapshotCanBeHurriedAndEndsWithTheSimulator(t *testing.T) {
	cfg := one(DiskSpec{Size: mib})
	cfg.Servers[0].Quirks = Quirks{SnapshotTakes: time.Hour, ConsolidationTakes: time.Hour}
	s := start(t, cfg)
	c, vm := login(t, s), s.VM("web")
	begun := func(task *object.Task) {
		t.Helper()
		progress := func(changes []types.PropertyChange) bool { return changes[0].Val.(types.TaskInfo).Progress > 0 }
		if err := property.Wait(t.Context(), property.DefaultCollector(c.Client), task.Reference(), []string{"info"}, progress); err != nil {
			t.Fatal(err)
		}
	}
	task, err := machineOf(c, vm).CreateSnapshot(t.Context(), "s", "", false, false)
	if err != nil {
		t.Fatal(err)
	}
	begun(task)
	if open := s.OpenSnapshots(); len(open) > 0 {
		t.Errorf("it was taken too early: %v", open)
	}
	vm.Hurry()
	if err := task.Wait(t.Context()); err != nil || !slices.Equal(s.OpenSnapshots(), []string{"web/s"}) {
		t.Errorf("hurried: %v, %v", err, s.OpenSnapshots())
	}
	task, err = machineOf(c, vm).RemoveSnapshot(t.Context(), "s", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	begun(task)
	if err := s.Close(); err != nil { // does not wait for an hour
		t.Error(err)
	}
}

func TestAnswersComeLate(t *testing.T) {
	s, c, _ := frozenOn(t, Config{Latency: Latency{Call: 60 * time.Millisecond, File: 40 * time.Millisecond}}, noise(1, mib))
	timed := func(f func()) time.Duration {
		begin := time.Now()
		f()
		return time.Since(begin)
	}
	read := func() {
		if status, _, _ := get(t, s, flatFile, "bytes=0-0", nil); status != 206 {
			t.Errorf("status %d", status)
		}
	}
	call := func() {
		if err := c.RetrieveOne(t.Context(), c.ServiceContent.RootFolder, []string{"name"}, &mo.Folder{}); err != nil {
			t.Error(err)
		}
	}
	if d := timed(call); d < 60*time.Millisecond {
		t.Errorf("a call took %v", d)
	}
	if d := timed(read); d < 40*time.Millisecond {
		t.Errorf("a file took %v", d)
	}
	s.SetLatency(0, 0)
	if err := s.SetDatastoreLatency("datastore1", 80*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if d := timed(read); d < 80*time.Millisecond {
		t.Errorf("a file of a slow datastore took %v", d)
	}
	if err := s.SetDatastoreLatency("x", 1); err == nil {
		t.Error("a datastore that does not exist became slow")
	}
	s.SetLatency(time.Hour, time.Hour)
	done := make(chan error, 1)
	go func() {
		_, err := c.SessionManager.UserSession(t.Context())
		if err == nil {
			err = c.RetrieveOne(t.Context(), c.ServiceContent.RootFolder, []string{"name"}, &mo.Folder{})
		}
		done <- err
	}()
	if err := s.Close(); err != nil { // does not wait for an hour
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a closed simulator answered")
	}
}

func TestAHostServesOnlySoManyFilesAtATime(t *testing.T) {
	s, c, h := frozenOn(t, Config{HostTransfers: 2}, noise(1, 8*mib))
	// A client that does not read keeps its transfer: 8 MiB are more than sockets take.
	var open []*http.Response
	for range 2 {
		ticket, u, err := ticketFor(t, c, h.ip, "httpGet", flatFile)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(u, h.ip, h.Address(), 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(&http.Cookie{Name: ticketCookie, Value: ticket.Id})
		res, err := h.client(t).Do(req)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v, %v", res, err)
		}
		open = append(open, res)
	}
	if status, body, _ := get(t, s, flatFile, "bytes=0-0", nil); status != 503 || !strings.Contains(string(body), "out of HTTP sessions") {
		t.Errorf("a third transfer, through vCenter: status %d, %s", status, body)
	}
	if err := s.Move("web", "esx-2.example.com", ""); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, s, flatFile, "bytes=0-0", nil); status != 206 {
		t.Errorf("through another host: status %d", status)
	}
	if err := s.Move("web", "esx-1.example.com", ""); err != nil {
		t.Fatal(err)
	}
	for _, res := range open {
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	for status := 503; status != 206; { // the host notices that the clients are gone
		if status, _, _ = get(t, s, flatFile, "bytes=0-0", nil); t.Context().Err() != nil {
			t.Fatal("the transfers are never given back")
		}
	}
	if len(s.Refused()) > 0 {
		t.Error(s.Refused())
	}
}
