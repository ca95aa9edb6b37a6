package vdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Link is one file of a chain and what it holds.
type Link struct {
	Layout Layout
	File   File
}

// Chain is a disk spread over files: the newest first, each holding what was
// written since the next one was frozen, the base last. It is a File of the
// disk's bytes.
type Chain struct {
	size  int64
	links []Link
}

// NewChain makes a disk of size bytes of links. The size is the disk's own: a
// link may be smaller, as deltas written before the disk grew are.
func NewChain(size int64, links ...Link) (*Chain, error) {
	if size < 0 {
		return nil, fmt.Errorf("a disk of %d bytes", size)
	}
	if len(links) == 0 {
		return nil, errors.New("a disk without files")
	}
	return &Chain{size, links}, nil
}

// Size is the disk's, in bytes.
func (c *Chain) Size() int64 { return c.size }

// Run is a Piece of kind Data or Zero; for Data, Link says in which file of
// the chain, counted from the newest.
type Run struct {
	Piece
	Link int
}

// Runs emits where the disk's bytes [off, off+length), which must be inside
// the disk, are: ascending and without gaps. Where a link ends, the bytes are
// zero: it had no bytes there for those behind it to be asked. An error of emit
// ends it and is returned.
func (c *Chain) Runs(ctx context.Context, off, length int64, emit func(Run) error) error {
	if err := within(off, length, c.size); err != nil {
		return err
	}
	j := joiner{emit: emit}
	if err := c.resolve(ctx, 0, off, length, j.add); err != nil {
		return err
	}
	return j.flush()
}

// resolve finds the bytes as the given link and those behind it have them.
func (c *Chain) resolve(ctx context.Context, link int, off, length int64, add func(Run) error) error {
	held := int64(0)
	if link < len(c.links) {
		held = max(0, min(length, c.links[link].Layout.Size()-off))
	}
	if held > 0 {
		err := c.links[link].Layout.Pieces(ctx, off, held, func(p Piece) error {
			if p.Kind == Parent {
				return c.resolve(ctx, link+1, p.Offset, p.Length, add)
			}
			if p.Kind == Zero {
				return add(Run{Piece: p})
			}
			return add(Run{p, link})
		})
		if err != nil {
			return err
		}
	}
	if held == length {
		return nil
	}
	return add(Run{Piece: Piece{Offset: off + held, Length: length - held, Kind: Zero}})
}

// ReadAt fills p with the disk's bytes from off on, one read per run: for
// small reads. It keeps File's promises.
func (c *Chain) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off > c.size-int64(len(p)) {
		return io.ErrUnexpectedEOF
	}
	return c.Runs(ctx, off, int64(len(p)), func(r Run) error {
		part := p[r.Offset-off:][:r.Length]
		if r.Kind == Zero {
			clear(part)
			return nil
		}
		if err := c.links[r.Link].File.ReadAt(ctx, part, r.At); err != nil {
			return fmt.Errorf("read %d bytes at offset %d of file %d of the chain: %w", r.Length, r.At, r.Link, err)
		}
		return nil
	})
}

// joiner emits runs, those that continue each other as one.
type joiner struct {
	emit func(Run) error
	last Run
}

func (j *joiner) add(r Run) error {
	l := &j.last
	if l.Length > 0 && r.Kind == l.Kind && (r.Kind != Data || r.Link == l.Link && r.At == l.At+l.Length) {
		l.Length += r.Length
		return nil
	}
	err := j.flush()
	j.last = r
	return err
}

func (j *joiner) flush() error {
	if j.last.Length == 0 {
		return nil
	}
	r := j.last
	j.last = Run{}
	return j.emit(r)
}
