package vdisk

import (
	"bytes"
	stdzlib "compress/zlib"
	"context"
	"io"
	"os"
	"testing"
)

// packed deflates grains of a program, here the one that runs: what much of a
// disk consists of.
func packedGrains(b testing.TB, n int) (raw [][]byte) {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	program := read(b, name)
	for i := range n {
		p := program[i*testGrain%(len(program)-testGrain):][:testGrain]
		var out bytes.Buffer
		z, err := stdzlib.NewWriterLevel(&out, 1)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := z.Write(p); err != nil {
			b.Fatal(err)
		}
		if err := z.Close(); err != nil {
			b.Fatal(err)
		}
		raw = append(raw, out.Bytes())
	}
	return raw
}

func BenchmarkInflate(b *testing.B) {
	raw := packedGrains(b, 64)
	dst := make([]byte, testGrain)
	in := &Inflater{grain: testGrain}
	b.SetBytes(testGrain)
	for i := 0; b.Loop(); i++ {
		if err := in.Inflate(dst, raw[i%len(raw)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInflateStd(b *testing.B) {
	raw := packedGrains(b, 64)
	dst := make([]byte, testGrain)
	z, _ := stdzlib.NewReader(bytes.NewReader(raw[0]))
	b.SetBytes(testGrain)
	for i := 0; b.Loop(); i++ {
		z.(stdzlib.Resetter).Reset(bytes.NewReader(raw[i%len(raw)]), nil)
		if _, err := io.ReadFull(z, dst); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStream goes through a stream of a program's bytes: inflating every
// grain, and none.
func BenchmarkStream(b *testing.B) {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	disk := read(b, name)
	disk = disk[:len(disk)/SectorSize*SectorSize]
	stream := new(streamWriter).disk(disk)
	for _, inflate := range []bool{true, false} {
		b.Run(map[bool]string{true: "inflating", false: "skipping"}[inflate], func(b *testing.B) {
			b.SetBytes(int64(len(disk)))
			for b.Loop() {
				s, err := NewStream(bytes.NewReader(stream))
				if err != nil {
					b.Fatal(err)
				}
				for {
					_, _, err := s.Next()
					if err == io.EOF {
						break
					}
					if err == nil && inflate {
						_, err = s.Grain()
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkPieces maps 8 MiB at a time, as a segment's read does, of a delta
// whose every second grain is in a place of its own.
func BenchmarkPieces(b *testing.B) {
	const size, step = 256 << 20, 8 << 20
	for name, grain := range map[string]int64{"COWD": 512, "SEsparse": 4096} {
		d := delta{size, grain, map[int64][]byte{}}
		content := make([]byte, grain)
		for n := int64(0); n < 64<<20/grain; n += 2 {
			d.grains[n*4] = content // all over the disk
		}
		var l Layout
		if name == "COWD" {
			l = link(b, OpenCOWD, fileOf(d.cowd(seeded(1)))).Layout
		} else {
			l = link(b, OpenSESparse, fileOf(d.sesparse(seeded(1), 0))).Layout
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(step)
			off := int64(0)
			for b.Loop() {
				if err := l.Pieces(context.Background(), off, step, func(Piece) error { return nil }); err != nil {
					b.Fatal(err)
				}
				off = (off + 5*step) % size
			}
		})
	}
}
