package staging

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// benchBlocks are kinds of data that runs meet.
func benchBlocks() map[string][]byte {
	return map[string][]byte{"random": testBlock(1), "text": proseBlock(), "zero": make([]byte, BlockSize)}
}

// proseBlock compresses as logs and documents do: words with the frequencies
// of a natural language, and numbers.
func proseBlock() []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	frequency := rand.NewZipf(rng, 1.1, 5, 4999)
	p := make([]byte, 0, BlockSize+64)
	for len(p) < BlockSize {
		if rng.IntN(12) == 0 {
			p = fmt.Appendf(p, "%d\n", rng.IntN(1e6))
			continue
		}
		word := rand.New(rand.NewPCG(3, frequency.Uint64()))
		for range 2 + word.IntN(9) {
			p = append(p, "etaoinshrdlucmfwypvbgk"[min(word.IntN(22), word.IntN(22))])
		}
		p = append(p, ' ')
	}
	return p[:BlockSize]
}

func BenchmarkSegmentWriter(b *testing.B) {
	for name, block := range benchBlocks() {
		b.Run(name, func(b *testing.B) {
			encoder, err := NewEncoder(1)
			if err != nil {
				b.Fatal(err)
			}
			w, sum, stored := NewSegmentWriter(SegmentBlocks, encoder, nil), HashBlock(block), 0
			b.SetBytes(SegmentBlocks * BlockSize)
			b.ReportAllocs()
			for b.Loop() {
				w.Reset()
				for n := range int64(SegmentBlocks) {
					if err := w.Add(n, sum, block); err != nil {
						b.Fatal(err)
					}
				}
				stored = len(w.Bytes(testID))
			}
			b.ReportMetric(100*float64(stored)/(SegmentBlocks*BlockSize), "%stored")
		})
	}
}

func BenchmarkSegmentReader(b *testing.B) {
	for name, block := range benchBlocks() {
		b.Run(name, func(b *testing.B) {
			encoder, err := NewEncoder(1)
			if err != nil {
				b.Fatal(err)
			}
			w, sum := NewSegmentWriter(SegmentBlocks, encoder, nil), HashBlock(block)
			for n := range int64(SegmentBlocks) {
				if err := w.Add(n, sum, block); err != nil {
					b.Fatal(err)
				}
			}
			stored := w.Bytes(testID)
			reader, err := NewSegmentReader()
			if err != nil {
				b.Fatal(err)
			}
			defer reader.Close()
			b.SetBytes(SegmentBlocks * BlockSize)
			b.ReportAllocs()
			for b.Loop() {
				if err := reader.Read(bytes.NewReader(stored), testID, func(Entry, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHashBlock(b *testing.B) {
	for name, block := range benchBlocks() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(BlockSize)
			b.ReportAllocs()
			for b.Loop() {
				HashBlock(block)
			}
		})
	}
}

func BenchmarkIsZero(b *testing.B) {
	block := make([]byte, BlockSize)
	b.SetBytes(BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		if !IsZero(block) {
			b.Fatal("zeros are not zero")
		}
	}
}
