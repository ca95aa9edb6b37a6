package vdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"skylift/internal/need"
)

const testGrain = 64 << 10 // of qemu-img's files

// fileOf is a File of bytes.
func fileOf(p []byte) File { return FileOf(bytes.NewReader(p), int64(len(p))) }

// openFile is a File of a file on disk.
func openFile(t testing.TB, name string) File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return FileOf(f, info.Size())
}

// counted counts a File's reads and can refuse them.
type counted struct {
	File
	reads atomic.Int64
	fail  func() error
}

func (c *counted) ReadAt(ctx context.Context, p []byte, off int64) error {
	c.reads.Add(1)
	if c.fail != nil {
		if err := c.fail(); err != nil {
			return err
		}
	}
	return c.File.ReadAt(ctx, p, off)
}

// content fills a disk with what disks hold: holes, text that compresses and
// bytes that do not, at odd places.
func content(size int64, seed uint64) []byte {
	rng := seeded(seed)
	random := rand.NewChaCha8([32]byte{byte(seed)})
	text := bytes.Repeat([]byte("a line of a log file\n"), 10_000)
	p := make([]byte, size)
	for off := int64(0); off < size; {
		n := min(size-off, 1+rng.Int64N(200<<10))
		switch rng.IntN(4) {
		case 0: // a hole
		case 1:
			random.Read(p[off : off+n])
		case 2:
			copy(p[off:off+n], text)
		case 3:
			p[off] = 1 // nearly a hole
		}
		off += n
	}
	if size > 0 {
		p[size-1] = 0xee
	}
	return p
}

// sparse is a disk with little content at the start, in the middle and at the
// end.
func sparse(size int64, seed uint64) []byte {
	p := make([]byte, size)
	const some = 600 << 10
	copy(p, content(some, seed))
	copy(p[size/2:], content(some, seed+1))
	copy(p[size-some:], content(some, seed+2))
	return p
}

// qemu runs qemu-img in a directory.
func qemu(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(need.Program(t, "qemu-img"), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// write makes a file, with holes where p is zero: that is much faster.
func write(t testing.TB, dir, name string, p []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(p))); err != nil {
		t.Fatal(err)
	}
	hole := make([]byte, testGrain)
	for off := 0; off < len(p); off += testGrain {
		chunk := p[off:min(len(p), off+testGrain)]
		if bytes.Equal(chunk, hole[:len(chunk)]) {
			continue
		}
		if _, err := f.WriteAt(chunk, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// vmdk has qemu-img write a raw disk in one of its VMDK formats and returns
// the file.
func vmdk(t testing.TB, raw []byte, subformat string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "disk.raw", raw)
	qemu(t, dir, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+subformat, "disk.raw", "disk.vmdk")
	return filepath.Join(dir, "disk.vmdk")
}

// whole reads a chain to its end, in requests of odd lengths.
func whole(t testing.TB, c *Chain) []byte {
	t.Helper()
	p := make([]byte, c.Size())
	for off := int64(0); off < c.Size(); {
		n := min(c.Size()-off, 1_000_003)
		if err := c.ReadAt(context.Background(), p[off:off+n], off); err != nil {
			t.Fatalf("read %d bytes at %d: %v", n, off, err)
		}
		off += n
	}
	return p
}

func chainOf(t testing.TB, size int64, links ...Link) *Chain {
	t.Helper()
	c, err := NewChain(size, links...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// link opens a file as a link.
func link(t testing.TB, open func(context.Context, File) (Layout, error), f File) Link {
	t.Helper()
	l, err := open(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	return Link{l, f}
}

func flatLink(p []byte) Link { return Link{Flat(int64(len(p)), 0), fileOf(p)} }

// pieces collects a layout's pieces and checks what Layout promises of them.
func pieces(l Layout, off, length int64) (all []Piece, err error) {
	at := off
	err = l.Pieces(context.Background(), off, length, func(p Piece) error {
		if p.Offset != at || p.Length <= 0 {
			return fmt.Errorf("a piece of %d bytes at %d, expected one at %d", p.Length, p.Offset, at)
		}
		if p.Kind != Data && p.At != 0 {
			return fmt.Errorf("%+v has a place in the file", p)
		}
		if n := len(all); n > 0 && all[n-1].Kind == p.Kind && (p.Kind != Data || all[n-1].At+all[n-1].Length == p.At) {
			return fmt.Errorf("%+v continues %+v", p, all[n-1])
		}
		at += p.Length
		all = append(all, p)
		return nil
	})
	if err == nil && at != off+length {
		err = fmt.Errorf("the pieces end at %d, expected %d", at, off+length)
	}
	return all, err
}

func mustPieces(t testing.TB, l Layout, off, length int64) []Piece {
	t.Helper()
	all, err := pieces(l, off, length)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func isFormatError(err error) bool {
	var f *FormatError
	return errors.As(err, &f)
}

// same compares disks and says where they differ.
func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, expected %d", what, len(got), len(want))
	}
	for off := 0; off < len(want); off += SectorSize {
		end := min(off+SectorSize, len(want))
		if !bytes.Equal(got[off:end], want[off:end]) {
			t.Fatalf("%s: sector %d differs", what, off/SectorSize)
		}
	}
}

// drain reads a stream to its end into a disk.
func drain(r io.Reader) (disk []byte, grains int, err error) {
	s, err := NewStream(r)
	if err != nil {
		return nil, 0, err
	}
	disk = make([]byte, s.Size())
	for end := int64(0); ; {
		off, n, err := s.Next()
		if err == io.EOF {
			return disk, grains, nil
		}
		if err != nil {
			return nil, grains, err
		}
		if off < end || off%int64(s.GrainSize()) != 0 || off+n > s.Size() {
			return nil, grains, fmt.Errorf("a grain of %d bytes at %d after %d", n, off, end)
		}
		end = off + n
		p, err := s.Grain()
		if err != nil {
			return nil, grains, err
		}
		if int64(len(p)) != n {
			return nil, grains, fmt.Errorf("a grain of %d bytes where Next said %d", len(p), n)
		}
		copy(disk[off:], p)
		grains++
	}
}
