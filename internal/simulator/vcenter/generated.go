package vcenter

import (
	"encoding/binary"
	"fmt"
)

// Pattern describes generated content: the disk is cut into runs, and each run
// is random, text-like or zero (unallocated). The same pattern and size give
// the same bytes, at any offset, without memory or files.
type Pattern struct {
	Seed uint64
	// Random and Text are the shares of the disk in percent; the rest is zero.
	Random, Text int
	// Run is the length of a run in bytes, rounded up to 64 KiB; 0 takes
	// 1 MiB, and more on disks over 64 GiB.
	Run int64
}

// Generated is a disk of size bytes that starts with the pattern's bytes; what
// the guest writes is kept in memory.
func Generated(p Pattern, size int64) Content {
	return Content{open: func(string) (opened, error) {
		if p.Random < 0 || p.Text < 0 || p.Random+p.Text > 100 {
			return opened{}, fmt.Errorf("a pattern of %d %% random and %d %% text does not add up", p.Random, p.Text)
		}
		return opened{base: newGenerated(p, size), pages: newMemoryPages(), size: size}, nil
	}}
}

const (
	maxRuns   = 1 << 16 // keeps the list of extents of a huge disk short
	textBlock = 4 << 10
)

type generated struct {
	Pattern
	size int64
	text []byte
}

func newGenerated(p Pattern, size int64) *generated {
	if p.Run <= 0 {
		p.Run = max(1<<20, size/maxRuns)
	}
	p.Run = roundUp(p.Run)
	return &generated{Pattern: p, size: size, text: prose(p.Seed)}
}

type kind int

const (
	zeros kind = iota
	random
	text
)

func (g *generated) kind(run int64) kind {
	switch pick := int(mix(g.Seed^0x72756e, uint64(run)) % 100); {
	case pick < g.Random:
		return random
	case pick < g.Random+g.Text:
		return text
	}
	return zeros
}

// Size implements Base.
func (g *generated) Size() int64 { return g.size }

// Allocated implements Base.
func (g *generated) Allocated() ([]Extent, error) {
	var list []Extent
	for at := int64(0); at < g.size; at += g.Run {
		if g.kind(at/g.Run) == zeros {
			continue
		}
		if n := len(list); n > 0 && list[n-1].End() == at {
			list[n-1].Length += g.Run
			continue
		}
		list = append(list, Extent{at, g.Run})
	}
	return union(list, g.size), nil
}

// ReadAt implements io.ReaderAt.
func (g *generated) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		part := p[n:min(len(p), n+int(min(g.Run-at%g.Run, 1<<30)))]
		switch g.kind(at / g.Run) {
		case random:
			g.fillRandom(part, at)
		case text:
			g.fillText(part, at)
		default:
			clear(part)
		}
		n += len(part)
	}
	return len(p), nil
}

// fillRandom gives every aligned 8 bytes of the disk a number of their own.
func (g *generated) fillRandom(p []byte, off int64) {
	word, skip := uint64(off)/8, int(off%8)
	var b [8]byte
	if skip > 0 {
		binary.LittleEndian.PutUint64(b[:], mix(g.Seed, word))
		p = p[copy(p, b[skip:]):]
		word++
	}
	seed := g.Seed
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, mix(seed, word))
		word++
	}
	binary.LittleEndian.PutUint64(b[:], mix(g.Seed, word))
	copy(p, b[:])
}

// fillText gives every aligned 4 KiB of the disk its own slice of the prose.
func (g *generated) fillText(p []byte, off int64) {
	for len(p) > 0 {
		block, skip := off/textBlock, int(off%textBlock)
		start := int(mix(g.Seed^0x74657874, uint64(block)) % uint64(len(g.text)-textBlock))
		n := copy(p, g.text[start+skip:start+textBlock])
		p, off = p[n:], off+int64(n)
	}
}

// prose is a long compressible text in which no two places look quite the same.
func prose(seed uint64) []byte {
	words := []string{"server", "disk", "replica", "snapshot", "ledger", "invoice", "customer", "region", "error", "retry", "commit", "index"}
	out := make([]byte, 0, 17*textBlock)
	for n := uint64(0); len(out) < 16*textBlock; n++ {
		r := mix(seed^0x70726f7365, n)
		out = fmt.Appendf(out, "%s %d ", words[r%uint64(len(words))], r>>52)
	}
	return out
}

// mix is a finalizer in the manner of SplitMix64: a cheap hash whose output
// looks random for consecutive n.
func mix(seed, n uint64) uint64 {
	z := seed + (n+1)*0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
