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

// contents are the disks of the full runs, all of them allocated to the last
// byte, so that everything travels.
func contents(size int64) map[string]vcenter.Base {
	random, text := randomBytes(), prose()
	return map[string]vcenter.Base{
		"random": &content{size: size, data: [][]byte{random}},
		"text":   &content{size: size, data: [][]byte{text}},
		"zero":   &content{size: size, data: [][]byte{random, text}, one: 10},
	}
}

// content is a disk made of runs of 4 MiB. One in so many holds data.
type content struct {
	size int64
	data [][]byte
	one  int64 // 0: all of them
}

const runSize = 4 << 20

func (c *content) Size() int64 { return c.size }

func (c *content) Allocated() ([]vcenter.Extent, error) {
	return []vcenter.Extent{{Offset: 0, Length: c.size}}, nil
}

func (c *content) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		run := at / runSize
		part := p[n:min(len(p), n+int(runSize-at%runSize))]
		n += len(part)
		if c.one > 0 {
			if run%c.one != 0 {
				clear(part)
				continue
			}
			run /= c.one
		}
		data := c.data[run%int64(len(c.data))]
		copy(part, data[at%corpus:])
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
