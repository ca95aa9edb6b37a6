package vcenter

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// failing starts a server whose calls fail as fail says, once it is set.
func failing(t *testing.T, fail func(Call) error) (*Server, *VM) {
	cfg := one(DiskSpec{Size: 4 * mib})
	cfg.Fault = fail
	s := start(t, cfg)
	return s, s.VM("web")
}

func TestACallFailsInTheWayThatWasAskedFor(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		is   func(error) bool
		done bool // although the client does not know
	}{
		{"with a vSphere fault", SOAPFault{&types.TaskInProgress{}, "busy & waiting"}, func(err error) bool {
			return faultOf[types.TaskInProgress](err) && strings.Contains(err.Error(), "busy & waiting")
		}, false},
		{"with any error", errors.New("disk on fire"), func(err error) bool { return faultOf[types.SystemErrorFault](err) }, false},
		{"with a status", HTTPStatus(503), func(err error) bool { return strings.Contains(err.Error(), "503") }, false},
		{"by a dropped connection", ErrDropped, isDropped, false},
		{"by a dropped connection in the midst", DropAfter(10), isDropped, false},
		{"by losing the answer", ErrAnswerLost, isDropped, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			events := make(chan Call, 10)
			s, vm := failing(t, func(c Call) error {
				if c.Method != "CreateSnapshot_Task" || c.Task {
					return nil
				}
				events <- c
				if c.N > 1 {
					return nil
				}
				return test.err
			})
			c := login(t, s)
			_, err := machineOf(c, vm).CreateSnapshot(t.Context(), "first", "", false, false)
			if err == nil || !test.is(err) {
				t.Errorf("the error is %v", err)
			}
			if call := <-events; call.Object != vm.Reference() || call.N != 1 || call.Total < 2 {
				t.Errorf("asked about %+v", call)
			}
			snapshotNow(t, c, vm, "second") // waits for the first, if that was begun
			want := []string{"web/second"}
			if test.done {
				want = []string{"web/first", "web/second"}
			}
			if open := s.OpenSnapshots(); !slices.Equal(open, want) {
				t.Errorf("open snapshots %v, want %v", open, want)
			}
			if calls := s.Calls(); calls["CreateSnapshot_Task"] != 2 || calls["CreateSnapshot_Task (task)"] != len(want) {
				t.Errorf("calls %v", calls)
			}
		})
	}
}

func isDropped(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "connection reset")
}

func TestATaskFailsInTheWayThatWasAskedFor(t *testing.T) {
	s, vm := failing(t, func(c Call) error {
		if c.Task {
			return SOAPFault{&types.FileLocked{}, "locked"}
		}
		return nil
	})
	c := login(t, s)
	res, err := methods.CreateSnapshot_Task(t.Context(), c, &types.CreateSnapshot_Task{This: vm.Reference(), Name: "s"})
	if err := waitTask(t, c, res.Returnval, err); !faultOf[*types.FileLocked](err) {
		t.Errorf("the task ended with %v", err)
	}
	if open := s.OpenSnapshots(); len(open) > 0 {
		t.Errorf("open snapshots %v", open)
	}
}

func TestAFileFailsInTheWayThatWasAskedFor(t *testing.T) {
	var fail error
	cfg := one(DiskSpec{Size: 8 * mib})
	cfg.Fault = func(c Call) error {
		if c.Method == "GET /folder" && c.Path == "web/web-flat.vmdk" {
			return fail
		}
		return nil
	}
	s := start(t, cfg)
	snapshotNow(t, login(t, s), s.VM("web"), "s")
	fetch := func() (int, int, error) {
		u := object.NewDatastoreURL(*s.URL, "DC0", "datastore1", "web/web-flat.vmdk")
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(s.User, s.Password)
		client := http.Client{Transport: soapClient(t, s).DefaultTransport()}
		defer client.CloseIdleConnections()
		res, err := client.Do(r)
		if err != nil {
			return 0, 0, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, len(body), err
	}
	fail = HTTPStatus(429)
	if status, _, err := fetch(); status != 429 || err != nil {
		t.Errorf("status %d: %v", status, err)
	}
	fail = errors.New("x")
	if status, _, err := fetch(); status != 500 || err != nil {
		t.Errorf("status %d: %v", status, err)
	}
	fail = ErrDropped
	if _, _, err := fetch(); err == nil || !isDropped(err) {
		t.Errorf("a dropped connection: %v", err)
	}
	fail = DropAfter(3*mib + 7)
	if status, n, err := fetch(); status != 200 || n != 3*mib+7 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("status %d, %d bytes: %v", status, n, err)
	}
	fail = nil
	if status, n, err := fetch(); status != 200 || n != 8*mib || err != nil {
		t.Errorf("status %d, %d bytes: %v", status, n, err)
	}
	v := s.VM("web").Disk(0).v
	if err := s.Close(); err != nil { // waits for the requests
		t.Error(err)
	}
	if v.pins != 0 {
		t.Errorf("%d views of the disk are left open", v.pins)
	}
}

func TestAStalledCallEndsWithItsClientAndWithTheSimulator(t *testing.T) {
	stalled := make(chan struct{}, 2)
	s, vm := failing(t, func(c Call) error {
		if c.Method != "QueryChangedDiskAreas" {
			return nil
		}
		stalled <- struct{}{}
		<-c.Context.Done()
		return c.Context.Err()
	})
	c := login(t, s)
	ask := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := methods.QueryChangedDiskAreas(ctx, c, &types.QueryChangedDiskAreas{This: vm.Reference(), ChangeId: "*"})
			done <- err
		}()
		<-stalled
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := ask(ctx)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the client gave up and got %v", err)
	}
	done = ask(t.Context())
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a call to a closed simulator was answered")
	}
}

// TestEverySingleCallOfASnapshotsLifeCanFail is the loop that suites of clients
// are made of: the n-th call fails, for every n, and nothing hangs.
func TestEverySingleCallOfASnapshotsLifeCanFail(t *testing.T) {
	life := func(fail int, how error) (calls int, err error) {
		s, vm := failing(t, func(c Call) error {
			if c.Total == fail {
				return how
			}
			return nil
		})
		c := login(t, s)
		task, err := machineOf(c, vm).CreateSnapshot(t.Context(), "s", "", false, false)
		if err == nil {
			err = task.Wait(t.Context())
		}
		for _, n := range s.Calls() {
			calls += n
		}
		return calls, err
	}
	total, err := life(0, nil)
	if err != nil || total < 5 {
		t.Fatalf("%d calls: %v", total, err)
	}
	for n := 3; n <= total; n++ { // the first two are the login
		if _, err := life(n, SOAPFault{&types.RuntimeFault{}, "no"}); err == nil && n < total {
			t.Errorf("call %d failed, and the client did not notice", n)
		}
	}
}
