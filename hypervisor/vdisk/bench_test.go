package vdisk

import (
	"bytes"
	stdzlib "compress/zlib"
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
