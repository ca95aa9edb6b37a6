package vsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"skylift/hypervisor"
	"skylift/hypervisor/vdisk"
)

// inflaters is how many grains of one stream are inflated at once at most: one
// processor does not keep up with a fast network.
const inflaters = 4

// decoder makes blocks of a stream's grains: one goroutine takes the grains
// that are wanted off the stream, several inflate them, and run hands on the
// blocks in order. So much memory as pieces are made is all it needs.
type decoder struct {
	stream *vdisk.Stream
	size   int64 // of the disk
	out    *extentWriter
	seen   func(off int64) // told how far the stream has come

	free    chan *piece // not in use
	filled  chan *piece // to be inflated
	ordered chan *piece // the same, in the stream's order
}

// piece is one block of the disk on its way.
type piece struct {
	off     int64 // of the block
	block   *[hypervisor.BlockSize]byte
	grains  []rawGrain
	raw     []byte     // the compressed grains, one behind the other
	decoded chan error // gets one answer each time that the piece is filled
}

// rawGrain is at [at, at+n) of the block, compressed at [from, to) of raw.
type rawGrain struct{ at, n, from, to int }

// run decodes until everything that out wants has been written. whole tells
// that the stream was read to its end. interrupt must have the stream's Read
// return soon; it is called when there is no more use for what comes.
func (d *decoder) run(ctx context.Context, blocks *sync.Pool, interrupt func()) (whole bool, err error) {
	workers := min(inflaters, runtime.GOMAXPROCS(0))
	pieces := workers + 2 // one being filled, one being emitted
	d.free, d.filled, d.ordered = make(chan *piece, pieces), make(chan *piece, pieces), make(chan *piece, pieces)
	for range pieces {
		p := &piece{block: blocks.Get().(*[hypervisor.BlockSize]byte), decoded: make(chan error, 1)}
		defer blocks.Put(p.block)
		d.free <- p
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer interrupt()
	defer cancel()
	for range workers {
		all.Go(func() {
			inflater := d.stream.NewInflater()
			for p := range d.filled {
				p.decoded <- p.inflate(inflater)
			}
		})
	}
	var ended bool
	var fault error
	wanted := d.out.cursor
	all.Go(func() {
		defer close(d.ordered)
		defer close(d.filled)
		ended, fault = d.fetch(ctx, wanted)
	})
	for p := range d.ordered {
		if err := <-p.decoded; err != nil {
			return false, err
		}
		if err := d.out.data(ctx, p.off, p.block[:]); err != nil {
			return false, err
		}
		d.free <- p
	}
	if fault != nil {
		return false, fault
	}
	return ended, d.out.finish(ctx)
}

// fetch fills pieces with the grains that are wanted. It returns when it has
// seen all of them, with whether the stream ended there.
func (d *decoder) fetch(ctx context.Context, wanted cursor) (whole bool, err error) {
	var p *piece
	send := func() {
		if p != nil {
			d.filled <- p
			d.ordered <- p
			p = nil
		}
	}
	for {
		off, n, err := d.stream.Next()
		if errors.Is(err, io.EOF) {
			send()
			return true, nil
		}
		if err != nil {
			return false, err // and the piece may lack grains
		}
		d.seen(off)
		block := off - off%hypervisor.BlockSize
		if p != nil && p.off != block {
			send()
		}
		if !wanted.seek(block) {
			if wanted.done() {
				return false, nil
			}
			continue
		}
		if off+n > block+hypervisor.BlockSize {
			return false, ExportUnusable.New(nil, "the exported disk is cut into pieces that do not fit into %d KiB: %d bytes at %d", hypervisor.BlockSize>>10, n, off)
		}
		if p == nil {
			select {
			case p = <-d.free:
				p.off, p.grains, p.raw = block, p.grains[:0], p.raw[:0]
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
		raw, err := d.stream.Raw()
		if err != nil {
			return false, err
		}
		from := len(p.raw)
		p.raw = append(p.raw, raw...)
		p.grains = append(p.grains, rawGrain{at: int(off - block), n: int(n), from: from, to: len(p.raw)})
		if end := wanted.rest[0].End(); len(wanted.rest) == 1 && off+n >= end && end < d.size {
			send()
			return false, nil
		}
	}
}

// inflate fills the block; what no grain holds is zero.
func (p *piece) inflate(with *vdisk.Inflater) error {
	filled := 0
	for _, g := range p.grains {
		clear(p.block[filled:g.at])
		if err := with.Inflate(p.block[g.at:g.at+g.n], p.raw[g.from:g.to]); err != nil {
			return fmt.Errorf("at %d: %w", p.off+int64(g.at), err)
		}
		filled = g.at + g.n
	}
	clear(p.block[filled:])
	return nil
}
