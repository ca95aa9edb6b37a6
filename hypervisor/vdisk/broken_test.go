package vdisk

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// patch changes a file's little-endian fields: offset to value.
func patch(width int, at int64, v uint64) func(p []byte) []byte {
	return func(p []byte) []byte {
		if width == 4 {
			binary.LittleEndian.PutUint32(p[at:], uint32(v))
		} else {
			binary.LittleEndian.PutUint64(p[at:], v)
		}
		return p
	}
}

func TestBrokenDeltasAreRefused(t *testing.T) {
	rng := seeded(3)
	d := delta{20 << 20, 4096, map[int64][]byte{0: make([]byte, 4096), 1: nil}}
	cowd, se := d.cowd(rng), d.sesparse(rng, 0)
	cowdTable := int64(binary.LittleEndian.Uint32(cowd[2048:])) * SectorSize
	const seGD, seGT = 2 << 20, 3 << 20
	last := func(p []byte) uint64 { return uint64(len(p)/SectorSize - 1) }
	type change = func(p []byte) []byte
	for _, test := range []struct {
		name   string
		open   func(context.Context, File) (Layout, error)
		good   []byte
		change change
	}{
		{"COWD: an empty file", OpenCOWD, cowd, func(p []byte) []byte { return nil }},
		{"COWD: a header cut short", OpenCOWD, cowd, func(p []byte) []byte { return p[:2047] }},
		{"COWD: no magic number", OpenCOWD, cowd, patch(4, 0, 0x564d444b)},
		{"COWD: another version", OpenCOWD, cowd, patch(4, 4, 2)},
		{"COWD: no grain size", OpenCOWD, cowd, patch(4, 16, 0)},
		{"COWD: an impossible grain size", OpenCOWD, cowd, patch(4, 16, 1<<32-1)},
		{"COWD: a directory in the header", OpenCOWD, cowd, patch(4, 20, 3)},
		{"COWD: a directory beyond the file", OpenCOWD, cowd, patch(4, 20, 1<<32-1)},
		{"COWD: a directory with too few entries", OpenCOWD, cowd, patch(4, 24, 1)},
		{"COWD: a size that its directory cannot map", OpenCOWD, cowd, patch(4, 12, 1<<32-1)},
		{"COWD: a table in the header", OpenCOWD, cowd, patch(4, 2048, 1)},
		{"COWD: a table beyond the file", OpenCOWD, cowd, patch(4, 2048, 1<<32-1)},
		{"COWD: a table across the file's end", OpenCOWD, cowd, patch(4, 2048, last(cowd))},
		{"COWD: a grain in the header", OpenCOWD, cowd, patch(4, cowdTable, 2)},
		{"COWD: a grain beyond the file", OpenCOWD, cowd, patch(4, cowdTable, 1<<32-1)},
		{"COWD: a grain across the file's end", OpenCOWD, cowd, patch(4, cowdTable, last(cowd))},

		{"SEsparse: an empty file", OpenSESparse, se, func(p []byte) []byte { return nil }},
		{"SEsparse: no magic number", OpenSESparse, se, patch(8, 0, 0)},
		{"SEsparse: another version", OpenSESparse, se, patch(8, 8, 0x200000002)},
		{"SEsparse: a size larger than any", OpenSESparse, se, patch(8, 16, 1<<63)},
		{"SEsparse: another grain size", OpenSESparse, se, patch(8, 24, 16)},
		{"SEsparse: another table size", OpenSESparse, se, patch(8, 32, 32)},
		{"SEsparse: a flag", OpenSESparse, se, patch(8, 40, 1)},
		{"SEsparse: a reserved field", OpenSESparse, se, patch(8, 9*8, 1)},
		{"SEsparse: a field behind the known ones", OpenSESparse, se, patch(8, 26*8, 1)},
		{"SEsparse: a volatile header beyond the file", OpenSESparse, se, patch(8, 10*8, 1<<63)},
		{"SEsparse: a volatile header without its magic number", OpenSESparse, se, patch(8, 512, 0)},
		{"SEsparse: a journal to be replayed", OpenSESparse, se, patch(8, 512+24, 1)},
		{"SEsparse: an unknown field in the volatile header", OpenSESparse, se, patch(8, 512+32, 1)},
		{"SEsparse: a directory beyond the file", OpenSESparse, se, patch(8, 16*8, 1<<60)},
		{"SEsparse: a directory too short", OpenSESparse, se, patch(8, 17*8, 0)},
		{"SEsparse: a directory of overflowing length", OpenSESparse, se, patch(8, 17*8, 1<<62)},
		{"SEsparse: tables beyond the file", OpenSESparse, se, patch(8, 18*8, 1<<40)},
		{"SEsparse: tables beyond any file", OpenSESparse, se, patch(8, 18*8, 1<<63)},
		{"SEsparse: grains beyond any file", OpenSESparse, se, patch(8, 24*8, 1<<63)},
		{"SEsparse: a directory entry of an unknown kind", OpenSESparse, se, patch(8, seGD, 2<<60)},
		{"SEsparse: a directory entry of more than 32 bits", OpenSESparse, se, patch(8, seGD, 1<<60|1<<32)},
		{"SEsparse: a table beyond the file", OpenSESparse, se, patch(8, seGD, 1<<60|1<<31)},
		{"SEsparse: a table entry of an unknown kind", OpenSESparse, se, patch(8, seGT, 4<<60)},
		{"SEsparse: a table entry without a kind", OpenSESparse, se, patch(8, seGT, 1)},
		{"SEsparse: a grain beyond the file", OpenSESparse, se, patch(8, seGT, 3<<60|1<<20)},
		{"SEsparse: a grain of the highest number", OpenSESparse, se, patch(8, seGT, 4<<60-1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := test.open(context.Background(), fileOf(test.change(bytes.Clone(test.good))))
			if err == nil {
				_, err = pieces(l, 0, l.Size())
			}
			if !isFormatError(err) {
				t.Errorf("error %v", err)
			}
		})
	}
	for name, l := range map[string]Link{"COWD": link(t, OpenCOWD, fileOf(cowd)), "SEsparse": link(t, OpenSESparse, fileOf(se))} {
		if _, err := pieces(l.Layout, 0, l.Layout.Size()); err != nil {
			t.Errorf("the unchanged %s: %v", name, err)
		}
	}
}

// The file was written by an ESXi host: its guest filled the first 16 MiB with
// the letter a.
func TestARealFileOfESXiIsRead(t *testing.T) {
	dir := os.Getenv("SKYLIFT_DISKS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data", "disks")
	}
	in, err := os.Open(filepath.Join(dir, "sesparse.vmdk.gz"))
	if err != nil {
		t.Skipf("the disks of real hosts are not here (SKYLIFT_DISKS says where): %v", err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	l := link(t, OpenSESparse, fileOf(file))
	const size, written = 512 << 20, 16 << 20
	if l.Layout.Size() != size {
		t.Fatalf("size %d", l.Layout.Size())
	}
	c := chainOf(t, size, l)
	p := make([]byte, written)
	if err := c.ReadAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	same(t, "what the guest wrote", p, bytes.Repeat([]byte("a"), written))
	rest := mustPieces(t, l.Layout, written, size-written)
	if len(rest) != 1 || rest[0].Kind != Parent {
		t.Errorf("behind it: %+v", rest)
	}

	work := t.TempDir()
	write(t, work, "sesparse.vmdk", file)
	write(t, work, "disk.vmdk", []byte("# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"seSparse\"\nRW 1048576 SESPARSE \"sesparse.vmdk\"\n"))
	qemu(t, work, "convert", "-f", "vmdk", "-O", "raw", "disk.vmdk", "disk.raw")
	theirs := make([]byte, written)
	if err := openFile(t, filepath.Join(work, "disk.raw")).ReadAt(context.Background(), theirs, 0); err != nil {
		t.Fatal(err)
	}
	same(t, "what qemu-img reads", theirs, p)
}
