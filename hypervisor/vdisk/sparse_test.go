package vdisk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestSparseFilesOfQemuAreReadByteForByte(t *testing.T) {
	for name, disk := range map[string][]byte{
		"of one sector":             content(512, 1),
		"of a grain and a sector":   content(testGrain+512, 2),
		"that is all zeros":         make([]byte, 5<<20),
		"with holes and an odd end": content(10<<20+3*512, 3),
		"with several tables":       append(sparse(33<<20, 4), make([]byte, 20<<20)...),
	} {
		t.Run(name, func(t *testing.T) {
			f := openFile(t, vmdk(t, disk, "monolithicSparse"))
			same(t, "disk", whole(t, chainOf(t, int64(len(disk)), link(t, OpenSparse, f))), disk)
		})
	}
}

func TestADiskInExtentsOfTwoGigabytesIsRead(t *testing.T) {
	dir := t.TempDir()
	const size, extent = 5<<30 + 512, 2047 << 20 // sizes as qemu-img cuts them
	f, err := os.Create(dir + "/disk.raw")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	marks := map[int64]string{0: "first", 2<<30 + 12345: "second extent", 4<<30 - 3: "third", size - 4: "last"}
	for off, s := range marks {
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	qemu(t, dir, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "disk.raw", "disk.vmdk")
	d, err := ParseDescriptor(read(t, dir+"/disk.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	start := int64(0)
	for _, e := range d.Extents {
		l := link(t, OpenSparse, openFile(t, filepath.Join(dir, e.File)))
		if l.Layout.Size() != e.Sectors*SectorSize {
			t.Errorf("%s has %d bytes, its descriptor says %d", e.File, l.Layout.Size(), e.Sectors*SectorSize)
		}
		c := chainOf(t, l.Layout.Size(), l)
		for off, s := range marks {
			if off < start || off >= start+c.Size() {
				continue
			}
			p := make([]byte, min(int64(len(s)), start+c.Size()-off))
			if err := c.ReadAt(context.Background(), p, off-start); err != nil || string(p) != s[:len(p)] {
				t.Errorf("at %d: %q, %v", off, p, err)
			}
			delete(marks, off)
		}
		start += c.Size()
	}
	if start != size || len(d.Extents) < 3 || len(marks) > 0 {
		t.Errorf("%d extents of %d bytes, not found %v", len(d.Extents), start, marks)
	}
}

func TestZeroGrainsOfSparseFilesAreKnownByTheFlag(t *testing.T) {
	parent := content(1<<20, 5)
	dir := t.TempDir()
	write(t, dir, "disk.raw", parent)
	qemu(t, dir, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicSparse", "disk.raw", "base.vmdk")
	qemu(t, dir, "create", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk")
	p := read(t, dir+"/child.vmdk")
	gd := int64(binary.LittleEndian.Uint64(p[56:])) * SectorSize
	gt := int64(binary.LittleEndian.Uint32(p[gd:])) * SectorSize
	binary.LittleEndian.PutUint32(p[gt+4*2:], 1)
	write(t, dir, "child.vmdk", p)
	qemu(t, dir, "convert", "-f", "vmdk", "-O", "raw", "child.vmdk", "child.raw")
	want := bytes.Clone(parent)
	clear(want[2*testGrain : 3*testGrain])
	same(t, "qemu-img's disk", read(t, dir+"/child.raw"), want)
	c := chainOf(t, 1<<20, link(t, OpenSparse, fileOf(p)), flatLink(parent))
	same(t, "ours", whole(t, c), want)

	binary.LittleEndian.PutUint32(p[8:], 3) // without the flag, sector 1 is not a grain's
	p = append(p, make([]byte, testGrain)...)
	if err := chainOf(t, 1<<20, link(t, OpenSparse, fileOf(p)), flatLink(parent)).ReadAt(context.Background(), make([]byte, 1<<20), 0); !isFormatError(err) {
		t.Errorf("without the flag: %v", err)
	}
}

func TestBrokenSparseFilesAreRefused(t *testing.T) {
	good := read(t, vmdk(t, content(1<<20, 6), "monolithicSparse"))
	gd := int64(binary.LittleEndian.Uint64(good[56:])) * SectorSize
	gt := int64(binary.LittleEndian.Uint32(good[gd:])) * SectorSize
	for name, broken := range map[string]func(p []byte) []byte{
		"an empty file":                        func(p []byte) []byte { return nil },
		"a header cut short":                   func(p []byte) []byte { return p[:511] },
		"no magic number":                      func(p []byte) []byte { p[0] = 0; return p },
		"version 4":                            func(p []byte) []byte { p[4] = 4; return p },
		"a compressed disk":                    func(p []byte) []byte { p[77] = 1; return p },
		"the compressed flag":                  func(p []byte) []byte { p[10] = 1; return p },
		"tables at the end":                    func(p []byte) []byte { binary.LittleEndian.PutUint64(p[56:], gdAtEnd); return p },
		"a file in use":                        func(p []byte) []byte { p[72] = 1; return p },
		"newlines changed by a copy as text":   func(p []byte) []byte { p[75] = '\n'; return p },
		"a size that its directory cannot map": func(p []byte) []byte { binary.LittleEndian.PutUint64(p[12:], 1<<40); return p },
		"grains of an impossible size":         func(p []byte) []byte { binary.LittleEndian.PutUint64(p[20:], 1<<40); return p },
		"a directory beyond the file":          func(p []byte) []byte { binary.LittleEndian.PutUint64(p[56:], 1<<60); return p },
		"a directory in the header":            func(p []byte) []byte { binary.LittleEndian.PutUint64(p[56:], 0); return p },
		"a table beyond the file":              func(p []byte) []byte { binary.LittleEndian.PutUint32(p[gd:], 1<<30); return p },
		"a table across the file's end": func(p []byte) []byte {
			binary.LittleEndian.PutUint32(p[gd:], uint32(len(p)/SectorSize-1))
			return p
		},
		"a grain beyond the file": func(p []byte) []byte { binary.LittleEndian.PutUint32(p[gt:], 1<<32-1); return p },
		"a grain across the file's end": func(p []byte) []byte {
			binary.LittleEndian.PutUint32(p[gt:], uint32(len(p)/SectorSize-1))
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := OpenSparse(context.Background(), fileOf(broken(bytes.Clone(good))))
			if err == nil {
				_, err = pieces(l, 0, l.Size())
			}
			if !isFormatError(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A grain's bytes need only be there up to the end of the disk.
func TestTheLastGrainMayEndWithTheDisk(t *testing.T) {
	const size = testGrain + 512
	p := read(t, vmdk(t, content(size, 7), "monolithicSparse"))
	gd := int64(binary.LittleEndian.Uint64(p[56:])) * SectorSize
	gt := int64(binary.LittleEndian.Uint32(p[gd:])) * SectorSize
	last := int64(binary.LittleEndian.Uint32(p[gt+4:])) * SectorSize
	for cut, ok := range map[int64]bool{last + 512: true, last + 511: false} {
		l, err := OpenSparse(context.Background(), fileOf(p[:cut]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pieces(l, 0, size); (err == nil) != ok || err != nil && !isFormatError(err) {
			t.Errorf("a file cut to %d bytes: %v", cut, fmt.Sprint(err))
		}
	}
}
