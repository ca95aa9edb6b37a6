package transfer

import (
	"fmt"

	"skylift/hypervisor"
	"skylift/staging"
)

// assembler cuts what a source emits into whole blocks and holds the source
// to its contract: the bytes of the extents asked for, in order, all of them.
type assembler struct {
	size    int64 // of the disk
	extents []hypervisor.Extent
	scratch []byte // one block
	// block takes each block, zero-padded at the disk's end; raw is nil for
	// one that is known to be zero, and valid until it returns.
	block func(n int64, raw []byte) error

	at     int64 // next offset expected
	filled int   // bytes of the current block in scratch
}

func (a *assembler) begin(extents []hypervisor.Extent) {
	a.extents, a.filled = extents, 0
	if len(extents) > 0 {
		a.at = extents[0].Offset
	}
}

// emit takes the next piece, as hypervisor.Disk's Read gives it.
func (a *assembler) emit(off int64, p []byte, n int64) error {
	if p != nil {
		n = int64(len(p))
	}
	for n > 0 {
		if len(a.extents) == 0 || off != a.at || n > a.extents[0].End()-a.at && len(a.extents) == 1 {
			return fmt.Errorf("the source gave %d bytes at %d, which nobody asked for", n, off)
		}
		piece := min(n, a.extents[0].End()-a.at)
		if err := a.take(p, piece); err != nil {
			return err
		}
		if p != nil {
			p = p[piece:]
		}
		off, n = off+piece, n-piece
		if a.at == a.extents[0].End() {
			a.extents = a.extents[1:]
			if len(a.extents) > 0 {
				a.at = a.extents[0].Offset
			}
		}
	}
	return nil
}

// take consumes n bytes at a.at inside one extent.
func (a *assembler) take(p []byte, n int64) error {
	for n > 0 {
		block, rest := a.at/staging.BlockSize, min(a.at/staging.BlockSize*staging.BlockSize+staging.BlockSize, a.size)-a.at
		piece := min(n, rest)
		whole := a.filled == 0 && piece == staging.BlockSize
		var raw []byte
		switch {
		case whole && p != nil:
			raw = p[:piece]
		case whole:
		case p != nil:
			copy(a.scratch[a.filled:], p[:piece])
			raw = a.scratch
		default:
			clear(a.scratch[a.filled : a.filled+int(piece)])
			raw = a.scratch
		}
		a.at, n = a.at+piece, n-piece
		if p != nil {
			p = p[piece:]
		}
		if piece < rest {
			a.filled += int(piece)
			continue
		}
		if !whole {
			clear(a.scratch[a.filled+int(piece):])
			a.filled = 0
		}
		if err := a.block(block, raw); err != nil {
			return err
		}
	}
	return nil
}

// end errs unless every byte of the extents came.
func (a *assembler) end() error {
	if len(a.extents) > 0 {
		return fmt.Errorf("the source ended at offset %d, before the end of what was asked for", a.at)
	}
	return nil
}
