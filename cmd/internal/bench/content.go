package main

import (
	"fmt"
	"math/rand/v2"

	"skylift/internal/simulator/vcenter"
)

// corpus is how many bytes of content are kept; a disk repeats them. That is
// more than a block, so it does not show in what a block compresses to, and
// little enough to cost the source next to nothing.
const corpus = 8 << 20

// contents are the disks of the full runs. Those that are compared with the
// bare work are allocated to the last byte, so that everything travels; the
// one called server is half empty, as disks of servers are.
func contents(size int64) map[string]vcenter.Base {
	random, text := randomBytes(), prose()
	zero := make([][]byte, 20)
	zero[0], zero[10] = random, text
	return map[string]vcenter.Base{
		"random": &content{size: size, cycle: [][]byte{random}},
		"text":   &content{size: size, cycle: [][]byte{text}},
		"zero":   &content{size: size, cycle: zero},
		"server": &content{size: size, cycle: [][]byte{text, random, text, random, nil}, unused: 5},
	}
}

// content is a disk made of runs of 4 MiB: over and over those of the cycle, nil
// for zeros, and after them so many that nobody has ever written.
type content struct {
	size   int64
	cycle  [][]byte
	unused int64
}

const runSize = 4 << 20

func (c *content) Size() int64 { return c.size }

func (c *content) Allocated() (list []vcenter.Extent, _ error) {
	if c.unused == 0 {
		return []vcenter.Extent{{Offset: 0, Length: c.size}}, nil
	}
	used := int64(len(c.cycle)) * runSize
	for at := int64(0); at < c.size; at += used + c.unused*runSize {
		list = append(list, vcenter.Extent{Offset: at, Length: min(used, c.size-at)})
	}
	return list, nil
}

func (c *content) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		part := p[n:min(len(p), n+int(runSize-at%runSize))]
		n += len(part)
		turn := at / runSize % (int64(len(c.cycle)) + c.unused)
		if turn >= int64(len(c.cycle)) || c.cycle[turn] == nil {
			clear(part)
			continue
		}
		copy(part, c.cycle[turn][at%corpus:])
	}
	return len(p), nil
}

func randomBytes() []byte {
	p := make([]byte, corpus)
	_, _ = rand.NewChaCha8([32]byte{'r'}).Read(p)
	return p
}

// prose is text of words with the frequencies of a natural language and of
// numbers: it compresses as logs and documents do.
func prose() []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	vocabulary := make([]string, 5000)
	for i := range vocabulary {
		word := make([]byte, 2+rng.IntN(9))
		for j := range word {
			word[j] = "etaoinshrdlucmfwypvbgk"[min(rng.IntN(22), rng.IntN(22))]
		}
		vocabulary[i] = string(word)
	}
	frequency := rand.NewZipf(rng, 1.1, 5, uint64(len(vocabulary)-1))
	p := make([]byte, 0, corpus+64)
	for len(p) < corpus {
		switch rng.IntN(12) {
		case 0:
			p = fmt.Appendf(p, "%d\n", rng.IntN(1e6))
		default:
			p = append(append(p, vocabulary[frequency.Uint64()]...), ' ')
		}
	}
	return p[:corpus]
}
