package vsphere_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmware/govmomi/object"

	"skylift/hypervisor"
	"skylift/hypervisor/vsphere"
	"skylift/hypervisor/vsphere/nbd/nbdtest"
	"skylift/internal/need"
	"skylift/internal/simulator/vcenter"
)

// locked is a running server whose datastore refuses its disk, the disk's
// frozen bytes in a file, and what placeholders stand for.
type locked struct {
	*platform
	id      hypervisor.ServerID
	ref     hypervisor.SnapshotRef
	content []byte
	path    string // of the frozen bytes

	vm, snapshot, file, disk, host string
}

// lockedSize ends in half a block.
const lockedSize = 8<<20 + 256<<10

func newLocked(t *testing.T) *locked {
	t.Helper()
	l := &locked{platform: newPlatform(t), path: filepath.Join(t.TempDir(), "disk.raw"), content: make([]byte, lockedSize)}
	l.refusing = true
	l.id = l.add(t, vcenter.ServerSpec{Name: "web", Disks: []vcenter.DiskSpec{{Size: lockedSize}}, Quirks: vcenter.Quirks{FlatLocked: true, ExportFails: true}})
	// Bytes in the first block, over the border of others, and at the end.
	random := rand.NewChaCha8([32]byte{3})
	for _, e := range []hypervisor.Extent{{Offset: 0, Length: 1000}, {Offset: 3<<20 - 4096, Length: 1 << 20}, {Offset: lockedSize - 512, Length: 512}} {
		_, _ = random.Read(l.content[e.Offset:e.End()])
	}
	l.Write(t, l.id, 0, 0, l.content)
	f, err := os.Create(l.path)
	must(t, err)
	defer f.Close()
	for off := 0; off < lockedSize; off += 4096 {
		if p := l.content[off : off+4096]; !bytes.Equal(p, make([]byte, 4096)) {
			_, err := f.WriteAt(p, int64(off))
			must(t, err)
		}
	}
	must(t, f.Truncate(lockedSize))

	s, _ := l.source(t, l.config())
	l.ref = snapshot(t, s, "r1", l.id, hypervisor.QuiesceNever)
	l.Write(t, l.id, 0, 0, bytes.Repeat([]byte("live"), 1<<20)) // not part of the frozen disk
	sn := open(t, s, l.ref)
	info := sn.Disks()[0].Info()
	must(t, sn.Close())
	_, l.file, _ = strings.Cut(info.Name, ", ")
	l.vm, l.snapshot, l.disk = l.platform.vm(t, l.id).Reference().Value, l.ref.ID, string(info.ID)
	c := l.client(t)
	host, err := object.NewVirtualMachine(c, l.platform.vm(t, l.id).Reference()).HostSystem(t.Context())
	must(t, err)
	l.host, err = host.ObjectName(t.Context())
	must(t, err)
	return l
}

// exported is an argument of nbdkit's: it serves the disk by this name only.
func (l *locked) serve(t *testing.T, export string, args ...string) *nbdtest.Server {
	t.Helper()
	return nbdtest.Serve(t, append([]string{"--filter=exportname", "file", l.path, "exportname=" + export, "exportname-strict=true"}, args...)...)
}

// open opens the snapshot with an NBD server.
func (l *locked) open(t *testing.T, c vsphere.NBD) hypervisor.Disk {
	t.Helper()
	config := l.config()
	config.NBD = c
	s, _ := l.source(t, config)
	sn := open(t, s, l.ref)
	t.Cleanup(func() { must(t, sn.Close()) })
	return sn.Disks()[0]
}

// readAll reads all extents and returns the disk with them in it, and how many
// bytes were told to be zero.
func readAll(ctx context.Context, d hypervisor.Disk, in ...hypervisor.Extent) (got []byte, zeros int64, err error) {
	got = make([]byte, d.Info().Size)
	at := in[0].Offset
	err = d.Read(ctx, in, func(off int64, p []byte, n int64) error {
		for len(in) > 0 && at == in[0].End() {
			if in = in[1:]; len(in) > 0 {
				at = in[0].Offset
			}
		}
		if off != at || n <= 0 || p != nil && int64(len(p)) != n {
			return fmt.Errorf("%d bytes (%d) at %d, expected %d", n, len(p), off, at)
		}
		if at += n; p == nil {
			zeros += n
		}
		copy(got[off:], p)
		return nil
	})
	return got, zeros, err
}

func TestALockedDiskIsReadFromTheNBDServer(t *testing.T) {
	l := newLocked(t)
	authority := nbdtest.NewAuthority(t)
	dir := "--tls-certificates=" + authority.Directory(t)
	trust := &tls.Config{RootCAs: authority.Pool, Certificates: []tls.Certificate{authority.Client(t)}}
	for name, c := range map[string]struct {
		scheme, path, export string
		tls                  *tls.Config
		args                 []string
		zeros                int64 // that need not be read
	}{
		"over TLS": {"nbds", "/{vm}/{snapshot}/{file}", l.vm + "/" + l.snapshot + "/" + l.file, trust, []string{"--tls=require", "--tls-verify-peer", dir}, lockedSize - 5*(512<<10) + 256<<10},
		"in plain text, by other names": {"nbd", "/a%20{disk}%2f{host}/{snapshot}", "a " + l.disk + "/" + l.host + "/" + l.snapshot, nil, nil,
			lockedSize - 5*(512<<10) + 256<<10},
		"without block status": {"nbd", "/{snapshot}/{disk}", l.snapshot + "/" + l.disk, nil, []string{"--no-sr"}, 0},
		"whole sectors only":   {"nbd", "/{snapshot}/{disk}", l.snapshot + "/" + l.disk, nil, []string{"--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-error-policy=error"}, lockedSize - 5*(512<<10) + 256<<10},
	} {
		t.Run(name, func(t *testing.T) {
			server := l.serve(t, c.export, c.args...)
			d := l.open(t, vsphere.NBD{URL: c.scheme + "://" + server.Address + c.path, TLS: c.tls})
			info := d.Info()
			if info.Transport != "nbdkit" || !info.RandomAccess || !strings.HasPrefix(info.Why, "not by datastore: ") || !strings.Contains(info.Why, server.Address) {
				t.Fatalf("the transport is %q because %s", info.Transport, info.Why)
			}
			if plain := strings.Contains(info.Why, "not encrypted"); plain != (c.tls == nil) {
				t.Errorf("the reason says of encryption: %s", info.Why)
			}
			got, zeros, err := readAll(t.Context(), d, hypervisor.Extent{Length: lockedSize})
			if err != nil || !bytes.Equal(got, l.content) || zeros != c.zeros {
				t.Errorf("equal: %v, %d zeros (want %d), %v", bytes.Equal(got, l.content), zeros, c.zeros, err)
			}
			var all sync.WaitGroup
			for off := int64(0); off < lockedSize; off += 1 << 20 {
				all.Go(func() {
					e := hypervisor.Extent{Offset: off, Length: min(1<<20, lockedSize-off)}
					if got, _, err := readAll(t.Context(), d, e); err != nil || !bytes.Equal(got[e.Offset:e.End()], l.content[e.Offset:e.End()]) {
						t.Errorf("other bytes at %d, %v", off, err)
					}
				})
			}
			all.Wait()
			parts := []hypervisor.Extent{{Offset: 512 << 10, Length: 512 << 10}, {Offset: 1 << 20, Length: 2 << 20}, {Offset: 8 << 20, Length: 256 << 10}}
			got, _, err = readAll(t.Context(), d, parts...)
			for _, e := range parts {
				if err != nil || !bytes.Equal(got[e.Offset:e.End()], l.content[e.Offset:e.End()]) {
					t.Errorf("other bytes in %v, %v", e, err)
				}
			}
		})
	}
}

func TestAnNBDServerWithoutTheRightDiskIsRefusedWithAReason(t *testing.T) {
	l := newLocked(t)
	larger, smaller := filepath.Join(t.TempDir(), "larger"), filepath.Join(t.TempDir(), "smaller")
	must(t, os.WriteFile(larger, make([]byte, lockedSize+512), 0o600))
	must(t, os.WriteFile(smaller, make([]byte, lockedSize-512), 0o600))
	authority, other := nbdtest.NewAuthority(t), nbdtest.NewAuthority(t)
	secure := []string{"--tls=require", "--tls-certificates=" + authority.Directory(t)}
	for name, c := range map[string]struct {
		scheme string
		args   []string
		tls    *tls.Config
		want   string
	}{
		"a larger export":       {"nbd", []string{"file", larger}, nil, "has 8651264 bytes"},
		"a smaller export":      {"nbd", []string{"file", smaller}, nil, "has 8650240 bytes"},
		"no such export":        {"nbd", []string{"--filter=exportname", "file", l.path, "exportname=mail", "exportname-strict=true"}, nil, "refuses the export"},
		"no TLS":                {"nbds", []string{"file", l.path}, nil, "no TLS"},
		"another's TLS":         {"nbds", append(secure, "file", l.path), &tls.Config{RootCAs: other.Pool}, "unknown authority"},
		"nothing but TLS":       {"nbd", append(secure, "file", l.path), nil, "TLS is required"},
		"a disk that is unread": {"nbd", []string{"--filter=error", "file", l.path, "error-pread=EIO", "error-pread-rate=100%"}, nil, "input/output error"},
	} {
		t.Run(name, func(t *testing.T) {
			server := nbdtest.Serve(t, c.args...)
			d := l.open(t, vsphere.NBD{URL: c.scheme + "://" + server.Address + "/{snapshot}/{disk}", TLS: c.tls})
			_, _, err := readAll(t.Context(), d, hypervisor.Extent{Length: lockedSize})
			if d.Info().Transport != "" || err == nil || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(err.Error(), "not by datastore: ") || !strings.Contains(err.Error(), "not by nbdkit: ") {
				t.Errorf("by %q: %v", d.Info().Transport, err)
			}
		})
	}
}

func TestAnNBDServerThatIsNotConfiguredIsNotSpokenOf(t *testing.T) {
	l := newLocked(t)
	if info := l.open(t, vsphere.NBD{}).Info(); strings.Contains(info.Why, "nbd") {
		t.Errorf("the reason is %q", info.Why)
	}
}

// fragile breaks after some bytes.
type fragile struct {
	net.Conn
	left int
}

func (c *fragile) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errors.Join(errors.New("broken by the test"), c.Close())
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func TestBrokenConnectionsToTheNBDServerAreMadeAgain(t *testing.T) {
	l := newLocked(t)
	server := l.serve(t, l.snapshot+"/"+l.disk, "--no-sr")
	var dialed atomic.Int32
	d := l.open(t, vsphere.NBD{
		URL: "nbd://" + server.Address + "/{snapshot}/{disk}",
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialed.Add(1)
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &fragile{conn, 3 << 20}, err
		},
	})
	got, _, err := readAll(t.Context(), d, hypervisor.Extent{Length: lockedSize})
	if err != nil || !bytes.Equal(got, l.content) {
		t.Errorf("equal: %v, %v", bytes.Equal(got, l.content), err)
	}
	if n := dialed.Load(); n < 3 {
		t.Errorf("dialed %d times", n)
	}
}

func TestReadsFromTheNBDServerEndWithTheirContext(t *testing.T) {
	l := newLocked(t)
	slow := filepath.Join(t.TempDir(), "slow")
	server := nbdtest.Serve(t, "--filter=error", "--filter=delay", "file", l.path, "delay-read=50ms", "error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+slow)
	d := l.open(t, vsphere.NBD{URL: "nbd://" + server.Address + "/{snapshot}/{disk}"})
	must(t, os.WriteFile(slow, nil, 0o600)) // from here on, every read fails and is tried again
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, _, err := readAll(ctx, d, hypervisor.Extent{Length: lockedSize})
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	must(t, os.Remove(slow))
	enough := errors.New("enough")
	if err := d.Read(t.Context(), []hypervisor.Extent{{Length: lockedSize}}, func(int64, []byte, int64) error { return enough }); err != enough {
		t.Errorf("got %v", err)
	}
}

func TestAddressesOfNBDServersAreChecked(t *testing.T) {
	p := newPlatform(t)
	for url, ok := range map[string]bool{
		"": true,
		"nbds://nbd.example.com/{snapshot}/{file}":          true,
		"nbds://nbd.example.com:1234/{snapshot}{disk}":      true,
		"nbd://[::1]:10809/{vm}/{host}/{snapshot}/{file}":   true,
		"https://nbd.example.com/{snapshot}/{file}":         false,
		"nbds:///{snapshot}/{file}":                         false,
		"nbds://nbd.example.com/{file}":                     false,
		"nbds://nbd.example.com/{snapshot}":                 false,
		"nbds://nbd.example.com/{snapshot}/{file}/{folder}": false,
		"nbds://u:p@nbd.example.com/{snapshot}/{file}":      false,
		"nbds://nbd.example.com/{snapshot}/{file}?x=1":      false,
		"nbds://nbd.example.com:x/{snapshot}/{file}":        false,
	} {
		c := p.config()
		c.NBD.URL = url
		if _, err := vsphere.New(c); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
	c := p.config()
	c.NBD = vsphere.NBD{URL: "nbd://nbd.example.com/{snapshot}/{file}", TLS: &tls.Config{}}
	if _, err := vsphere.New(c); err == nil {
		t.Error("settings for TLS were taken, and would not have been used")
	}
}

// TestTheExampleServesSnapshotsByName runs the plugin of docs/setup.md, with a
// stand-in for the nbdkit that it starts: VDDK cannot be had here.
func TestTheExampleServesSnapshotsByName(t *testing.T) {
	program := need.Program(t, "nbdkit")
	if out, err := exec.Command(need.Program(t, "python3"), "-c", "import nbd").CombinedOutput(); err != nil {
		need.Missing(t, "libnbd's Python module: %s", out)
	}
	if out, err := exec.Command(program, "python", "--dump-plugin").CombinedOutput(); err != nil {
		need.Missing(t, "nbdkit's python plugin: %s", out)
	}
	l := newLocked(t)
	dir := t.TempDir()
	asked, standIn := filepath.Join(dir, "asked"), filepath.Join(dir, "nbdkit")
	must(t, os.WriteFile(standIn, fmt.Appendf(nil, "#!/bin/sh\nprintf '%%s\\n' \"$@\" > %q\nexec %s -r -s --exit-with-parent file %q\n", asked, program, l.path), 0o700))
	server := nbdtest.Serve(t, "python", "../../docs/skylift-vddk.py", "nbdkit="+standIn,
		"server=vcenter.example.com", "user=svc", "password-file=/etc/vcenter.password", "thumbprint=aa:bb", "libdir=/opt/vddk")
	d := l.open(t, vsphere.NBD{URL: "nbd://" + server.Address + "/{vm}/{snapshot}/{file}"})
	if info := d.Info(); info.Transport != "nbdkit" {
		t.Fatalf("the transport is %q because %s", info.Transport, info.Why)
	}
	got, zeros, err := readAll(t.Context(), d, hypervisor.Extent{Length: lockedSize})
	if err != nil || !bytes.Equal(got, l.content) || zeros == 0 {
		t.Errorf("equal: %v, %d zeros, %v", bytes.Equal(got, l.content), zeros, err)
	}
	args, err := os.ReadFile(asked)
	must(t, err)
	want := strings.Join([]string{"-r", "-s", "--exit-with-parent", "vddk", "libdir=/opt/vddk", "server=vcenter.example.com", "user=svc",
		"password=+/etc/vcenter.password", "thumbprint=aa:bb", "vm=moref=" + l.vm, "snapshot=" + l.snapshot, "file=" + l.file}, "\n")
	if strings.TrimSpace(string(args)) != want {
		t.Errorf("it was run with %q, want %q", args, want)
	}
	odd := l.open(t, vsphere.NBD{URL: "nbd://" + server.Address + "/{snapshot}/{file}"})
	if info := odd.Info(); info.Transport != "" {
		t.Errorf("a name in another form was served: %s", info.Why)
	}
}
