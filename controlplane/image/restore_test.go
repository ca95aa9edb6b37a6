package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"skylift/internal/problem"
	"skylift/staging/stagingtest"
)

// aChain stages runs of a disk that changes, and grows once.
func aChain(t *testing.T, seed uint64, runs int) *guest {
	g := newGuest(t, stagingtest.NewMemory(), "disk", 8*mib+300, seed)
	for n := range runs {
		g.live()
		if n == 2 {
			g.size += 2*mib + 5
		}
		g.stage()
	}
	return g
}

// alone errs unless the folder holds the one file.
func alone(t *testing.T, folder, file string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != file {
		t.Errorf("the folder holds %v", entries)
	}
}

func TestEveryRunOfAStagedChainIsRestored(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		g := aChain(t, 20+seed, 6)
		var names []string
		for _, run := range g.runs {
			names = append(names, run.m.Run)
			dir := quickDir(t)
			last := 0
			done, err := Restore(t.Context(), g.store, run.m.Place(), filepath.Join(dir, "out.raw"), Restoring{
				Manifest: &run.sum, Parallel: 3,
				Progress: func(p int) {
					if p <= last {
						t.Errorf("the progress goes from %d to %d", last, p)
					}
					last = p
				}})
			must(t, err)
			compare(t, filepath.Join(dir, "out.raw"), run)
			alone(t, dir, "out.raw")
			if !slices.Equal(done.Runs, names) || done.Digest != run.m.Digest || done.Size != run.m.Disk.Size || done.Image != "" || last != 100 {
				t.Errorf("it restored %+v, percent %d", done, last)
			}
		}
	}
}

func TestAChainMayBeginWithAnImage(t *testing.T) {
	t.Parallel()
	g := aChain(t, 30, 5)
	images := t.TempDir()
	l := newLocal(t, images, g.store, Options{})
	for _, run := range g.runs[:3] {
		build(t, l, run)
	}
	for _, run := range g.runs[:3] { // what landed is purged
		place := run.m.Place()
		for _, key := range g.store.Keys() {
			if _, segment := place.ParseSegment(key); segment || key == place.Plan() {
				g.drop(key)
			}
		}
	}
	for n, run := range g.runs {
		dir := t.TempDir()
		done, err := Restore(t.Context(), g.store, run.m.Place(), filepath.Join(dir, "out.raw"), Restoring{Images: images})
		must(t, err)
		compare(t, filepath.Join(dir, "out.raw"), run)
		if first := min(n, 2); filepath.Base(filepath.Dir(done.Image)) != ID(g.runs[first].m.Run) || len(done.Runs) != n-first {
			t.Errorf("run %d was restored from %+v", n, done)
		}
	}
	for _, run := range g.runs {
		dir := t.TempDir()
		_, err := Restore(t.Context(), g.store, run.m.Place(), filepath.Join(dir, "out.raw"), Restoring{})
		if !problem.Has(err, ChainBroken) {
			t.Errorf("without images it ends with %v", err)
		}
	}
}

func TestAnImageThatHoldsSomethingElseIsPassedOver(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, file string){
		"another digest": func(t *testing.T, file string) {
			record, err := readRecord(filepath.Dir(file))
			must(t, err)
			record.Disks[0].Digest[0] ^= 1
			must(t, record.write(filepath.Dir(file)))
		},
		"no record": func(t *testing.T, file string) { must(t, os.Remove(filepath.Join(filepath.Dir(file), recordName))) },
		"no file":   func(t *testing.T, file string) { must(t, os.Remove(file)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := aChain(t, 35, 2)
			images := t.TempDir()
			harm(t, build(t, newLocal(t, images, g.store, Options{}), g.runs[0]).Disks[0].Image)
			out := filepath.Join(t.TempDir(), "out.raw")
			done, err := Restore(t.Context(), g.store, g.runs[1].m.Place(), out, Restoring{Images: images})
			must(t, err)
			compare(t, out, g.runs[1])
			if done.Image != "" || len(done.Runs) != 2 {
				t.Errorf("it restored from %+v", done)
			}
		})
	}
}

func TestABlockThatWasWrittenAgainIsNotMissed(t *testing.T) {
	t.Parallel()
	g := newGuest(t, stagingtest.NewMemory(), "disk", 32*blockSize, 31)
	for b := range int64(16) {
		g.write(b)
	}
	first := g.stage()
	for b := range int64(16) {
		g.write(b)
	}
	last := g.stage()
	g.drop(first.m.Place().Segment(0)) // all its blocks were written again
	out := filepath.Join(t.TempDir(), "out.raw")
	_, err := Restore(t.Context(), g.store, last.m.Place(), out, Restoring{})
	must(t, err)
	compare(t, out, last)
}

func TestARunThatCannotBeRestoredLeavesNoFile(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		harm func(t *testing.T, g *guest, images string)
		want *problem.Kind
	}{
		"the run is not staged": {func(_ *testing.T, g *guest, _ string) { g.drop(g.runs[3].m.Place().Manifest()) }, ChainBroken},
		"a plan is gone":        {func(_ *testing.T, g *guest, _ string) { g.drop(g.runs[2].m.Place().Plan()) }, ChainBroken},
		"a manifest in the chain is gone": {func(_ *testing.T, g *guest, _ string) {
			g.drop(g.runs[2].m.Place().Manifest())
		}, ChainBroken},
		"a manifest in the chain is another": {func(_ *testing.T, g *guest, _ string) {
			run := g.runs[2]
			run.m.Software = "another"
			g.seal(&run)
		}, Unrestorable},
		"the manifest is not the sealed one": {func(_ *testing.T, g *guest, _ string) {
			run := *g.last()
			run.m.Software = "another"
			g.seal(&run)
		}, Unrestorable},
		"a needed segment is gone": {func(_ *testing.T, g *guest, _ string) { g.drop(g.runs[3].m.Place().Segment(0)) }, Unrestorable},
		"a needed block is wrong": {func(_ *testing.T, g *guest, _ string) {
			g.spoil(g.runs[3].m.Place().Segment(0), -1)
		}, Unrestorable},
		"a shard is wrong": {func(_ *testing.T, g *guest, _ string) {
			g.spoil(g.runs[3].m.Place().Map(0, g.runs[3].m.Shards[0].Sum), -1)
		}, Unrestorable},
		"the image was written to": {func(t *testing.T, g *guest, images string) {
			must(t, scribble(filepath.Join(images, "web-01-a", ID(g.runs[1].m.Run), "0-Hard-disk-1.raw"), 5))
		}, Unrestorable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, stagingtest.NewMemory(), "disk", 8*mib+300, 32)
			for b := range int64(4) {
				g.write(b)
				g.write(16) // the last
				g.stage()
				g.zero(16)
				g.write(16 - b - 1)
			}
			images := t.TempDir()
			l := newLocal(t, images, g.store, Options{})
			g.write(16)
			build(t, l, g.runs[0])
			build(t, l, g.runs[1])
			sealed := g.last().sum
			test.harm(t, g, images)
			dir := t.TempDir()
			_, err := Restore(t.Context(), g.store, g.last().m.Place(), filepath.Join(dir, "out.raw"), Restoring{Images: images, Manifest: &sealed})
			if !problem.Has(err, test.want) {
				t.Errorf("it ends with %v", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("it leaves %v: %v", entries, err)
			}
		})
	}
}

func TestAFileThatIsThereIsNotReplaced(t *testing.T) {
	t.Parallel()
	g := aChain(t, 33, 1)
	out := filepath.Join(t.TempDir(), "out.raw")
	must(t, os.WriteFile(out, []byte("mine"), 0o600))
	if _, err := Restore(t.Context(), g.store, g.runs[0].m.Place(), out, Restoring{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("it ends with %v", err)
	}
	if p, err := os.ReadFile(out); err != nil || string(p) != "mine" {
		t.Errorf("the file holds %q: %v", p, err)
	}
}

func TestARestoreThatFailedAnywhereIsDoneAgain(t *testing.T) {
	t.Parallel()
	g := aChain(t, 34, 2)
	for call := int64(1); ; call++ {
		dir := quickDir(t)
		out := filepath.Join(dir, "out.raw")
		var calls atomic.Int64
		none := errors.New("no answer")
		g.store.SetFault(func(stagingtest.Op, string) error {
			if calls.Add(1) == call {
				return none
			}
			return nil
		})
		_, err := Restore(context.Background(), g.store, g.last().m.Place(), out, Restoring{})
		g.store.SetFault(nil)
		if calls.Load() < call {
			must(t, err)
			compare(t, out, *g.last())
			return
		}
		if !errors.Is(err, none) || problem.Of(err) != nil {
			t.Fatalf("call %d: it ends with %v", call, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Fatalf("call %d leaves %v: %v", call, entries, err)
		}
	}
}
