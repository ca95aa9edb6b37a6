package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"skylift/controlplane/replication"
	"skylift/internal/need"
	"skylift/internal/problem"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// killed is the environment variable that makes the test a builder that is
// killed at the call of the store that it names.
const killed = "SKYLIFT_TEST_KILLED_AT"

func TestABuilderThatWasKilledLeavesNothingInTheWay(t *testing.T) {
	g := newGuest(t, stagingtest.NewMemory(), "disk", 12*mib, 5)
	g.live()
	run := g.stage()
	if spec := os.Getenv(killed); spec != "" {
		dir, at, _ := strings.Cut(spec, ":")
		var calls atomic.Int64
		g.store.SetFault(func(stagingtest.Op, string) error {
			if fmt.Sprint(calls.Add(1)) == at {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		})
		build(t, newLocal(t, dir, g.store, Options{}), run)
		t.Fatal("the builder was not killed")
	}
	for _, at := range []int{1, 6, 9, 14, 19} {
		dir := t.TempDir()
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%d", killed, dir, at))
		out, err := child.CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatalf("the builder ended with %v: %s", err, out)
		}
		build(t, newLocal(t, dir, g.store, Options{}), run)
	}
}

func TestAFullFileSystemSaysWhatIsNeeded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		need.Missing(t, "a small file system cannot be mounted: %v", err)
		t.SkipNow()
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	g := newGuest(t, stagingtest.NewMemory(), "disk", 8*mib, 9)
	g.write(0)
	g.write(1)
	l := newLocal(t, dir, g.store, Options{})
	build(t, l, g.stage()) // 1 MiB; a copy of it fits too
	for b := range int64(4) {
		g.write(3 + b)
	}
	run := g.stage()
	_, err := l.Build(t.Context(), request(run), nil)
	if !problem.Has(err, DiskFull) || !strings.Contains(err.Error(), "0-Hard-disk-1.raw") || !strings.Contains(err.Error(), "up to 2097152 bytes") {
		t.Errorf("a full file system is answered with %v", err)
	}
	if !replication.FailureOf(err).Retry {
		t.Error("the run is not tried again")
	}
	clean(t, dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	build(t, l, run)
}

func TestADiskThatNoFileCanHoldIsRefusedForGood(t *testing.T) {
	t.Parallel()
	f, err := createRaw(filepath.Join(t.TempDir(), "disk.raw"), staging.MaxDiskSize)
	if err == nil {
		must(t, f.Close())
		t.Skip("this file system holds files of 64 TiB")
	}
	if !problem.Has(err, FileTooLarge) || replication.FailureOf(err).Retry {
		t.Errorf("it is answered with %v", err)
	}
}
