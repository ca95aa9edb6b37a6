package vcenter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

func TestAScriptDecidesAboutCalls(t *testing.T) {
	folder := func(path string) Call { return Call{Method: "GET /folder", Path: path} }
	snapshot := Call{Method: "CreateSnapshot_Task", Object: types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-7"}}
	task := snapshot
	task.Task = true
	for _, test := range []struct {
		name, script string
		calls        []Call
		want         []string // the errors, "" for none
	}{
		{"by their turn", "GET /folder @2-3: 503", []Call{folder("a"), folder("b"), folder("c"), folder("d")}, []string{"", "HTTP status 503", "HTTP status 503", ""}},
		{"from a turn on", "GET /folder @2-: drop", []Call{folder("a"), folder("b"), folder("c")}, []string{"", "connection dropped", "connection dropped"}},
		{"every so often", "* @every 2: drop", []Call{folder("a"), snapshot, folder("c"), snapshot}, []string{"", "connection dropped", "", "connection dropped"}},
		{"each of them", "HEAD /folder: 404", []Call{folder("a"), {Method: "HEAD /folder"}, {Method: "HEAD /folder"}}, []string{"", "HTTP status 404", "HTTP status 404"}},
		{"by the file, counting only its own", "GET /folder path=*-flat.vmdk @2: after 1000 drop",
			[]Call{folder("w/w-flat.vmdk"), folder("w/w.vmdk"), folder("w/w-flat.vmdk")}, []string{"", "", "connection dropped after 1000 bytes"}},
		{"by a file with blanks and colons", `GET /folder path="my web/a: b.vmdk": 500`, []Call{folder("my web/a: b.vmdk"), folder("my")}, []string{"HTTP status 500", ""}},
		{"by the host", "GET /folder host=esx-1*: 500", []Call{folder("a"), {Method: "GET /folder", Host: "esx-1.example.com"}}, []string{"", "HTTP status 500"}},
		{"by the object", "CreateSnapshot_Task object=vm-7: fault FileLocked it is\tlocked\nCreateSnapshot_Task object=VirtualMachine:vm-*: 500",
			[]Call{snapshot, {Method: "CreateSnapshot_Task"}}, []string{"it is locked (*types.FileLocked)", ""}},
		{"tasks apart from calls", "CreateSnapshot_Task @1 task: fault FileFault", []Call{snapshot, task, task}, []string{"", "The fault FileFault was asked for. (*types.FileFault)", ""}},
		{"the first rule that fits", "\n# comment\n  Login: answer lost \nLogin: 500", []Call{{Method: "Login"}}, []string{"answer lost"}},
		{"not at all", "# nothing\n\n", []Call{folder("a")}, []string{""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fault, err := ParseScript(test.script)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range test.calls {
				c.Context = t.Context()
				text := ""
				if err := fault(c); err != nil {
					text = err.Error()
				}
				got = append(got, text)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAScriptsLatencyEndsWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault, err := ParseScript("GET /nfc: latency 200ms\n*: latency 1s\nGET /nfc @2: 500")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		call := Call{Method: "GET /nfc", Context: t.Context()}
		if err := fault(call); err != nil || time.Since(begin) != 1200*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		begin = time.Now()
		if err := fault(call); !errors.Is(err, HTTPStatus(500)) || time.Since(begin) != 1200*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		call.Context = ctx
		begin = time.Now()
		if err := fault(call); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

func TestScriptsThatCannotBeUnderstoodNameTheLine(t *testing.T) {
	for script, want := range map[string]string{
		"Login: 500\nGET: 500":                   "line 2: GET needs a place",
		": 500":                                  "it names no call",
		"Login":                                  "it lacks what shall happen",
		"Login:500":                              "it lacks what shall happen",
		"Login: ":                                "is none of <status",
		"Login: 200":                             "is none of <status",
		"Login: explode":                         `"explode" is none of`,
		"Login: after x drop":                    `"x" is not a number of bytes`,
		"Login: after -1 drop":                   `"-1" is not a number of bytes`,
		"Login: latency soon":                    `"soon" is not a duration`,
		"Login: latency -1s":                     `"-1s" is not a duration`,
		"Login: fault Nonsense":                  `there is no vSphere fault "Nonsense"`,
		"Login: fault VirtualMachine":            `there is no vSphere fault "VirtualMachine"`,
		"Login: fault VirtualDisk":               `"VirtualDisk" is not a vSphere fault`,
		"GET /folder: fault FileFault":           "a file is not answered",
		"Login @0: 500":                          `"0" is not a number from 1`,
		"Login @5-3: 500":                        "@5-3 ends before it begins",
		"Login @-3: 500":                         `"" is not a number from 1`,
		"Login @every: 500":                      "@every needs a number",
		"Login @every x: 500":                    `"x" is not a number from 1`,
		"Login often: 500":                       `"often" is none of task`,
		"Login path=: 500":                       `"path=" is none of task`,
		`GET /folder path="a: 500`:               "a quote is not closed",
		"CreateSnapshot_Task task: answer lost":  "a task cannot end by",
		"CreateSnapshot_Task task: after 5 drop": "a task cannot end by",
	} {
		if _, err := ParseScript(script); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "fault script, line ") {
			t.Errorf("%q: %v", script, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "x/y", true}, {"a*", "abc", true}, {"*c", "abc", true},
		{"a*c", "abc", true}, {"a*c", "ac", true}, {"a*a", "a", false}, {"*b*", "abc", true}, {"a*b*c", "a-b-b-c", true},
		{"a*b*c", "acb", false}, {"b*", "ab", false}, {"**", "a", true}, {"*ab*b", "ab", false},
	} {
		if got := matches(test.pattern, test.text); got != test.want {
			t.Errorf("%q matches %q: %v", test.pattern, test.text, got)
		}
	}
}

func TestAScriptRunsAgainstAClient(t *testing.T) {
	fault, err := ParseScript("CreateSnapshot_Task task @1: fault FileLocked busy\nGET /folder path=*-flat.vmdk @1: 503")
	if err != nil {
		t.Fatal(err)
	}
	s, vm := failing(t, fault)
	c := login(t, s)
	task, err := machineOf(c, vm).CreateSnapshot(t.Context(), "s", "", false, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Wait(t.Context()); !faultOf[*types.FileLocked](err) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("the first snapshot: %v", err)
	}
	snapshotNow(t, c, vm, "s")
	for _, want := range []int{503, 206} {
		if status, _, _ := get(t, s, flatFile, "bytes=0-0", nil); status != want {
			t.Errorf("status %d, want %d", status, want)
		}
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add("GET /folder path=*-flat.vmdk @3-5: after 1000 drop\n* @every 7: drop")
	f.Add("CreateSnapshot_Task @1 task: fault FileFault\nLogin: answer lost\n# x\nGET /nfc: latency 1ns")
	f.Add(`GET /folder path="a b\": c" host=x object=y @2-: 503`)
	f.Fuzz(func(t *testing.T, text string) {
		fault, err := ParseScript(text)
		if err != nil {
			var line int
			if n, scan := fmt.Sscanf(err.Error(), "fault script, line %d:", &line); n != 1 || scan != nil || line < 1 || line > strings.Count(text, "\n")+1 {
				t.Fatalf("the error %q names no line", err)
			}
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // latencies end at once
		for _, method := range []string{"GET /folder", "GET /nfc", "Login", "CreateSnapshot_Task"} {
			for _, task := range []bool{false, true} {
				err := fault(Call{Context: ctx, Method: method, Path: "web/web-flat.vmdk", Task: task})
				if f := (SOAPFault{}); errors.As(err, &f) && (f.Fault == nil || f.Message == "") {
					t.Fatalf("%q answers with an empty fault", text)
				}
			}
		}
	})
}
