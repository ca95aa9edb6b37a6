package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"skylift/cmd/internal/daemon"
	"skylift/cmd/internal/try"
	"skylift/controlplane/image"
)

// TestMain builds the program that the tests run.
func TestMain(m *testing.M) { os.Exit(run(m)) }

var program string

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "skylift-built-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "skylift")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// result is how a command ended.
type result struct {
	code        int
	out, errors string
}

// skylift runs the program with variables besides the environment's.
func skylift(t *testing.T, variables []string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), variables...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want fails the test unless the command ended with the code.
func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d instead of %d\n%s%s", r.code, code, r.out, r.errors)
	}
	return r
}

func TestCommandsThatCannotBeUnderstoodExitWithTwo(t *testing.T) {
	for name, args := range map[string][]string{
		"a command that does not exist":       {"migrate"},
		"a flag that does not exist":          {"try", "--fast"},
		"an argument that nobody takes":       {"try", "now"},
		"verify without staging":              {"verify", "folder"},
		"verify without a run":                {"verify", "--s3", "s3://staging"},
		"verify of what is no image":          {"verify", "--s3", "s3://staging", "no-such-folder"},
		"restore without a file":              {"restore", "--s3", "s3://staging", "--job", "a", "--run", "b"},
		"a bucket that is none":               {"try", "--s3", "https://example.com"},
		"a real vCenter without servers":      {"try", "--vcenter", "https://vcenter.example.com"},
		"an S3 server without a directory":    {"simulate", "s3"},
		"a simulator that does not exist":     {"simulate", "mainframe"},
		"a control plane that has no address": {"run-controlplane", "serve", "--listen", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := skylift(t, nil, args...).want(t, daemon.ExitUsage)
			if !strings.HasPrefix(r.errors, "error: ") || r.out != "" {
				t.Errorf("it says %q and prints %q", r.errors, r.out)
			}
		})
	}
}

func TestATryIsVerifiedAndItsRunsCanBeRestored(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "kept")
	mine := filepath.Join(t.TempDir(), "mine.raw")
	content := writeDisk(t, mine)

	r := skylift(t, nil, "try", "--json", "--keep", keep, "--disk", mine).want(t, 0)
	var summary try.Summary
	decoder := json.NewDecoder(strings.NewReader(r.out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&summary); err != nil || decoder.More() {
		t.Fatalf("the summary cannot be read: %v\n%s", err, r.out)
	}
	checkSummary(t, summary)
	if after, err := os.ReadFile(mine); err != nil || !bytes.Equal(after, content) {
		t.Errorf("the disk image was modified (%v)", err)
	}

	variables := serveS3(t, filepath.Join(keep, "s3"))
	yours := summary.Servers[len(summary.Servers)-1]
	for n, run := range yours.Runs {
		folder, record := imageOf(t, keep, run.Run)
		if record.Job != yours.Job || len(record.Disks) != 1 {
			t.Fatalf("the image's record is %+v", record)
		}
		disk := filepath.Join(folder, record.Disks[0].File)
		if n == 0 {
			if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the first run's image is not the disk (%v)", err)
			}
		}
		skylift(t, variables, "verify", "--s3", "s3://staging", folder).want(t, 0)
		skylift(t, variables, "verify", "--s3", "s3://staging", "--job", yours.Job, "--run", run.Run).want(t, 0)
		restored := filepath.Join(t.TempDir(), "restored.raw")
		restore := []string{"restore", "--s3", "s3://staging", "--job", yours.Job, "--run", run.Run, "--out", restored}
		skylift(t, variables, restore...).want(t, 0)
		sameFile(t, restored, disk)
		skylift(t, variables, restore...).want(t, daemon.ExitFailed) // it exists
	}
	two := summary.Servers[1]
	r = skylift(t, variables, "restore", "--s3", "s3://staging", "--job", two.Job, "--run", two.Runs[0].Run, "--out", filepath.Join(t.TempDir(), "x")).want(t, daemon.ExitUsage)
	if !strings.Contains(r.errors, "--disk") {
		t.Errorf("which of two disks is to be restored is asked for with %q", r.errors)
	}

	folder, record := imageOf(t, keep, yours.Runs[1].Run)
	damage(t, filepath.Join(folder, record.Disks[0].File))
	r = skylift(t, variables, "verify", "--s3", "s3://staging", folder).want(t, daemon.ExitDiffer)
	if !strings.Contains(r.out, "DIFFERS") {
		t.Errorf("of the damaged image it says %q", r.out)
	}
	damageSegment(t, keep, yours.Job, yours.Runs[0].Run)
	skylift(t, variables, "verify", "--s3", "s3://staging", "--job", yours.Job, "--run", yours.Runs[0].Run).want(t, daemon.ExitDiffer)
}

// checkSummary holds the summary to what a try promises.
func checkSummary(t *testing.T, summary try.Summary) {
	t.Helper()
	if !summary.OK || len(summary.Problems) > 0 || len(summary.Servers) != 4 || summary.Seconds <= 0 {
		t.Fatalf("the summary is %+v", summary)
	}
	for _, s := range summary.Servers {
		if len(s.Runs) != 2 || s.Job == "" {
			t.Fatalf("server %s has %d runs of job %q", s.Name, len(s.Runs), s.Job)
		}
		for n, r := range s.Runs {
			kind := []string{"full", "incremental"}[n]
			if r.Kind != kind || r.State != "COMPLETED" || r.Verified != "source" || r.Transport != "datastore" || r.Consistency == "" || r.Image == "" {
				t.Errorf("run %d of %s: %+v", n, s.Name, r)
			}
			if r.BytesProvisioned <= 0 || r.BytesPlanned <= 0 || r.BytesRead <= 0 || r.BytesSent <= 0 || r.BytesStored <= 0 || r.Seconds <= 0 ||
				r.BytesSent > r.BytesPlanned || r.BytesPlanned > r.BytesProvisioned {
				t.Errorf("run %d of %s does not add up: %+v", n, s.Name, r)
			}
			if n == 1 && (r.BytesWritten <= 0 || float64(r.BytesSent) > 1.1*float64(r.BytesWritten)) {
				t.Errorf("run %d of %s sent %d bytes for %d that the guest changed", n, s.Name, r.BytesSent, r.BytesWritten)
			}
		}
	}
}

// writeDisk makes a small raw disk image: bytes, a hole, and a last block that is short.
func writeDisk(t *testing.T, path string) []byte {
	t.Helper()
	p := make([]byte, 24<<20+512*3)
	for _, at := range []int{0, 9 << 20, len(p) - 1<<20} {
		_, _ = rand.Read(p[at : at+1<<20])
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// imageOf finds the folder of a run's image.
func imageOf(t *testing.T, keep, run string) (string, image.Record) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(keep, "images", "*", "image.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range records {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var record image.Record
		if err := json.Unmarshal(p, &record); err != nil {
			t.Fatal(err)
		}
		if record.Run == run {
			return filepath.Dir(path), record
		}
	}
	t.Fatalf("run %s has no image among %q", run, records)
	return "", image.Record{}
}

// serveS3 runs "skylift simulate s3" and returns the variables that it prints.
func serveS3(t *testing.T, dir string) []string {
	t.Helper()
	cmd := exec.Command(program, "simulate", "s3", "--dir", dir, "--certificate", filepath.Join(t.TempDir(), "s3.crt"))
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
		if err := cmd.Wait(); err != nil {
			t.Errorf("the S3 server did not end cleanly: %v", err)
		}
	})
	var variables []string
	for lines := bufio.NewScanner(out); len(variables) < 5; {
		if !lines.Scan() {
			t.Fatalf("the S3 server printed no more than %q", variables)
		}
		v, ok := strings.CutPrefix(lines.Text(), "export ")
		if !ok {
			t.Fatalf("the S3 server printed %q", lines.Text())
		}
		variables = append(variables, strings.ReplaceAll(v, "'", ""))
	}
	return variables
}

func sameFile(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s differs from %s", got, want)
	}
}

// damage flips one bit in the middle of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p[len(p)/2] ^= 1
	// Images are read-only.
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, p, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// damageSegment flips one bit in a segment of a staged run.
func damageSegment(t *testing.T, keep, job, run string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(keep, "s3", "objects", "staging", "data", job, run, "*", "segment-*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("run %s has %d segments (%v)", run, len(segments), err)
	}
	damage(t, segments[0])
}
