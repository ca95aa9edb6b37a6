package vdisk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
)

// fuzzLayout feeds a format's reader. Whatever it accepts must map the disk
// without gaps and into the file, and read.
func fuzzLayout(f *testing.F, open func(context.Context, File) (Layout, error)) {
	f.Fuzz(func(t *testing.T, file []byte, off, length int64) {
		l, err := open(context.Background(), fileOf(file))
		if err != nil {
			if !isFormatError(err) {
				t.Fatalf("open: %v", err)
			}
			return
		}
		if l.Size() < 0 || l.Size() > maxSectors*SectorSize {
			t.Fatalf("a disk of %d bytes", l.Size())
		}
		off = max(0, min(off, l.Size()))
		length = max(0, min(length, 64<<10, l.Size()-off))
		all, err := pieces(l, off, length)
		if err != nil {
			if !isFormatError(err) {
				t.Fatalf("%d bytes at %d of %d: %v", length, off, l.Size(), err)
			}
			return
		}
		want := bytes.Repeat([]byte{'p'}, int(length))
		for _, p := range all {
			switch at := want[p.Offset-off:][:p.Length]; p.Kind {
			case Data:
				if p.At < SectorSize || p.At > int64(len(file))-p.Length {
					t.Fatalf("%+v is not inside the file of %d bytes", p, len(file))
				}
				copy(at, file[p.At:])
			case Zero:
				clear(at)
			}
		}
		parent := Link{drawnParent(l.Size()), constant('p')}
		c, err := NewChain(l.Size(), Link{l, fileOf(file)}, parent)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, length)
		if err := c.ReadAt(context.Background(), got, off); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the chain reads otherwise (%v)", err)
		}
	})
}

// drawnParent is the layout of a parent of any size, all data.
func drawnParent(size int64) Layout { return Flat(size, 0) }

// constant is an endless file of one byte.
type constant byte

func (c constant) Size() int64 { return 1 << 62 }

func (c constant) ReadAt(_ context.Context, p []byte, _ int64) error {
	for i := range p {
		p[i] = byte(c)
	}
	return nil
}

func fuzzDelta(size, grain int64) delta {
	return delta{size, grain, map[int64][]byte{0: bytes.Repeat([]byte("d"), int(grain)), 1: nil, 4: bytes.Repeat([]byte("e"), int(grain))}}
}

func FuzzCOWD(f *testing.F) {
	f.Add([]byte(fuzzDelta(100<<10, 4096).cowd(seeded(1))), int64(0), int64(100<<10))
	f.Add([]byte(fuzzDelta(5<<20, 512).cowd(seeded(2))), int64(700), int64(3000))
	fuzzLayout(f, OpenCOWD)
}

func FuzzSESparse(f *testing.F) {
	small := compactSE(fuzzDelta(20<<20, 4096))
	f.Add(small, int64(0), int64(1<<20))
	f.Add(small, int64(16<<20-10), int64(20))
	fuzzLayout(f, OpenSESparse)
}

// compactSE is an SEsparse file without the room that a real one leaves.
func compactSE(d delta) []byte {
	var file deltaFile
	file.grow(2 * SectorSize)
	directory, table := file.grow(SectorSize), file.grow(seTableSectors*SectorSize)
	for i, v := range map[int64]uint64{
		0: 0xcafebabe, 1: 0x200000001, 2: uint64(d.size / SectorSize), 3: 8, 4: 64,
		10: 1, 11: 1, 16: uint64(directory), 17: 1, 18: uint64(table), 19: 64, 24: uint64(table + seTableSectors), 25: 1 << 10,
	} {
		file.put64(i*8, v)
	}
	file.put64(SectorSize, 0xcafecafe)
	file.put64(directory*SectorSize, 1<<60)
	next := uint64(0)
	for _, n := range d.shuffled(seeded(1)) {
		g := d.grains[n]
		entry := uint64(2 << 60)
		if g != nil {
			copy(file[file.grow(d.grain)*SectorSize:], g)
			entry, next = 3<<60|next<<48, next+1
		}
		file.put64(table*SectorSize+n*8, entry)
	}
	return file
}

func FuzzSparse(f *testing.F) {
	// A disk of two grains behind a header, a directory and a table.
	p := hostedHeader(2, flagNewlines|flagZeroGrains, 256, 16, 0, 0, 1, 6, 0)
	p = append(p, make([]byte, 5*SectorSize)...)
	binary.LittleEndian.PutUint32(p[SectorSize:], 2)
	for i, sector := range []uint32{6, 1, 0, 22} {
		binary.LittleEndian.PutUint32(p[2*SectorSize+4*i:], sector)
	}
	p = append(p, bytes.Repeat([]byte("d"), 32*SectorSize)...)
	f.Add(p, int64(0), int64(256*SectorSize))
	f.Add(p, int64(8000), int64(1000))
	fuzzLayout(f, OpenSparse)
}

// FuzzChain writes at random into a chain of deltas of both kinds over a base
// and compares what it reads with what was written.
func FuzzChain(f *testing.F) {
	f.Add([]byte{0, 1, 2, 0x83, 0x40, 0xff, 0xff, 7, 8, 9, 0xff, 5}, uint16(3), uint16(40000))
	f.Add([]byte{0xff, 0xff, 0xff}, uint16(0), uint16(0))
	f.Add([]byte{1, 0x81, 0xff, 0x41, 0xff, 1}, uint16(4000), uint16(1))
	f.Fuzz(func(t *testing.T, script []byte, off, length uint16) {
		const grain = 4096
		disk := content(9*grain+512, 1)
		links := []Link{flatLink(disk)}
		layer := delta{9*grain + 512, grain, map[int64][]byte{}}
		flush := func() {
			var l Link
			if len(links)%2 == 0 {
				l = link(t, OpenCOWD, fileOf(layer.cowd(seeded(1))))
			} else {
				l = link(t, OpenSESparse, fileOf(compactSE(layer)))
			}
			links = append([]Link{l}, links...)
			disk = layer.over(disk)
			layer = delta{min(layer.size+512, 64*grain), grain, map[int64][]byte{}}
		}
		for i, b := range script[:min(len(script), 64)] {
			n := int64(b&0x3f) % ((layer.size + grain - 1) / grain)
			switch {
			case b == 0xff:
				flush()
			case b&0x80 != 0:
				layer.grains[n] = nil
			default:
				layer.grains[n] = bytes.Repeat([]byte{byte(i + 1)}, grain)
			}
		}
		flush()
		c := chainOf(t, int64(len(disk)), links...)
		from := min(int64(off), c.Size())
		p := make([]byte, min(int64(length), c.Size()-from))
		if err := c.ReadAt(context.Background(), p, from); err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("%d bytes at %d of %d links", len(p), from, len(links)), p, disk[from:][:len(p)])
	})
}

func FuzzStream(f *testing.F) {
	small := func() *streamWriter { return &streamWriter{grainSize: 4096, overhead: 3} }
	f.Add(small().disk(append(bytes.Repeat([]byte("d"), 9000), make([]byte, 5*SectorSize-9000%SectorSize)...)))
	f.Add(small().disk(make([]byte, 1<<20)))
	// As qemu-img writes it: tables at the head, an end without a marker.
	head := hostedHeader(3, flagNewlines|flagCompressed|flagMarkers, 256, 128, 0, 0, 1, 6, 1)
	head = append(head, make([]byte, 5*SectorSize)...)
	binary.LittleEndian.PutUint32(head[SectorSize:], 2)
	binary.LittleEndian.PutUint32(head[2*SectorSize:], 6)
	w := new(streamWriter)
	w.Write(head)
	w.grain(0, deflate(bytes.Repeat([]byte("d"), testGrain)))
	f.Add(w.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		s, err := NewStream(bytes.NewReader(stream))
		if err != nil {
			return
		}
		end := int64(0)
		for grains := 0; ; grains++ {
			off, n, err := s.Next()
			if err == io.EOF && (s.tally() != grains || grains*SectorSize > len(stream)) {
				t.Fatalf("%d grains in %d bytes", grains, len(stream))
			}
			if err != nil {
				return
			}
			if off < end || n <= 0 || off+n > s.Size() || n > int64(s.GrainSize()) {
				t.Fatalf("a grain of %d bytes at %d after %d", n, off, end)
			}
			end = off + n
			if p, err := s.Grain(); err == nil && int64(len(p)) != n {
				t.Fatalf("a grain of %d bytes has %d", n, len(p))
			}
		}
	})
}

func (s *Stream) tally() int { return int(s.grains.n) }
