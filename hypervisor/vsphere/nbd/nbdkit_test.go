package nbd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skylift/hypervisor/vsphere/nbd"
	"skylift/hypervisor/vsphere/nbd/nbdtest"
)

const block = 512 << 10

func connect(t testing.TB, c nbd.Config) *nbd.Client {
	t.Helper()
	client, err := nbd.Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// pattern is what nbdkit's pattern plugin holds: each 8 bytes are their offset.
func pattern(p []byte, off int64) {
	for i := 0; i < len(p); i += 8 {
		binary.BigEndian.PutUint64(p[i:], uint64(off)+uint64(i))
	}
}

// random makes a file of random bytes.
func random(t *testing.T, size int) (path string, content []byte) {
	t.Helper()
	path, content = filepath.Join(t.TempDir(), "disk.raw"), make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestManyReadsAtATimeBringTheRightBytes(t *testing.T) {
	const size, inFlight = 64 << 20, 16
	path, content := random(t, size)
	authority := nbdtest.NewAuthority(t)
	trust := &tls.Config{RootCAs: authority.Pool}
	secure := []string{"file", path, "--tls=require", "--tls-certificates=" + authority.Directory(t)}
	for name, c := range map[string]struct {
		args []string
		tls  *tls.Config
	}{
		"structured replies":          {[]string{"file", path}, nil},
		"structured replies over TLS": {secure, trust},
		"simple replies":              {[]string{"--no-sr", "file", path}, nil},
		"simple replies over TLS":     {append([]string{"--no-sr"}, secure...), trust},
		"the newstyle without TLS":    {[]string{"--mask-handshake=0", "file", path}, nil},
		"a smallest block of 64 KiB":  {[]string{"--filter=blocksize-policy", "file", path, "blocksize-error-policy=error", "blocksize-minimum=64K", "blocksize-preferred=64K"}, nil},
		"blocks of at most 64 KiB":    {[]string{"--filter=blocksize-policy", "file", path, "blocksize-error-policy=error", "blocksize-maximum=64K"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.Serve(t, c.args...)
			client := connect(t, nbd.Config{Address: s.Address, TLS: c.tls})
			if client.Size() != size || !client.ReadOnly() {
				t.Fatalf("the export has %d bytes, read-only: %v", client.Size(), client.ReadOnly())
			}
			var next, all = make(chan int64, size/block), sync.WaitGroup{}
			for off := int64(0); off < size; off += block {
				next <- off
			}
			close(next)
			for range inFlight {
				all.Go(func() {
					got := make([]byte, block)
					for off := range next {
						if err := client.ReadAt(t.Context(), got, off); err != nil {
							t.Error(err)
							return
						}
						if !bytes.Equal(got, content[off:off+block]) {
							t.Errorf("other bytes were read at %d", off)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

func TestBlockSizesOfTheServerAreKept(t *testing.T) {
	s := nbdtest.Serve(t, "--filter=blocksize-policy", "pattern", "8M", "blocksize-error-policy=error", "blocksize-minimum=4K", "blocksize-maximum=1M")
	client := connect(t, nbd.Config{Address: s.Address})
	if client.MinBlock() != 4096 || client.MaxPayload() != 1<<20 {
		t.Errorf("blocks have %d to %d bytes", client.MinBlock(), client.MaxPayload())
	}
	got, want := make([]byte, 3<<20), make([]byte, 3<<20)
	if err := client.ReadAt(t.Context(), got, 4096); err != nil {
		t.Fatal(err)
	}
	if pattern(want, 4096); !bytes.Equal(got, want) {
		t.Error("a read of several payloads brought other bytes")
	}
	if err := client.ReadAt(t.Context(), got[:512], 512); err == nil {
		t.Error("a read of less than a block was taken")
	}
}

func TestReadsOutsideOfTheExportAreRefused(t *testing.T) {
	s := nbdtest.Serve(t, "pattern", "1M")
	client := connect(t, nbd.Config{Address: s.Address})
	for _, off := range []int64{-1, 1<<20 - 511, 1 << 20, 1 << 62} {
		if err := client.ReadAt(t.Context(), make([]byte, 512), off); err == nil {
			t.Errorf("512 bytes were read at %d", off)
		}
	}
	if err := client.ReadAt(t.Context(), make([]byte, 512), 1<<20-512); err != nil {
		t.Errorf("the last bytes cannot be read: %v", err)
	}
}

// sparse has bytes in every third MiB.
func sparse(t *testing.T, size int64) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content = make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	for off := int64(0); off < size; off += 3 << 20 {
		_, _ = random.Read(content[off : off+1<<20])
		if _, err := f.WriteAt(content[off:off+1<<20], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestHolesAreReadAsZeros(t *testing.T) {
	path, content := sparse(t, 12<<20)
	s := nbdtest.Serve(t, "file", path)
	client := connect(t, nbd.Config{Address: s.Address})
	got := bytes.Repeat([]byte{0xff}, len(content))
	if err := client.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(content) {
		t.Error("other bytes were read")
	}
}

// TestQEMUsHolesAreReadAsZeros is about a server that leaves zeros out of its
// replies.
func TestQEMUsHolesAreReadAsZeros(t *testing.T) {
	path, content := sparse(t, 12<<20)
	s := nbdtest.ServeQEMU(t, "-f", "raw", "-x", "web", path)
	client := connect(t, nbd.Config{Address: s.Address, Export: "web"})
	got := bytes.Repeat([]byte{0xff}, len(content))
	if err := client.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Error("other bytes were read")
	}
	zeros := int64(0)
	if err := client.Allocated(t.Context(), 0, client.Size(), func(_, length int64, zero bool) error {
		if zero {
			zeros += length
		}
		return nil
	}); err != nil || zeros != 8<<20 {
		t.Errorf("%d bytes are told to be zero, %v", zeros, err)
	}
}

func TestAllocationIsTold(t *testing.T) {
	const mib = 1 << 20
	path, _ := sparse(t, 9*mib)
	for name, c := range map[string]struct {
		args        []string
		off, length int64
		want        []string
	}{
		"a sparse file":       {[]string{"file", path}, 0, 9 * mib, []string{"0+1 false", "1+2 true", "3+1 false", "4+2 true", "6+1 false", "7+2 true"}},
		"a part of it":        {[]string{"file", path}, 2 * mib, 2 * mib, []string{"2+1 true", "3+1 false"}},
		"nothing of it":       {[]string{"file", path}, 2 * mib, 0, nil},
		"more than one GiB":   {[]string{"memory", "6G"}, 0, 6 << 30, []string{"0+6144 true"}},
		"a full disk":         {[]string{"pattern", "2M"}, 0, 2 * mib, []string{"0+2 false"}},
		"a part at a time":    {[]string{"--filter=blocksize", "--filter=extentlist", "file", path, "extentlist=" + many(t)}, 0, 9 * mib, []string{"0+9 alternating"}},
		"a server that hides": {[]string{"--filter=noextents", "file", path}, 0, 9 * mib, []string{"0+9 false"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.Serve(t, c.args...)
			client := connect(t, nbd.Config{Address: s.Address})
			var got []string
			at, alternating, last := c.off, 0, false
			if err := client.Allocated(t.Context(), c.off, c.length, func(off, length int64, zero bool) error {
				if off != at || len(got) > 0 && zero == last {
					t.Errorf("after %d comes %d, and %v after %v", at, off, zero, last)
				}
				at, last, alternating = off+length, zero, alternating+1
				got = append(got, fmt.Sprintf("%d+%d %v", off/mib, length/mib, zero))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if alternating == 9*mib/512 {
				got = []string{"0+9 alternating"}
			}
			if at != c.off+c.length || !slices.Equal(got, c.want) {
				t.Errorf("told is %q up to %d", got[:min(len(got), 10)], at)
			}
		})
	}
}

// many lists every second sector of 9 MiB, which is more than one reply holds.
func many(t *testing.T) string {
	t.Helper()
	var list strings.Builder
	for off := 0; off < 9<<20; off += 1024 {
		fmt.Fprintf(&list, "%d 512 0\n%d 512 hole,zero\n", off, off+512)
	}
	path := filepath.Join(t.TempDir(), "extents")
	if err := os.WriteFile(path, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAllocationThatIsNotOfferedIsSaidSo(t *testing.T) {
	s := nbdtest.Serve(t, "--no-sr", "memory", "1M")
	client := connect(t, nbd.Config{Address: s.Address})
	err := client.Allocated(t.Context(), 0, 1<<20, func(int64, int64, bool) error { return nil })
	if client.TellsAllocation() || !errors.Is(err, nbd.ErrNotOffered) {
		t.Errorf("got %v", err)
	}
}

func TestTheErrorOfEmitEndsAllocated(t *testing.T) {
	path, _ := sparse(t, 9<<20)
	s := nbdtest.Serve(t, "file", path)
	client := connect(t, nbd.Config{Address: s.Address})
	enough := errors.New("enough")
	calls := 0
	if err := client.Allocated(t.Context(), 0, 9<<20, func(int64, int64, bool) error { calls++; return enough }); err != enough || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func TestErrorsOfTheServerAreToldAndDoNotEndTheConnection(t *testing.T) {
	for _, args := range [][]string{nil, {"--no-sr"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			failing := filepath.Join(t.TempDir(), "failing")
			s := nbdtest.Serve(t, append(args, "--filter=error", "pattern", "4M", "error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+failing)...)
			client := connect(t, nbd.Config{Address: s.Address})
			p := make([]byte, block)
			if err := client.ReadAt(t.Context(), p, 0); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(failing, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			err := client.ReadAt(t.Context(), p, block)
			var answer *nbd.Error
			if !errors.As(err, &answer) || answer.Code != nbd.IO || !strings.Contains(err.Error(), "524288 bytes at 524288") {
				t.Errorf("got %v", err)
			}
			if err := os.Remove(failing); err != nil {
				t.Fatal(err)
			}
			if err := client.ReadAt(t.Context(), p, block); err != nil {
				t.Errorf("the connection is of no use after an error: %v", err)
			}
		})
	}
}

func TestTLSIsInsistedOnAndVerified(t *testing.T) {
	authority, other := nbdtest.NewAuthority(t), nbdtest.NewAuthority(t)
	dir := "--tls-certificates=" + authority.Directory(t)
	mine := []tls.Certificate{authority.Client(t)}
	for name, c := range map[string]struct {
		args []string
		tls  *tls.Config
		ok   bool
		want error
		text string
	}{
		"the right authority":                      {[]string{"--tls=require", dir}, &tls.Config{RootCAs: authority.Pool}, true, nil, ""},
		"a server with TLS at the client's choice": {[]string{"--tls=on", dir}, &tls.Config{RootCAs: authority.Pool}, true, nil, ""},
		"TLS 1.2":                                   {[]string{"--tls=require", dir}, &tls.Config{RootCAs: authority.Pool, MaxVersion: tls.VersionTLS12}, true, nil, ""},
		"the wrong authority":                       {[]string{"--tls=require", dir}, &tls.Config{RootCAs: other.Pool}, false, nil, "unknown authority"},
		"another server's name":                     {[]string{"--tls=require", dir}, &tls.Config{RootCAs: authority.Pool, ServerName: "nbd.example.com"}, false, nil, "nbd.example.com"},
		"a client's certificate":                    {[]string{"--tls=require", "--tls-verify-peer", dir}, &tls.Config{RootCAs: authority.Pool, Certificates: mine}, true, nil, ""},
		"a client's certificate that is missing":    {[]string{"--tls=require", "--tls-verify-peer", dir}, &tls.Config{RootCAs: authority.Pool}, false, nil, "another certificate"},
		"a client's certificate of others":          {[]string{"--tls=require", "--tls-verify-peer", dir}, &tls.Config{RootCAs: authority.Pool, Certificates: []tls.Certificate{other.Client(t)}}, false, nil, "another certificate"},
		"a plain server where TLS is wanted":        {nil, &tls.Config{RootCAs: authority.Pool}, false, nbd.ErrNoTLS, ""},
		"an old plain server where TLS is wanted":   {[]string{"--mask-handshake=0"}, &tls.Config{RootCAs: authority.Pool}, false, nbd.ErrNoTLS, ""},
		"a server that insists on TLS, without any": {[]string{"--tls=require", dir}, nil, false, nil, "TLS is required"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.Serve(t, append(c.args, "pattern", "1M")...)
			client, err := nbd.Connect(t.Context(), nbd.Config{Address: s.Address, TLS: c.tls})
			if err == nil {
				defer client.Close()
				err = client.ReadAt(t.Context(), make([]byte, 512), 0)
			}
			if c.ok != (err == nil) || c.want != nil && !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnExportThatIsNotThereIsRefused(t *testing.T) {
	for name, args := range map[string][]string{"by a reply": nil, "by hanging up": {"--mask-handshake=0"}} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.Serve(t, append(args, "--filter=exportname", "pattern", "1M", "exportname=web", "exportname-strict=true")...)
			if client, err := nbd.Connect(t.Context(), nbd.Config{Address: s.Address, Export: "mail"}); err == nil {
				_ = client.Close()
				t.Error("it was given")
			} else if name == "by a reply" && !errors.As(err, new(*nbd.Refusal)) {
				t.Errorf("got %v", err)
			}
			if client := connect(t, nbd.Config{Address: s.Address, Export: "web"}); client.Size() != 1<<20 {
				t.Errorf("it has %d bytes", client.Size())
			}
		})
	}
}

func TestAServerThatDiesEndsAllReads(t *testing.T) {
	s := nbdtest.Serve(t, "--filter=delay", "pattern", "64M", "rdelay=60")
	client := connect(t, nbd.Config{Address: s.Address})
	results := make(chan error)
	for i := range int64(8) {
		go func() { results <- client.ReadAt(context.Background(), make([]byte, block), i*block) }()
	}
	s.Kill()
	for range 8 {
		if err := <-results; err == nil {
			t.Error("a read came back from a dead server")
		}
	}
	if err := client.ReadAt(t.Context(), make([]byte, block), 0); err == nil || client.Err() == nil {
		t.Error("the connection is thought to be alive")
	}
}

func TestACanceledReadReturnsAtOnceAndItsReplyDoesNoHarm(t *testing.T) {
	authority := nbdtest.NewAuthority(t)
	for name, c := range map[string]struct {
		args []string
		tls  *tls.Config
	}{
		"plain":          {nil, nil},
		"simple replies": {[]string{"--no-sr"}, nil},
		"TLS":            {[]string{"--tls=require", "--tls-certificates=" + authority.Directory(t)}, &tls.Config{RootCAs: authority.Pool}},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.Serve(t, append(c.args, "--filter=delay", "pattern", "64M", "delay-read=200ms")...)
			client := connect(t, nbd.Config{Address: s.Address, TLS: c.tls})
			late := make([]byte, block)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := client.ReadAt(ctx, late, block); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			// The replies to these come behind the late one.
			got, want := make([]byte, block), make([]byte, block)
			for off := int64(0); off < 2*block; off += block {
				if err := client.ReadAt(t.Context(), got, off); err != nil {
					t.Fatal(err)
				}
				if pattern(want, off); !bytes.Equal(got, want) {
					t.Errorf("other bytes were read at %d", off)
				}
			}
			if !bytes.Equal(late, make([]byte, block)) {
				t.Error("the late reply was written to the memory of its reader, who had gone")
			}
		})
	}
}

// TestCancellationAtAnyMomentLeavesTheConnectionInOrder cancels reads while
// their bytes arrive; under the race detector, it also shows that nobody
// writes to their memory afterwards.
func TestCancellationAtAnyMomentLeavesTheConnectionInOrder(t *testing.T) {
	const size = 64 << 20
	path, content := random(t, size)
	authority := nbdtest.NewAuthority(t)
	for name, c := range map[string]struct {
		args []string
		tls  *tls.Config
	}{
		"plain": {nil, nil},
		"TLS":   {[]string{"--tls=require", "--tls-certificates=" + authority.Directory(t)}, &tls.Config{RootCAs: authority.Pool}},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.Serve(t, append(c.args, "file", path)...)
			client := connect(t, nbd.Config{Address: s.Address, TLS: c.tls})
			var all sync.WaitGroup
			for reader := range 8 {
				all.Go(func() {
					random := rand.New(rand.NewPCG(uint64(reader), 1))
					got := make([]byte, 1<<20)
					for range 15 {
						off := random.Int64N((size-1<<20)/512) * 512
						ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond<<random.IntN(16))
						err := client.ReadAt(ctx, got, off)
						cancel()
						if err == nil && !bytes.Equal(got, content[off:off+1<<20]) {
							t.Errorf("other bytes were read at %d", off)
						}
						if err != nil {
							if !errors.Is(err, context.DeadlineExceeded) {
								t.Error(err)
								return
							}
							clear(got)
						}
					}
				})
			}
			all.Wait()
			if err := client.ReadAt(t.Context(), make([]byte, block), 0); err != nil {
				t.Error(err)
			}
		})
	}
}

func BenchmarkReadAt(b *testing.B) {
	authority := nbdtest.NewAuthority(b)
	const size = 256 << 20
	for name, c := range map[string]struct {
		args []string
		tls  *tls.Config
	}{
		"plain":       {nil, nil},
		"TLS":         {[]string{"--tls=require", "--tls-certificates=" + authority.Directory(b)}, &tls.Config{RootCAs: authority.Pool}},
		"late by 5ms": {[]string{"--filter=delay", "delay-read=5ms"}, nil},
	} {
		for _, inFlight := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("%s/in-flight=%d", name, inFlight), func(b *testing.B) {
				args := append([]string{"memory", fmt.Sprint(size)}, c.args...)
				s := nbdtest.Serve(b, args...)
				client := connect(b, nbd.Config{Address: s.Address, TLS: c.tls})
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					next := make(chan int64, size/block)
					for off := int64(0); off < size; off += block {
						next <- off
					}
					close(next)
					var all sync.WaitGroup
					for range inFlight {
						all.Go(func() {
							p := make([]byte, block)
							for off := range next {
								if err := client.ReadAt(context.Background(), p, off); err != nil {
									b.Error(err)
								}
							}
						})
					}
					all.Wait()
				}
			})
		}
	}
}
