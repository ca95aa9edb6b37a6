package vsphere_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/internal/problem"
	"skylift/internal/simulator/vcenter"
)

// patiently has leases last as long as vSphere's do, so that one which nobody
// ends is seen.
func patiently(c *vcenter.Config) { c.LeaseTimeout = 5 * time.Minute }

// faulty has f decide about the calls.
func faulty(f func(vcenter.Call) error) func(*vcenter.Config) {
	return func(c *vcenter.Config) { c.Fault = f }
}

const exportSize = 8<<20 + 512

// content is a disk with a hole, and a tail of zeros.
func content(seed uint64) []byte {
	p := make([]byte, exportSize)
	random := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = random.Read(p[:1<<20])
	copy(p[5<<19:], bytes.Repeat([]byte(fmt.Sprintf("disk %d ", seed)), 1<<17))
	_, _ = random.Read(p[4<<20 : 6<<20])
	return p
}

// exportedDisk is a snapshot's first disk, to be had by an export, and what it
// holds.
func exportedDisk(t testing.TB, p *platform, change ...func(*vsphere.Config)) (hypervisor.Disk, []byte) {
	t.Helper()
	want := content(1)
	id := p.AddServer(t, "web", exportSize)
	p.Write(t, id, 0, 0, want)
	c := p.config()
	for _, f := range change {
		f(&c)
	}
	s, _ := p.source(t, c)
	sn := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever))
	return sn.Disks()[0], want
}

// whole reads a disk, and calls during before each emission is taken.
func whole(ctx context.Context, d hypervisor.Disk, during func(off int64) error) ([]byte, error) {
	got := make([]byte, 0, d.Info().Size)
	err := d.Read(ctx, []hypervisor.Extent{{Length: d.Info().Size}}, func(off int64, b []byte, n int64) error {
		if during != nil {
			if err := during(off); err != nil {
				return err
			}
		}
		if off != int64(len(got)) {
			return fmt.Errorf("emitted %d bytes at %d, %d are had", n, off, len(got))
		}
		if b == nil {
			b = make([]byte, n)
		}
		got = append(got, b...)
		return nil
	})
	return got, err
}

// until waits for a condition that nobody announces.
func until(ctx context.Context, is func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return errors.New("it did not come about within a minute")
		}
	}
	return nil
}

func noLease(t *testing.T, p *platform) {
	t.Helper()
	if open := p.OpenLeases(); len(open) > 0 {
		t.Errorf("there are leases on %q", open)
	}
}

func TestADiskThatCannotBeReadAsAFileIsExported(t *testing.T) {
	p := exporting(t, patiently)
	d, want := exportedDisk(t, p)
	info := d.Info()
	if info.Transport != "export" || info.RandomAccess || info.Patience != 2*time.Minute || !strings.Contains(info.Why, "not by datastore") {
		t.Errorf("the disk is %+v", info)
	}
	noLease(t, p) // of the trial
	got, err := whole(t.Context(), d, nil)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("other bytes were read")
	}
	noLease(t, p)
	if calls := p.Calls(); calls["HttpNfcLeaseComplete"] != 1 || calls["HttpNfcLeaseAbort"] != 1 {
		t.Errorf("the read was completed %d times, the trial aborted %d times", calls["HttpNfcLeaseComplete"], calls["HttpNfcLeaseAbort"])
	}
}

func TestWhatLiesBehindTheWantedExtentsIsNotDownloaded(t *testing.T) {
	p := exporting(t, patiently)
	const size = 64 << 20
	id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Quirks: p.quirks, Disks: []vcenter.DiskSpec{
		{Content: vcenter.Generated(vcenter.Pattern{Seed: 1, Random: 100}, size)},
	}})
	s, _ := p.source(t, p.config())
	d := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0]
	before := p.Served()
	n := 0
	must(t, d.Read(t.Context(), []hypervisor.Extent{{Offset: 1 << 20, Length: 1 << 19}, {Offset: 2 << 20, Length: 1 << 19}}, func(_ int64, b []byte, _ int64) error {
		n += len(b)
		return nil
	}))
	if n != 1<<20 {
		t.Errorf("%d bytes were emitted", n)
	}
	if served := p.Served() - before; served > size/2 {
		t.Errorf("%d MiB were downloaded for 1 MiB at the beginning", served>>20)
	}
	noLease(t, p)
}

func TestEveryDiskOfAnExportGetsItsOwnBytes(t *testing.T) {
	for name, quirks := range map[string]vcenter.Quirks{
		"in order":         {},
		"in reverse":       {ExportReversed: true},
		"one lease a time": {ExportAlone: true},
	} {
		t.Run(name, func(t *testing.T) {
			const size = 2<<20 + 512
			bytesOf := func(disk int) []byte { return content(uint64(disk))[4<<20:][:size] }
			p := exporting(t, patiently)
			quirks.FlatLocked = true
			id := p.add(t, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Quirks: quirks, Disks: []vcenter.DiskSpec{
				{Size: size}, {Size: size, Unit: 12}, {Size: size, Controller: "sata", Unit: 1},
				{Size: size, Controller: "nvme"}, {Size: size, Controller: "lsilogic-sas", Bus: 1},
			}})
			for i := range 5 {
				p.Write(t, id, i, 0, bytesOf(i))
			}
			s, _ := p.source(t, p.config())
			sn := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever))
			if n := len(sn.Disks()); n != 5 {
				t.Fatalf("there are %d disks", n)
			}
			seeds := map[hypervisor.DiskID]int{}
			for i := range 5 {
				seeds[hypervisor.DiskID(p.vm(t, id).Disk(i).UUID())] = i
			}
			var all sync.WaitGroup
			for _, d := range sn.Disks() {
				all.Go(func() {
					got, err := whole(t.Context(), d, nil)
					if i := seeds[d.Info().ID]; err != nil || !bytes.Equal(got, bytesOf(i)) {
						t.Errorf("%s: got %d bytes that are not those of disk %d, %v", d.Info().Name, len(got), i, err)
					}
				})
			}
			all.Wait()
			noLease(t, p)
		})
	}
}

// TestADiskWaitsForTheExportOfAnother, and says so, where vSphere gives one
// lease at a time.
func TestADiskWaitsForTheExportOfAnother(t *testing.T) {
	p := exporting(t, patiently)
	p.quirks.ExportAlone = true
	id := p.AddServer(t, "web", exportSize, exportSize)
	p.Write(t, id, 0, 0, content(1))
	p.Write(t, id, 1, 0, content(2))
	s, _ := p.source(t, p.config())
	disks := open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()
	begun, waits := make(chan struct{}), make(chan string, 100)
	second := make(chan error, 1)
	go func() {
		<-begun
		ctx := hypervisor.WithWaits(t.Context(), func(what string) func() { waits <- what; return func() {} })
		got, err := whole(ctx, disks[1], nil)
		if err == nil && !bytes.Equal(got, content(2)) {
			err = errors.New("other bytes were read")
		}
		second <- err
	}()
	var once sync.Once
	got, err := whole(t.Context(), disks[0], func(int64) error {
		once.Do(func() { close(begun) })
		return until(t.Context(), func() bool { return len(waits) > 0 })
	})
	if err != nil || !bytes.Equal(got, content(1)) {
		t.Errorf("the first: got %d bytes, %v", len(got), err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	if what := <-waits; !strings.Contains(what, "another task") {
		t.Errorf("the second waited because %s", what)
	}
}

func TestALeaseIsKeptAliveWhileNobodyTakesBytes(t *testing.T) {
	p := exporting(t)
	d, want := exportedDisk(t, p)
	blocked := false
	got, err := whole(t.Context(), d, func(off int64) error {
		if blocked || off < 3<<20 {
			return nil
		}
		blocked = true
		// Six signs of life are half as long again as a lease lasts.
		begun := p.Calls()["HttpNfcLeaseProgress"]
		return until(t.Context(), func() bool { return p.Calls()["HttpNfcLeaseProgress"] >= begun+6 })
	})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := p.Calls()["ExportSnapshot"]; n != 2 {
		t.Errorf("there were %d leases, want one for the trial and one for the read", n)
	}
}

func TestALostLeaseIsReplacedAndTheReadGoesOn(t *testing.T) {
	var deaf atomic.Bool
	p := exporting(t, faulty(func(c vcenter.Call) error {
		if deaf.Load() && c.Method == "HttpNfcLeaseProgress" {
			return io.ErrUnexpectedEOF
		}
		return nil
	}))
	d, want := exportedDisk(t, p)
	lost := false
	got, err := whole(t.Context(), d, func(off int64) error {
		if lost || off < 3<<20 {
			return nil
		}
		lost = true
		deaf.Store(true)
		defer deaf.Store(false)
		return until(t.Context(), func() bool { return len(p.OpenLeases()) == 0 })
	})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestLostAnswersOfALeaseCostNoBytes(t *testing.T) {
	for _, method := range []string{"ExportSnapshot", "RetrievePropertiesEx", "HttpNfcLeaseProgress", "HttpNfcLeaseComplete", "HttpNfcLeaseAbort"} {
		t.Run(method, func(t *testing.T) {
			var begun atomic.Bool
			p := exporting(t, faulty(func(c vcenter.Call) error {
				if c.Method == method && !c.Task && begun.Swap(false) {
					return vcenter.ErrAnswerLost
				}
				return nil
			}))
			d, want := exportedDisk(t, p)
			begun.Store(true)
			got, err := whole(t.Context(), d, nil)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			// A lease that nobody could know of ends by itself.
			must(t, until(t.Context(), func() bool { return len(p.OpenLeases()) == 0 }))
		})
	}
}

func TestABrokenDownloadIsBegunAgain(t *testing.T) {
	for _, after := range []int64{0, 512, 3 << 20} {
		t.Run(fmt.Sprintf("after %d bytes", after), func(t *testing.T) {
			p := exporting(t, patiently, faulty(func(c vcenter.Call) error {
				if c.Method == "GET /nfc" && (c.N == 2 || c.N == 3) { // the first is the trial's
					return vcenter.DropAfter(after)
				}
				return nil
			}))
			d, want := exportedDisk(t, p)
			got, err := whole(t.Context(), d, nil)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			noLease(t, p)
		})
	}
}

// TestDownloadsGoOnAsLongAsTheyBringMoreThanTheyRepeat has the n-th download
// break behind so many bytes; none of them can be compressed.
func TestDownloadsGoOnAsLongAsTheyBringMoreThanTheyRepeat(t *testing.T) {
	const kib = 1 << 10
	for _, c := range []struct {
		name string
		cuts []vcenter.DropAfter
		ends bool
	}{
		{"many breaks, further and further away", []vcenter.DropAfter{800 * kib, 800 * kib, 800 * kib, 2400 * kib, 2400 * kib, 2400 * kib, 5400 * kib, 5400 * kib, 5400 * kib}, false},
		{"a little more each time", []vcenter.DropAfter{800 * kib, 1300 * kib, 1900 * kib, 2400 * kib, 2900 * kib, 3500 * kib, 4000 * kib, 4600 * kib, 5100 * kib, 5700 * kib}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := exporting(t, patiently, faulty(func(call vcenter.Call) error {
				if n := call.N - 2; call.Method == "GET /nfc" && n >= 0 && n < len(c.cuts) { // the first is the trial's
					return c.cuts[n]
				}
				return nil
			}))
			id := p.AddServer(t, "web", exportSize)
			want := make([]byte, exportSize)
			_, _ = rand.NewChaCha8([32]byte{}).Read(want)
			p.Write(t, id, 0, 0, want)
			s, _ := p.source(t, p.config())
			got, err := whole(t.Context(), open(t, s, snapshot(t, s, "r1", id, hypervisor.QuiesceNever)).Disks()[0], nil)
			if c.ends {
				has(t, err, vsphere.ReadFailed)
			} else if err != nil || len(got) != exportSize {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if !bytes.HasPrefix(want, got) {
				t.Error("other bytes were read")
			}
			noLease(t, p)
		})
	}
}

func TestDownloadsThatBringNothingNewEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault error
		want  *problem.Kind
	}{
		{"each breaks at the same byte", vcenter.DropAfter(3 << 20), vsphere.ReadFailed},
		{"no answer comes", vcenter.ErrDropped, vsphere.HostUnreachable},
		{"the host is overloaded", vcenter.HTTPStatus(503), vsphere.ReadFailed},
		{"the host gives nothing", vcenter.HTTPStatus(403), vsphere.ReadRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := exporting(t, patiently, faulty(func(call vcenter.Call) error {
				if call.Method == "GET /nfc" && call.N > 1 {
					return c.fault
				}
				return nil
			}))
			d, want := exportedDisk(t, p)
			got, err := whole(t.Context(), d, nil)
			has(t, err, c.want)
			if !bytes.HasPrefix(want, got) {
				t.Errorf("the %d bytes read before the end are not the disk's", len(got))
			}
			if n := p.Calls()["GET /nfc"]; n > 8 {
				t.Errorf("there were %d downloads", n)
			}
			if strings.Contains(err.Error(), "/nfc/") {
				t.Errorf("the error tells the download's address: %v", err)
			}
			noLease(t, p)
		})
	}
}

func TestAnExportThatIsRefusedIsToldWithItsReason(t *testing.T) {
	refusing := func(method string, task bool, f types.BaseMethodFault) func(*vcenter.Config) {
		return faulty(func(c vcenter.Call) error {
			if c.Method == method && c.Task == task {
				return vcenter.SOAPFault{Fault: f, Message: "said by the test"}
			}
			return nil
		})
	}
	denied := &types.NoPermission{PrivilegeId: "VApp.Export"}
	var p *platform
	for _, c := range []struct {
		name   string
		change func(*vcenter.Config)
		quirks vcenter.Quirks
		want   string
		kind   *problem.Kind
	}{
		{"a privilege is missing", refusing("ExportSnapshot", false, denied), vcenter.Quirks{}, "needs the privilege VApp.Export", vsphere.DiskUnreadable},
		{"it turns out to be missing", refusing("ExportSnapshot", true, denied), vcenter.Quirks{}, "needs the privilege VApp.Export", vsphere.DiskUnreadable},
		{"it is not supported", refusing("ExportSnapshot", false, &types.NotSupported{}), vcenter.Quirks{}, "said by the test", vsphere.DiskUnreadable},
		{"the machine is in no state for it", nil, vcenter.Quirks{ExportFails: true}, "vSphere does not export the snapshot", vsphere.DiskUnreadable},
		{"the host does not answer", faulty(func(c vcenter.Call) error {
			if c.Method == "GET /nfc" {
				return vcenter.ErrDropped
			}
			return nil
		}), vcenter.Quirks{}, "an ESXi host does not answer", vsphere.ReadFailed},
		{"sessions end as soon as they are opened", faulty(func(c vcenter.Call) error {
			if c.Method == "ExportSnapshot" {
				p.Server.ExpireSessions()
			}
			return nil
		}), vcenter.Quirks{}, "reading the disk file failed again and again", vsphere.ReadFailed},
		{"vCenter does not answer now", faulty(func(c vcenter.Call) error {
			if c.Method == "ExportSnapshot" {
				return vcenter.ErrDropped
			}
			return nil
		}), vcenter.Quirks{}, "reading the disk file failed again and again", vsphere.ReadFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := []func(*vcenter.Config){patiently}
			if c.change != nil {
				change = append(change, c.change)
			}
			p = exporting(t, change...)
			c.quirks.FlatLocked = true
			p.quirks = c.quirks
			d, _ := exportedDisk(t, p)
			_, err := whole(t.Context(), d, nil)
			has(t, err, c.kind)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			noLease(t, p)
		})
	}
}

// TestAnImpostorOfAHostIsAskedNothing has connections to hosts end elsewhere.
func TestAnImpostorOfAHostIsAskedNothing(t *testing.T) {
	var asked atomic.Int64
	impostor := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	impostor.Config.ErrorLog = log.New(io.Discard, "", 0)
	impostor.StartTLS()
	t.Cleanup(impostor.Close)
	for _, c := range []struct{ name, address, want string }{
		{"another certificate", impostor.Listener.Addr().String(), "a certificate that is not trusted"},
		{"nobody there", "127.0.0.1:1", "an ESXi host does not answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := exporting(t, patiently)
			d, _ := exportedDisk(t, p, func(config *vsphere.Config) {
				config.CustomizeHost = func(transport *http.Transport) {
					transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, network, c.address)
					}
				}
			})
			_, err := whole(t.Context(), d, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || asked.Load() > 0 {
				t.Errorf("after %d requests: %v", asked.Load(), err)
			}
			noLease(t, p)
		})
	}
}

func TestASnapshotThatVanishesDuringAnExportIsGone(t *testing.T) {
	p := exporting(t)
	d, _ := exportedDisk(t, p)
	removed := false
	_, err := whole(t.Context(), d, func(off int64) error {
		if !removed && off >= 2<<20 {
			removed = true
			return p.Server.RemoveServer("web")
		}
		return nil
	})
	has(t, err, hypervisor.SnapshotGone)
	noLease(t, p)
}

// TestNoLeaseOutlivesARead ends reads at each of their steps: the caller leaves
// while vSphere is asked, or while bytes come, or has enough of them.
func TestNoLeaseOutlivesARead(t *testing.T) {
	var leave atomic.Pointer[func(vcenter.Call)]
	p := exporting(t, patiently, faulty(func(c vcenter.Call) error {
		if f := leave.Load(); f != nil {
			(*f)(c)
		}
		return nil
	}))
	d, want := exportedDisk(t, p)
	enough := errors.New("enough")
	for step := 1; ; step++ {
		ctx, cancel := context.WithCancel(t.Context())
		var at atomic.Int64
		f := func(vcenter.Call) {
			if at.Add(1) == int64(step) {
				cancel()
			}
		}
		leave.Store(&f)
		got, err := whole(ctx, d, func(int64) error {
			switch n := at.Add(1); {
			case n == int64(step) && step%2 == 0:
				return enough
			case n == int64(step):
				cancel()
			}
			return nil
		})
		leave.Store(nil)
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, enough) {
			t.Errorf("left at step %d: %v", step, err)
		}
		if !bytes.HasPrefix(want, got) {
			t.Errorf("left at step %d: other bytes were read", step)
		}
		if noLease(t, p); t.Failed() {
			t.Fatalf("left at step %d", step)
		}
		if at.Load() < int64(step) {
			if err != nil || len(got) != len(want) {
				t.Errorf("undisturbed: %d bytes, %v", len(got), err)
			}
			break
		}
	}
}

// BenchmarkExport reads a whole disk by an export of the simulated vCenter,
// which compresses it on the same processors.
func BenchmarkExport(b *testing.B) {
	const total = 128 << 20
	p := exporting(b, patiently)
	id := p.add(b, vcenter.ServerSpec{Name: "web", ChangeTracking: true, Quirks: p.quirks, Disks: []vcenter.DiskSpec{
		{Content: vcenter.Generated(vcenter.Pattern{Seed: 1, Random: 30, Text: 40}, total)},
	}})
	s, _ := p.source(b, p.config())
	d := open(b, s, snapshot(b, s, "bench", id, hypervisor.QuiesceNever)).Disks()[0]
	b.SetBytes(total)
	b.ReportAllocs()
	for b.Loop() {
		must(b, d.Read(b.Context(), []hypervisor.Extent{{Length: total}}, func(int64, []byte, int64) error { return nil }))
	}
}
