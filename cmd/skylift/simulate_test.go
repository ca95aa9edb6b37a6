package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"skylift/cmd/internal/daemon"
)

// standIn is a "skylift simulate vcenter" that runs.
type standIn struct {
	url            *url.URL
	user, password string
	hosts          []string
	client         http.Client
}

func serveVCenter(t *testing.T, lines int, args ...string) *standIn {
	t.Helper()
	certificate := filepath.Join(t.TempDir(), "vcenter.crt")
	args = append([]string{"simulate", "vcenter", "--listen", "127.0.0.1:0", "--certificate", certificate, "--size", "1"}, args...)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("the simulator did not end cleanly: %v", err)
		}
	})
	s := &standIn{}
	said := bufio.NewScanner(out)
	for range lines {
		if !said.Scan() {
			t.Fatalf("the simulator said no more than %+v", s)
		}
		name, value, _ := strings.Cut(said.Text(), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "URL":
			s.url, err = url.Parse(value)
		case "user":
			s.user = value
		case "password":
			s.password = value
		case "host":
			s.hosts = append(s.hosts, value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pem, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true} // which are asked again
	s.client.Transport = transport
	return s
}

// get asks for a file of datastore1 and returns the status; 0 for no answer.
func (s *standIn) get(t *testing.T, dc, file string) int {
	t.Helper()
	u := *s.url
	u.Path, u.RawQuery = "/folder/"+file, url.Values{"dcPath": {dc}, "dsName": {"datastore1"}}.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(s.user, s.password)
	res, err := s.client.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func TestASimulatedVCenterDoesWhatItsFlagsSay(t *testing.T) {
	script := filepath.Join(t.TempDir(), "faults.txt")
	if err := os.WriteFile(script, []byte("# twice\nGET /folder path=server-001/* @2: 503\nGET /folder path=server-001/* @3: drop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveVCenter(t, 6, "--servers", "2", "--fault-script", script, "--denied", "Datastore.Browse@elsewhere", "--latency", "1ms", "--host-transfers", "4")
	if len(s.hosts) != 2 || !strings.HasPrefix(s.hosts[0], "esx-1.example.com at 127.0.0.1:") || strings.Contains(s.hosts[1], s.url.Host) {
		t.Errorf("the hosts are %q", s.hosts)
	}
	for n, want := range []int{200, 503, 0, 200} {
		if status := s.get(t, "DC0", "server-001/server-001.vmdk"); status != want {
			t.Errorf("the %d. file is answered with %d, want %d", n+1, status, want)
		}
	}
	if status := s.get(t, "DC0", "server-002/server-002.vmdk"); status != 200 {
		t.Errorf("another server's file is answered with %d", status)
	}
}

func TestASimulatedHostDoesWhatItsFlagsSay(t *testing.T) {
	s := serveVCenter(t, 5, "--standalone", "--servers", "1", "--deltas", "vmfsSparse", "--lease-timeout", "1m", "--denied", "Datastore.Browse@datastore1", "--locked")
	if s.user != "root" || len(s.hosts) != 1 || !strings.Contains(s.hosts[0], s.url.Host) {
		t.Errorf("it is %+v", s)
	}
	if status := s.get(t, "ha-datacenter", "server-001/server-001.vmdk"); status != 403 {
		t.Errorf("without the privilege, a file is answered with %d", status)
	}
}

func TestSimulatorsThatCannotBeStartedSayWhy(t *testing.T) {
	script := filepath.Join(t.TempDir(), "faults.txt")
	if err := os.WriteFile(script, []byte("Login: 500\nLogin: explode\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a rule that is none":      {[]string{"--fault-script", script}, "line 2"},
		"a script that is missing": {[]string{"--fault-script", script + ".x"}, "no such file"},
		"a negative latency":       {[]string{"--latency", "-1s"}, "negative"},
		"a lease without time":     {[]string{"--lease-timeout", "0s"}, "more than nothing"},
		"a format that is none":    {[]string{"--deltas", "qcow2"}, "sesparse or vmfsSparse"},
		"a negative limit":         {[]string{"--host-transfers", "-1"}, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			r := skylift(t, nil, append([]string{"simulate", "vcenter"}, test.args...)...).want(t, daemon.ExitUsage)
			if !strings.Contains(r.errors, test.want) {
				t.Errorf("it says %q", r.errors)
			}
		})
	}
}

// TestTheHelpsScriptWorks keeps the example in the help text honest.
func TestTheHelpsScriptWorks(t *testing.T) {
	var script []string
	for line := range strings.Lines(simulateVCenterCommand().Long) {
		if rule, ok := strings.CutPrefix(line, "  "); ok && !strings.HasPrefix(rule, "skylift") && !strings.HasPrefix(rule, "  ") {
			script = append(script, rule)
		}
	}
	file := filepath.Join(t.TempDir(), "faults.txt")
	if err := os.WriteFile(file, []byte(strings.Join(script, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := (simulation{faults: file, deltas: "sesparse", lease: time.Minute}).config(); err != nil || c.Fault == nil || len(script) != 9 {
		t.Errorf("of %d lines: %v", len(script), err)
	}
}
