package vsphere

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"skylift/hypervisor"
)

// TestExtentsAreEmittedFromAnyBlocks has blocks and extents at random.
func TestExtentsAreEmittedFromAnyBlocks(t *testing.T) {
	const blocks, size = 10, 9*block + 512
	random := rand.New(rand.NewPCG(3, 4))
	for range 30 {
		disk := make([]byte, size)
		var held []int64
		for b := range int64(blocks) {
			if random.IntN(2) == 0 {
				disk[b*block] = 1
				held = append(held, b*block)
			}
		}
		var in []hypervisor.Extent
		for at := random.Int64N(4); at < blocks; at += random.Int64N(3) {
			n := random.Int64N(min(4, blocks-at) + 1)
			in = append(in, hypervisor.Extent{Offset: at * block, Length: min(size, (at+n)*block) - at*block})
			at += n
		}
		k := newTaker(size, withoutEmpty(in)...)
		var stop error
		w := &extentWriter{cursor: cursor{rest: in}, emit: func(off int64, p []byte, n int64) error {
			if random.IntN(10) == 0 && stop == nil {
				stop = errors.New("for now")
				return stop
			}
			return k.take(off, p, n)
		}}
		once := func() error {
			for _, off := range held {
				padded := make([]byte, block)
				copy(padded, disk[off:])
				if err := w.data(t.Context(), off, padded); err != nil {
					return err
				}
			}
			return w.finish(t.Context())
		}
		err := once()
		if stop != nil { // what comes then is the same blocks again
			err = once()
		}
		if err != nil || !w.finished() {
			t.Fatalf("%v, %v is left of %v", err, w.rest, in)
		}
		k.check(t, disk, true)
	}
}

func withoutEmpty(in []hypervisor.Extent) (out []hypervisor.Extent) {
	for _, e := range in {
		if e.Length > 0 {
			out = append(out, e)
		}
	}
	return out
}

func TestAPlaceBehindTheExtentsIsNotWanted(t *testing.T) {
	c := cursor{rest: []hypervisor.Extent{{Offset: block, Length: block}, {Offset: 3 * block, Length: 2 * block}}}
	var wanted bytes.Buffer
	for b := range int64(7) {
		if c.seek(b * block) {
			wanted.WriteByte('x')
		} else {
			wanted.WriteByte('-')
		}
	}
	if wanted.String() != "-x-xx--" || !c.done() {
		t.Errorf("wanted are %s, done is %v", wanted.String(), c.done())
	}
}
