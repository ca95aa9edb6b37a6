package try

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/controlplane/api/sms"
	"skylift/internal/simulator/s3"
	"skylift/internal/simulator/vcenter"
)

// lab is a world for many cheap runs: small servers whose disks are read in
// all ways that there are, before a vCenter, a storage server and an NBD server
// that misbehave towards one of the servers and leave the others alone.
type lab struct {
	*world
	storage *s3.Server
	front   *s3.Front
	nbd     *nbdServer
	objects string // the folder of the storage server

	mu     sync.Mutex
	guests []*guest
	strays []string // faults of the lab's own
	count  map[string]int
}

// transport is a way to a disk's bytes, and what makes it the one that is taken.
type transport string

const (
	flat   transport = "flat"   // the datastore's plain files
	chain  transport = "chain"  // a foreign snapshot spreads the disks over several
	export transport = "export" // the datastore refuses its files
	nbdkit transport = "nbdkit" // and the host exports nothing
)

// told is the transport's name on a run.
func (t transport) told() string {
	if t == flat || t == chain {
		return "datastore"
	}
	return string(t)
}

// foreign is the name of others' snapshots.
const foreign = "foreign"

// spareHost runs no server at first.
const spareHost = "esx-spare.example.com"

// labSpec is a server of a lab: on a host and a datastore of its own, so that
// what happens to these happens to it alone.
type labSpec struct {
	name  string
	by    transport
	disks []int64 // sizes in bytes
	cowd  bool    // deltas in the older format
}

// labLease is how long a dead connector keeps its runs.
const labLease = 3 * time.Second

func newLab(t *testing.T, servers []labSpec) *lab {
	t.Helper()
	l := &lab{world: emptyWorld(t), count: map[string]int{}}
	l.nbd = startNBD(t)
	c := vcenter.Config{
		Fault: l.call, OnSnapshot: l.frozen, AreasPerPage: 3, EmptyPages: true, LeaseTimeout: 4 * time.Second,
	}
	for i, s := range servers {
		host, store := "esx-"+s.name+".example.com", "store-"+s.name
		c.Hosts = append(c.Hosts, host)
		for _, name := range []string{store, "spare-" + s.name} {
			d := vcenter.Datastore{Name: name}
			if s.cowd {
				d.Deltas = vcenter.DeltasVMFSSparse
			}
			c.Datastores = append(c.Datastores, d)
		}
		spec := vcenter.ServerSpec{Name: s.name, Host: host, ChangeTracking: true, Quirks: s.by.quirks()}
		for k, size := range s.disks {
			content := vcenter.Over(newScattered(size, 8, size/16/4096*4096, uint64(i*10+k)))
			spec.Disks = append(spec.Disks, vcenter.DiskSpec{Content: content, Datastore: store})
		}
		c.Servers = append(c.Servers, spec)
	}
	c.Hosts = append(c.Hosts, spareHost)
	l.open(c, func(s *stack) { l.setUp(t, s) })
	var guests []*guest
	for i, s := range l.tour.servers {
		g := &guest{lab: l, labSpec: servers[i], id: s.id, vm: l.source.sim.VM(s.name), store: "store-" + s.name, refs: map[string]bool{}}
		g.host = l.source.sim.Host("esx-" + s.name + ".example.com")
		g.refs[g.vm.Reference().Value] = true
		guests = append(guests, g)
	}
	l.mu.Lock()
	l.guests = guests
	l.mu.Unlock()
	for _, g := range guests {
		if g.by == chain {
			l.must(g.vm.TakeSnapshot(foreign))
		}
	}
	return l
}

// setUp has the daemons use the lab's servers, and notice soon what happens.
func (l *lab) setUp(t *testing.T, s *stack) {
	t.Helper()
	var err error
	dir := filepath.Join(s.dir, "s3")
	l.objects = filepath.Join(dir, "objects")
	if l.storage, err = s3.Start(t.Context(), s3.Config{Dir: dir, Buckets: []string{"staging"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.must(l.storage.Close()) })
	if l.front, err = s3.StartFront(l.storage, l.request); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.must(l.front.Close()) })
	b := Bucket{Name: "staging", Region: l.storage.Region, Endpoint: l.front.Endpoint, PathStyle: true, CAFile: filepath.Join(s.dir, "front.crt")}
	if err := os.WriteFile(b.CAFile, l.front.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	s.options.Bucket = &b
	s.env = []string{"AWS_ACCESS_KEY_ID=" + l.storage.AccessKey, "AWS_SECRET_ACCESS_KEY=" + l.storage.SecretKey.Reveal(), "AWS_SESSION_TOKEN="}
	s.planeSettings["lease"], s.planeSettings["backoff"] = labLease.String(), "200ms"
	s.connSettings["report-every"], s.connSettings["sweep-every"] = "300ms", "1s"
	s.connSettings["slots"], s.connSettings["parallel"] = 64, 2
	s.sourceSettings["nbd"] = map[string]any{"url": "nbd://" + l.nbd.address + "/{snapshot}-{disk}", "plain": true}
}

// begin makes every server's job and waits for its first run, which is full.
func (l *lab) begin() {
	l.Helper()
	daily, keep := int32(24), int32(2)
	l.each(func(_ int, g *guest) error {
		job, err := l.tour.api.CreateReplicationJob(l.ctx, sms.CreateReplicationJobRequest{
			ServerID: g.id, SeedReplicationTime: sms.Time{Time: time.Now()}, Frequency: &daily, NumberOfRecentAmisToKeep: &keep,
		})
		if err != nil {
			return err
		}
		g.setJob(job)
		run, err := g.first()
		if err != nil {
			return err
		}
		return errors.Join(completed("full").check(run), g.asMeant(run))
	})
}

// together does something for all guests at once.
func (l *lab) together(do func(n int, g *guest) error) []error {
	errs := make([]error, len(l.guests))
	var all sync.WaitGroup
	for n, g := range l.guests {
		all.Go(func() { errs[n] = do(n, g) })
	}
	all.Wait()
	return errs
}

// each does it and fails the test where one of them fails.
func (l *lab) each(do func(n int, g *guest) error) {
	l.Helper()
	failed := false
	for n, err := range l.together(do) {
		if err != nil {
			failed = true
			l.Errorf("%s, %s: %v", l.guests[n].name, l.guests[n].by, err)
		}
	}
	if failed {
		l.FailNow()
	}
}

// stray notes an error of what the lab does behind the scenes.
func (l *lab) stray(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strays = append(l.strays, err.Error())
}

func (l *lab) all() []*guest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.guests
}

// call is the vCenter's Config.Fault.
func (l *lab) call(c vcenter.Call) error {
	for _, g := range l.all() {
		if err := g.spoilCall(c); err != nil {
			l.tell(fmt.Sprintf("vCenter: %v", err))
			return err
		}
	}
	return nil
}

// request is what the front asks.
func (l *lab) request(r s3.Request) s3.Fault {
	l.trap.hold(vcenter.Call{Method: r.Method + " " + objectKind(r.Key), Path: r.Key})
	for _, g := range l.all() {
		if f := g.spoilRequest(r); f != (s3.Fault{}) {
			l.tell("storage")
			return f
		}
	}
	return s3.Fault{}
}

// objectKind is segment, map, plan or manifest.
func objectKind(key string) string {
	kind, _, _ := strings.Cut(key[strings.LastIndexByte(key, '/')+1:], "-")
	return kind
}

// tell counts a fault.
func (l *lab) tell(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[what]++
}

// frozen is the vCenter's Config.OnSnapshot: it has the NBD server serve the
// snapshot's disks, as a customer's would find them.
func (l *lab) frozen(e vcenter.SnapshotEvent) {
	for _, g := range l.all() {
		if g.name != e.Server {
			continue
		}
		g.own(e.Ref.Value)
		if g.by != nbdkit || e.Name == foreign {
			continue
		}
		for _, d := range e.Disks {
			l.stray(l.nbd.add(e.Ref.Value+"-"+d.UUID, d.ReaderAt, d.Size))
		}
	}
}

// killed kills daemons and starts them again. Those who ask the control plane
// meanwhile have to ask once more.
func (l *lab) killed(d daemons) error {
	l.tell("killed " + d.String())
	return l.slay(d)
}

// outcome is how a run ends.
type outcome struct{ state, kind, code string }

func completed(kind string) outcome { return outcome{"COMPLETED", kind, ""} }
func failed(code string) outcome    { return outcome{"FAILED", "", code} }

func (o outcome) String() string { return strings.TrimSpace(o.state + " " + o.kind + o.code) }

// of is how the run ended. Of several disks, the first that is not
// incremental tells.
func of(run sms.ReplicationRun) outcome {
	if run.State != "COMPLETED" {
		return failed(codeOf(run.StatusMessage))
	}
	kind := "incremental"
	for _, d := range run.Disks {
		if kind == "incremental" {
			kind = d.Kind
		}
	}
	return completed(kind)
}

func (o outcome) check(run sms.ReplicationRun) error {
	if got := of(run); got != o {
		return fmt.Errorf("the run is %s and not %s: %s %s", got, o, run.StatusMessage, reasons(run))
	}
	return nil
}

func reasons(run sms.ReplicationRun) (out []string) {
	for _, d := range run.Disks {
		out = append(out, fmt.Sprintf("%s by %s, %s", d.Kind, d.Transport, d.Reason))
	}
	return out
}

// told is a failure for people: what and why, what to do next, and the code.
var told = regexp.MustCompile(`(?s)^.{10,}\. .{10,} \[([a-z0-9-]+)\]$`)

func codeOf(message string) string {
	if m := told.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return ""
}

// atRest waits until nothing is left of runs that have ended.
func (l *lab) atRest() {
	l.Helper()
	l.eventually("nothing to be left of the runs", time.Minute, func() error {
		ours := slices.DeleteFunc(l.source.sim.OpenSnapshots(), func(s string) bool { return strings.HasSuffix(s, "/"+foreign) })
		if len(ours) > 0 {
			return fmt.Errorf("snapshots: %q", ours)
		}
		if leases := l.source.sim.OpenLeases(); len(leases) > 0 {
			return fmt.Errorf("leases: %q", leases)
		}
		if n, err := l.nbd.connections(); n > 0 || err != nil {
			return fmt.Errorf("connections to the NBD server: %d (%v)", n, err)
		}
		return l.noFileLeft()
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.strays {
		l.Errorf("the lab itself: %s", s)
	}
}

// noFileLeft looks for work that nobody finished: staged data of ended runs,
// images in the making, files of the connector's.
func (l *lab) noFileLeft() error {
	var left []string
	for _, dir := range []string{filepath.Join(l.objects, "staging", "data"), filepath.Join(l.stack.dir, "images", ".work")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				left = append(left, path)
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	entries, err := os.ReadDir(filepath.Join(l.stack.dir, "connector"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains([]string{"identity.json", "sources.json"}, e.Name()) {
			left = append(left, e.Name())
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("files: %q", left)
	}
	return nil
}
