package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"skylift/staging"
)

// maxRanges bounds how many ranges a Result lists.
const maxRanges = 256

// Result is what VerifyImage found.
type Result struct {
	Size, Want int64 // bytes there are, and that there should be
	Blocks     int64 // compared
	Differing  int64 // blocks that are not what the block map says
	// Ranges are the first of the differing blocks.
	Ranges []staging.Range
}

// OK reports whether everything is as the block map says.
func (r *Result) OK() bool { return r.Size == r.Want && r.Differing == 0 }

// Err says what is not; nil when all is.
func (r *Result) Err() error {
	switch {
	case r.OK():
		return nil
	case r.Differing == 0:
		return fmt.Errorf("it has %d bytes instead of %d", r.Size, r.Want)
	}
	return fmt.Errorf("%d of %d blocks are not what the block map says, the first is block %d", r.Differing, r.Blocks, r.Ranges[0].First)
}

func (r *Result) differs(block int64) {
	r.Differing++
	last := len(r.Ranges) - 1
	switch {
	case last >= 0 && r.Ranges[last].First+r.Ranges[last].Count == block:
		r.Ranges[last].Count++
	case last+1 < maxRanges:
		r.Ranges = append(r.Ranges, staging.Range{First: block, Count: 1})
	}
}

// VerifyImage compares a raw image of size bytes with the block map of the
// sealed disk m. What is missing of the image counts as zeros. Holes of an
// *os.File, whose offset it moves, are not read. done, which may be nil, is told
// how many more bytes of the disk were compared. Its error says that something
// could not be read, not that something differs.
func VerifyImage(ctx context.Context, r io.ReaderAt, size int64, m *staging.Manifest, store staging.Store, done func(bytes int64)) (Result, error) {
	v := &verifier{r: r, size: min(size, m.Disk.Size), result: Result{Size: size, Want: m.Disk.Size}}
	v.file, _ = r.(*os.File)
	for range runtime.GOMAXPROCS(0) {
		v.buffers = append(v.buffers, make([]byte, staging.BlockSize))
	}
	c := &cursor{store: store, m: m}
	blocks := staging.Blocks(m.Disk.Size)
	for first := int64(0); first < blocks; first += staging.ShardBlocks {
		if err := context.Cause(ctx); err != nil {
			return v.result, err
		}
		if _, err := c.at(ctx, first); err != nil {
			return v.result, err
		}
		n := min(staging.ShardBlocks, blocks-first)
		if err := v.shard(ctx, first, n, &c.shard); err != nil {
			return v.result, fmt.Errorf("verify block %d and what follows: %w", first, err)
		}
		if done != nil {
			done(min(n*staging.BlockSize, m.Disk.Size-first*staging.BlockSize))
		}
	}
	return v.result, nil
}

type verifier struct {
	r       io.ReaderAt
	file    *os.File // nil: nothing is known of holes
	size    int64    // how much there is to read
	buffers [][]byte // one for each worker
	result  Result
}

// shard compares n blocks, all workers taking turns in them.
func (v *verifier) shard(ctx context.Context, first, n int64, want *staging.Shard) error {
	var hole, differs [staging.ShardBlocks]bool
	if err := v.holes(first, n, hole[:n]); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	workers := int64(len(v.buffers))
	for w := range workers {
		group.Go(func() error {
			for i := w; i < n; i += workers {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				var got staging.Hash
				if !hole[i] {
					p := v.buffers[w]
					if err := v.read(p, (first+i)*staging.BlockSize); err != nil {
						return err
					}
					got = staging.HashBlock(p)
				}
				differs[i] = got != want[i]
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range n {
		if differs[i] {
			v.result.differs(first + i)
		}
	}
	v.result.Blocks += n
	return nil
}

// holes marks the blocks that lie in holes altogether.
func (v *verifier) holes(first, n int64, hole []bool) error {
	if v.file == nil {
		return nil
	}
	for i := range hole {
		hole[i] = true
	}
	end := min((first+n)*staging.BlockSize, v.size)
	for at := first * staging.BlockSize; at < end; {
		from, to, err := nextData(v.file, at, v.size)
		if err != nil {
			return err
		}
		if from >= end {
			return nil
		}
		to = min(to, end)
		for b := from / staging.BlockSize; b*staging.BlockSize < to; b++ {
			hole[b-first] = false
		}
		at = to
	}
	return nil
}

// read fills p from off, with zeros behind the end.
func (v *verifier) read(p []byte, off int64) error {
	n := max(min(int64(len(p)), v.size-off), 0)
	got, err := v.r.ReadAt(p[:n], off)
	if int64(got) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	clear(p[n:])
	return nil
}
