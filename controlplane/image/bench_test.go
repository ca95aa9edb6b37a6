package image

import (
	"testing"

	"skylift/staging/stagingtest"
)

// BenchmarkBuild builds a first run and one that changes an eighth of its
// blocks, from a store in memory, compressed and read back.
func BenchmarkBuild(b *testing.B) {
	const size = 256 * mib
	g := newGuest(b, stagingtest.NewMemory(), "disk", size, 50)
	g.zstd = true
	for n := range int64(size / blockSize) {
		g.write(n)
	}
	first := g.stage()
	for n := range int64(size / blockSize / 8) {
		g.write(n * 8)
	}
	second := g.stage()
	b.SetBytes(2 * size)
	for b.Loop() {
		b.StopTimer()
		l := newLocal(b, b.TempDir(), g.store, Options{})
		b.StartTimer()
		for _, run := range []staged1{first, second} {
			if _, err := l.Build(b.Context(), request(run), nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkVerifyImage compares a large image that is mostly holes.
func BenchmarkVerifyImage(b *testing.B) {
	const size = 1 << 36
	g := newGuest(b, stagingtest.NewMemory(), "disk", size, 51)
	g.write(77)
	run := g.stage()
	f, err := createRaw(b.TempDir()+"/disk.raw", size)
	must(b, err)
	must(b, f.put(77, run.blocks[77]))
	b.SetBytes(size)
	for b.Loop() {
		if result, err := VerifyImage(b.Context(), f.File, size, run.m, g.store, nil); err != nil || !result.OK() {
			b.Fatal(result, err)
		}
	}
	must(b, f.Close())
}
