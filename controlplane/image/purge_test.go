package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"skylift/controlplane/replication"
	"skylift/staging"
	"skylift/staging/stagingtest"
)

// threeShards stages runs of a disk of three shards, each of which writes into
// the shard that is named.
func threeShards(t *testing.T, shards ...int64) *guest {
	g := newGuest(t, stagingtest.NewMemory(), "disk", 3*staging.ShardSize, 40)
	for n := range int64(3) {
		g.write(n*staging.ShardBlocks + 7)
	}
	g.stage()
	for _, n := range shards {
		g.write(n*staging.ShardBlocks + 7)
		g.stage()
	}
	return g
}

func live(run staged1) replication.LiveDisk {
	return replication.LiveDisk{Run: run.m.Run, Key: run.m.Place().Disk, ManifestSHA256: run.sum[:]}
}

func dead(run staged1) replication.DeadRun {
	return replication.DeadRun{Run: run.m.Run, Data: true, State: true}
}

// under returns the keys that begin with prefix.
func under(store *stagingtest.Memory, prefix string) (keys []string) {
	for _, key := range store.Keys() {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestShardsThatLaterRunsReferToStay(t *testing.T) {
	t.Parallel()
	g := threeShards(t, 0, 1, 1)
	p := &Purger{g.store}
	r := replication.PurgeRequest{Job: testJob,
		Dead: []replication.DeadRun{dead(g.runs[0]), dead(g.runs[1]), dead(g.runs[2]), {Run: g.runs[3].m.Run, Data: true}},
		Live: []replication.LiveDisk{live(g.runs[3])}}
	for range 2 {
		left, err := p.Purge(t.Context(), r)
		must(t, err)
		// The last run wrote shard 1, the first keeps 2 for it, the second 0.
		if !slices.Equal(left, []string{g.runs[0].m.Run, g.runs[1].m.Run}) {
			t.Errorf("%v have something left", left)
		}
		want := []string{
			g.runs[0].m.Place().Map(2, g.last().m.Shards[2].Sum),
			g.runs[1].m.Place().Map(0, g.last().m.Shards[0].Sum),
			g.runs[3].m.Place().Manifest(),
			g.runs[3].m.Place().Map(1, g.last().m.Shards[1].Sum),
		}
		slices.Sort(want)
		if got := g.store.Keys(); !slices.Equal(got, want) {
			t.Errorf("staging holds\n%s\ninstead of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	var shard staging.Shard
	for n := range int64(3) {
		if err := g.last().m.ReadShard(t.Context(), g.store, n, &shard); err != nil {
			t.Error(err)
		}
	}
	// When nothing lives any more everything goes.
	left, err := p.Purge(t.Context(), replication.PurgeRequest{Job: testJob,
		Dead: []replication.DeadRun{dead(g.runs[0]), dead(g.runs[1]), dead(g.runs[3])}})
	if err != nil || left != nil || len(g.store.Keys()) > 0 {
		t.Errorf("%v have something left, staging holds %v: %v", left, g.store.Keys(), err)
	}
}

func TestOtherRunsAreLeftAlone(t *testing.T) {
	t.Parallel()
	store := stagingtest.NewMemory()
	spared := []string{
		"data/sms-job-1/sms-run-00010/disk/plan", "data/sms-job-10/sms-run-0001/disk/plan", "data/sms-job-1/sms-run-0001",
		"state/sms-job-1/sms-run-00010/disk/manifest", "state/sms-job-10/sms-run-0001/disk/manifest", "backup/sms-job-1/sms-run-0001/x",
	}
	for _, key := range append([]string{"data/sms-job-1/sms-run-0001/disk/plan", "state/sms-job-1/sms-run-0001/disk/manifest"}, spared...) {
		must(t, store.Put(t.Context(), key, []byte("x")))
	}
	left, err := (&Purger{store}).Purge(t.Context(), replication.PurgeRequest{Job: testJob,
		Dead: []replication.DeadRun{{Run: "sms-run-0001", Data: true, State: true}}})
	slices.Sort(spared)
	if err != nil || left != nil || !slices.Equal(store.Keys(), spared) {
		t.Errorf("staging holds %v: %v", store.Keys(), err)
	}
}

func TestManyObjectsAreDeletedInBatches(t *testing.T) {
	t.Parallel()
	store := stagingtest.NewMemory()
	for n := range 2*purgeBatch + 7 {
		must(t, store.Put(t.Context(), fmt.Sprintf("data/sms-job-1/sms-run-1/disk/segment-%08d", n), []byte("x")))
	}
	counter := &countingStore{Store: store}
	_, err := (&Purger{counter}).Purge(t.Context(), replication.PurgeRequest{Job: testJob, Dead: []replication.DeadRun{{Run: "sms-run-1", Data: true}}})
	if err != nil || len(store.Keys()) > 0 || !slices.Equal(counter.batches, []int{purgeBatch, purgeBatch, 7}) {
		t.Errorf("%d objects are left, deleted in batches of %v: %v", len(store.Keys()), counter.batches, err)
	}
}

func TestAPurgeThatFailedAnywhereIsDoneAgain(t *testing.T) {
	t.Parallel()
	for call := 1; ; call++ {
		g := threeShards(t, 0)
		r := replication.PurgeRequest{Job: testJob,
			Dead: []replication.DeadRun{dead(g.runs[0]), {Run: g.runs[1].m.Run, Data: true}},
			Live: []replication.LiveDisk{live(g.runs[1])}}
		calls := 0
		none := errors.New("no answer")
		g.store.SetFault(func(stagingtest.Op, string) error {
			if calls++; calls == call {
				return none
			}
			return nil
		})
		_, err := (&Purger{g.store}).Purge(t.Context(), r)
		g.store.SetFault(nil)
		if calls >= call && !errors.Is(err, none) {
			t.Fatalf("call %d: it ends with %v", call, err)
		}
		left, again := (&Purger{g.store}).Purge(t.Context(), r)
		if again != nil || !slices.Equal(left, []string{g.runs[0].m.Run}) || len(g.store.Keys()) != 4 {
			t.Fatalf("call %d: %v, %v are left: %v", call, left, g.store.Keys(), again)
		}
		if calls < call {
			must(t, err)
			return
		}
	}
}

func TestNoStateGoesUnlessAllThatLivesIsKnown(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(g *guest){
		"a living manifest is gone":     func(g *guest) { g.drop(g.last().m.Place().Manifest()) },
		"a living manifest is damaged":  func(g *guest) { g.spoil(g.last().m.Place().Manifest(), -3) },
		"a living manifest was changed": func(g *guest) { run := *g.last(); run.m.Software = "x"; g.seal(&run) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := threeShards(t, 0)
			r := replication.PurgeRequest{Job: testJob, Dead: []replication.DeadRun{dead(g.runs[0])}, Live: []replication.LiveDisk{live(*g.last())}}
			harm(g)
			before := under(g.store, "state/")
			if _, err := (&Purger{g.store}).Purge(t.Context(), r); err == nil {
				t.Error("it succeeds")
			}
			if got := under(g.store, "state/"); !slices.Equal(got, before) {
				t.Errorf("state holds %v instead of %v", got, before)
			}
			if got := under(g.store, staging.DataPrefix(testJob, g.runs[0].m.Run)); len(got) > 0 {
				t.Errorf("the dead run's data holds %v", got)
			}
		})
	}
}

func TestARequestThatCouldTakeTooMuchIsRefused(t *testing.T) {
	t.Parallel()
	g := threeShards(t)
	before := g.store.Keys()
	for _, r := range []replication.PurgeRequest{
		{Job: testJob, Dead: []replication.DeadRun{{Run: "", Data: true, State: true}}},
		{Job: "", Dead: []replication.DeadRun{dead(g.runs[0])}},
		{Job: testJob, Dead: []replication.DeadRun{{Run: "x/../" + g.runs[0].m.Run, Data: true}}},
		{Job: testJob, Dead: []replication.DeadRun{dead(g.runs[0])}, Live: []replication.LiveDisk{live(g.runs[0])}},
		{Job: testJob, Dead: []replication.DeadRun{{Run: g.runs[0].m.Run, State: true}}, Live: []replication.LiveDisk{{Run: "sms-run-2", Key: "disk"}}},
	} {
		if _, err := (&Purger{g.store}).Purge(t.Context(), r); err == nil || !slices.Equal(g.store.Keys(), before) {
			t.Errorf("%+v is answered with %v and leaves %v", r, err, g.store.Keys())
		}
	}
}

// skippingStore leaves every second object out of each listing, as a store
// may whose pages move when objects are deleted between them.
type skippingStore struct{ staging.Store }

func (s skippingStore) List(ctx context.Context, prefix string, emit func(staging.Object) error) error {
	n := 0
	return s.Store.List(ctx, prefix, func(o staging.Object) error {
		if n++; n%2 == 0 {
			return nil
		}
		return emit(o)
	})
}

func TestObjectsThatAListingSkippedGoToo(t *testing.T) {
	t.Parallel()
	store := stagingtest.NewMemory()
	for n := range 9 {
		must(t, store.Put(t.Context(), fmt.Sprintf("data/sms-job-1/sms-run-1/disk/segment-%08d", n), []byte("x")))
	}
	r := replication.PurgeRequest{Job: testJob, Dead: []replication.DeadRun{{Run: "sms-run-1", Data: true}}}
	if _, err := (&Purger{skippingStore{store}}).Purge(t.Context(), r); err != nil || len(store.Keys()) > 0 {
		t.Errorf("staging still holds %v: %v", store.Keys(), err)
	}
}

// keepingStore says that it deletes, and does not.
type keepingStore struct{ staging.Store }

func (keepingStore) Delete(context.Context, []string) error { return nil }

func TestAStoreThatDoesNotDeleteIsNoticed(t *testing.T) {
	t.Parallel()
	store := stagingtest.NewMemory()
	must(t, store.Put(t.Context(), "data/sms-job-1/sms-run-1/disk/plan", []byte("x")))
	r := replication.PurgeRequest{Job: testJob, Dead: []replication.DeadRun{{Run: "sms-run-1", Data: true}}}
	if _, err := (&Purger{keepingStore{store}}).Purge(t.Context(), r); err == nil {
		t.Error("it succeeds")
	}
}
