package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"skylift/controlplane/replication"
	"skylift/internal/need"
	"skylift/internal/problem"

	"skylift/staging/stagingtest"
)

func TestEveryRunOfAChangingDiskIsBuiltByteForByte(t *testing.T) {
	t.Parallel()
	for seed, size := range []int64{17*mib + 4096 + 100, blockSize, 3, 9*mib + 512, 6 * mib} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, stagingtest.NewMemory(), "disk", size, uint64(seed))
			dir := t.TempDir()
			for n := range 7 {
				g.live()
				if n == 4 {
					g.size += 3*mib + 77
				}
				run := g.stage()
				l := newLocal(t, dir, g.store, Options{Parallel: 1 + n%4, VerifyLimit: int64(n%2*2 - 1)})
				built := build(t, l, run)
				if built.Image != ID(run.m.Run) {
					t.Errorf("the image's ID is %s", built.Image)
				}
			}
		})
	}
}

func TestAnImageIsWhereAPersonLooksForIt(t *testing.T) {
	t.Parallel()
	store, dir := stagingtest.NewMemory(), t.TempDir()
	g, h := newGuest(t, store, "one", 2*mib, 1), newGuest(t, store, "two", mib, 2)
	g.live()
	h.live()
	l := newLocal(t, dir, store, Options{})
	one, two := g.stage(), h.stage()
	built := build(t, l, one, two)
	if built.Image != "img-0001" || built.Disks[0].Image != filepath.Join(dir, "web-01-a/img-0001/0-Hard-disk-1.raw") {
		t.Errorf("the image is %s in %s", built.Image, built.Disks[0].Image)
	}
	if want := filepath.Join(dir, "web-01-a/img-0001/0-Hard-disk-1-"+two.m.Place().Disk+".raw"); built.Disks[1].Image != want {
		t.Errorf("the second disk of the same name is %s, not %s", built.Disks[1].Image, want)
	}
	p, err := os.ReadFile(filepath.Join(dir, "web-01-a/img-0001/image.json"))
	if err != nil {
		t.Fatal(err)
	}
	var record Record
	if err := json.Unmarshal(p, &record); err != nil {
		t.Fatal(err)
	}
	if d := record.Disks[1]; record.Run != one.m.Run || record.ServerName != "web 01/a" || d.Disk != "two" ||
		d.Size != mib || d.Digest != two.m.Digest || d.Manifest != two.sum || d.Consistency != "crash" {
		t.Errorf("the record says %s", p)
	}
}

func TestQemuReadsAnImage(t *testing.T) {
	t.Parallel()
	program := need.Program(t, "qemu-img")
	g := newGuest(t, stagingtest.NewMemory(), "disk", 8*mib+512, 3)
	g.zstd = true
	g.write(0)
	g.write(9)
	g.stage()
	l := newLocal(t, t.TempDir(), g.store, Options{})
	build(t, l, g.runs[0])
	g.zero(0)
	g.write(4)
	run := g.stage()
	path := build(t, l, run).Disks[0].Image
	reference := filepath.Join(t.TempDir(), "reference")
	f, err := os.Create(reference)
	if err != nil {
		t.Fatal(err)
	}
	for b, p := range run.blocks {
		if _, err := f.WriteAt(p[:min(blockSize, g.size-b*blockSize)], b*blockSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(g.size), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "compare", "-s", "-f", "raw", "-F", "raw", path, reference).CombinedOutput(); err != nil {
		t.Errorf("qemu-img finds a difference: %s", out)
	}
	out, err := exec.Command(program, "info", "-f", "raw", "--output", "json", path).Output()
	var info struct {
		Virtual int64 `json:"virtual-size"`
		Actual  int64 `json:"actual-size"`
	}
	if err := errors.Join(err, json.Unmarshal(out, &info)); err != nil {
		t.Fatal(err)
	}
	if info.Virtual != g.size || info.Actual > 2*blockSize+64<<10 {
		t.Errorf("qemu-img sees %d bytes of which %d are allocated; two blocks hold data", info.Virtual, info.Actual)
	}
}

func TestABuildThatFailedAnywhereIsDoneAgain(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(cancel func()) error{
		"the store fails":      func(func()) error { return errors.New("no answer") },
		"the step is canceled": func(cancel func()) error { cancel(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, stagingtest.NewMemory(), "disk", 4*mib, 4)
			g.live()
			g.stage()
			g.live()
			run := g.stage()
			bases := quickDir(t)
			build(t, newLocal(t, bases, g.store, Options{}), g.runs[0])
			for call := int64(1); ; call++ {
				dir := quickDir(t)
				if err := os.CopyFS(dir, os.DirFS(bases)); err != nil {
					t.Fatal(err)
				}
				l := newLocal(t, dir, g.store, Options{Parallel: 2})
				ctx, cancel := context.WithCancel(t.Context())
				var calls atomic.Int64
				g.store.SetFault(func(stagingtest.Op, string) error {
					if calls.Add(1) == call {
						return fail(cancel)
					}
					return nil
				})
				_, err := l.Build(ctx, request(run), nil)
				cancel()
				g.store.SetFault(nil)
				if calls.Load() < call {
					if err != nil || call < 15 {
						t.Fatalf("without a fault, after %d calls: %v", call, err)
					}
					break
				}
				clean(t, dir)
				if err != nil && (problem.Of(err) != nil || len(images(t, dir)) != 1) {
					t.Fatalf("call %d: %v, images %v", call, err, images(t, dir))
				}
				if err == nil && name == "the store fails" {
					t.Fatalf("call %d failed, and the build did not", call)
				}
				build(t, l, run)
			}
		})
	}
}

func TestAnImageThatIsThereIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 4*mib, 6)
	g.live()
	run := g.stage()
	l := newLocal(t, t.TempDir(), g.store, Options{})
	first := build(t, l, run)
	g.store.SetFault(func(op stagingtest.Op, key string) error { return errors.New("nothing need be read") })
	if again := build(t, l, run); again.Disks[0].Image != first.Disks[0].Image {
		t.Errorf("the second build made %+v of %+v", again, first)
	}
	g.store.SetFault(nil)
	if err := os.WriteFile(filepath.Join(filepath.Dir(first.Disks[0].Image), recordName), []byte("{}"), 0o640); err != nil {
		t.Fatal(err)
	}
	build(t, l, run)
	if err := os.Remove(first.Disks[0].Image); err != nil {
		t.Fatal(err)
	}
	build(t, l, run)
}

func TestAttemptsAtOnceMakeOneImage(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 4*mib, 7)
	g.live()
	run := g.stage()
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		l := newLocal(t, dir, g.store, Options{})
		wg.Go(func() {
			// One that loses the race to the image's name is tried again.
			if _, err := l.Build(t.Context(), request(run), nil); err != nil && problem.Of(err) != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	build(t, newLocal(t, dir, g.store, Options{}), run)
	if got := images(t, dir); len(got) != 1 {
		t.Errorf("there are the images %v", got)
	}
}

func TestAnImageThatAnotherAttemptMadeMeanwhileIsTaken(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 4*mib, 7)
	g.live()
	run := g.stage()
	dir := t.TempDir()
	var faster os.FileInfo
	built, err := newLocal(t, dir, g.store, Options{}).Build(t.Context(), request(run), func(int) {
		if faster != nil {
			return
		}
		other, err := newLocal(t, dir, g.store, Options{}).Build(t.Context(), request(run), nil)
		must(t, err)
		faster, err = os.Stat(other.Disks[0].Image)
		must(t, err)
	})
	must(t, err)
	info, err := os.Stat(built.Disks[0].Image)
	if err != nil || !os.SameFile(info, faster) {
		t.Errorf("the image that was there was replaced: %v", err)
	}
	clean(t, dir)
}

func TestWhatALivingAttemptMakesIsSpared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	alive, err := shelf{dir}.begin("sms-run-1", 1)
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, workName, "img-2-1-1234")
	if err := os.MkdirAll(filepath.Join(dead, "deeper"), 0o750); err != nil {
		t.Fatal(err)
	}
	other, err := shelf{dir}.begin("sms-run-1", 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(alive.path); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dead); !isGone(err) {
		t.Errorf("the dead attempt is there: %v", err)
	}
	if err := errors.Join(alive.close(), other.close()); err != nil {
		t.Error(err)
	}
	clean(t, dir)
}

func TestARetiredImageIsGone(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 4*mib, 8)
	dir := t.TempDir()
	l := newLocal(t, dir, g.store, Options{})
	for range 2 {
		g.live()
		build(t, l, g.stage())
	}
	row := replication.ImageRow{Job: testJob, Run: g.runs[0].m.Run, Image: ID(g.runs[0].m.Run)}
	for range 2 {
		if err := l.Retire(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		if got := images(t, dir); len(got) != 1 || got[0] != ID(g.runs[1].m.Run) {
			t.Errorf("images %v are left", got)
		}
		clean(t, dir)
	}
	row = replication.ImageRow{Job: testJob, Run: g.runs[1].m.Run, Image: ID(g.runs[1].m.Run)}
	if err := l.Retire(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder still holds %v: %v", entries, err)
	}
	for _, id := range []string{"../../etc", "/etc", "ami-123", "", "img-0009"} {
		row.Image = id
		if err := l.Retire(t.Context(), row); !problem.Has(err, NotRetired) {
			t.Errorf("removing %q is answered with %v", id, err)
		}
	}
	row.Run, row.Image = "../x", "img-../x"
	if err := l.Retire(t.Context(), row); !problem.Has(err, NotRetired) {
		t.Errorf("removing %q is answered with %v", row.Image, err)
	}
}

func TestABaseThatIsNotWhatItWasIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		harm func(t *testing.T, g *guest, folder, file string)
		want *problem.Kind
	}{
		"its folder is gone": {func(t *testing.T, _ *guest, folder, _ string) { must(t, os.RemoveAll(folder)) }, replication.BaseGone},
		"its record is gone": {func(t *testing.T, _ *guest, folder, _ string) {
			must(t, os.Remove(filepath.Join(folder, recordName)))
		}, replication.BaseGone},
		"its record is broken": {func(t *testing.T, _ *guest, folder, _ string) {
			must(t, os.WriteFile(filepath.Join(folder, recordName), []byte(`{"format":"x"}`), 0o640))
		}, replication.BaseGone},
		"its record names another digest": {func(t *testing.T, g *guest, folder, _ string) {
			r, err := readRecord(folder)
			must(t, err)
			r.Disks[0].Digest[3] ^= 1
			must(t, r.write(folder))
		}, replication.BaseChanged},
		"its file is gone":    {func(t *testing.T, _ *guest, _, file string) { must(t, os.Remove(file)) }, replication.BaseGone},
		"its file was cut":    {func(t *testing.T, _ *guest, _, file string) { must(t, os.Truncate(file, mib)) }, replication.BaseGone},
		"a machine ran on it": {func(t *testing.T, _ *guest, _, file string) { must(t, scribble(file, 5*blockSize+3)) }, replication.BaseGone},
		"a bit of it rotted": {func(t *testing.T, _ *guest, _, file string) {
			info, err := os.Stat(file)
			must(t, err)
			must(t, scribble(file, 5*blockSize+3))
			must(t, os.Chtimes(file, info.ModTime(), info.ModTime()))
		}, replication.BaseGone},
		"its manifest is gone": {func(t *testing.T, g *guest, _, _ string) {
			g.drop(g.runs[0].m.Place().Manifest())
		}, replication.BaseGone},
		"its manifest is another": {func(t *testing.T, g *guest, _, _ string) {
			run := g.runs[0]
			run.m.Software = "another"
			g.seal(&run)
		}, replication.BaseGone},
		"a shard of its map is gone": {func(t *testing.T, g *guest, _, _ string) {
			g.drop(g.runs[0].m.Place().Map(0, g.runs[0].m.Shards[0].Sum))
		}, replication.BaseGone},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, stagingtest.NewMemory(), "disk", 5*mib, 10)
			for b := range int64(8) {
				g.write(b)
			}
			dir := t.TempDir()
			l := newLocal(t, dir, g.store, Options{})
			file := build(t, l, g.stage()).Disks[0].Image
			g.write(2)
			run := g.stage()
			test.harm(t, g, filepath.Dir(file), file)
			_, err := l.Build(t.Context(), request(run), nil)
			if !problem.Has(err, test.want) {
				t.Errorf("the build ends with %v", err)
			}
			clean(t, dir)
			if len(images(t, dir)) > 1 {
				t.Error("an image was made")
			}
		})
	}
	t.Run("a machine ran on one that is too large to be read back", func(t *testing.T) {
		g := newGuest(t, stagingtest.NewMemory(), "disk", 5*mib, 10)
		g.write(5)
		l := newLocal(t, t.TempDir(), g.store, Options{VerifyLimit: -1})
		file := build(t, l, g.stage()).Disks[0].Image
		must(t, scribble(file, 5*blockSize+3))
		g.write(2)
		if _, err := l.Build(t.Context(), request(g.stage()), nil); !problem.Has(err, replication.BaseGone) {
			t.Errorf("the build ends with %v", err)
		}
	})
}

// scribble changes a byte of a file.
func scribble(path string, off int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		// Images are read-only to all but root.
		if err := os.Chmod(path, 0o640); err != nil {
			return err
		}
		if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	var p [1]byte
	_, err = f.ReadAt(p[:], off)
	p[0] ^= 1
	_, werr := f.WriteAt(p[:], off)
	return errors.Join(err, werr, f.Close())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
