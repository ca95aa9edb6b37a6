package image

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"skylift/staging"
)

// defaultParallel is how many segments of a disk are read at once.
const defaultParallel = 4

// applier reads a staged disk's segments, several at a time, and puts the
// blocks that the maps ask for.
type applier struct {
	*staged
	parallel int
	// put takes a block whose hash is the map's, nil for zeros; may be called
	// at once for different blocks. nil: everything is read and nothing put.
	put func(block int64, raw []byte) error
	// wanted narrows what is put to blocks that still are so in a later map;
	// nil: the run's map is that.
	wanted *cursor
	// refuse takes what is wrong with the run; its error ends everything. One
	// call at a time is up to it.
	refuse func(*Fault) error
	// segment is told of every segment that is dealt with.
	segment func(blocks, bytes int64)
}

// run returns the first error, which is one of the store's, put's or refuse's.
func (a *applier) apply(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	slices := make(chan slice)
	group.Go(func() error {
		defer close(slices)
		return a.walk(ctx, func(s slice) error {
			some, err := a.narrow(ctx, &s)
			if err != nil {
				return err
			}
			if !some && a.wanted != nil {
				return nil
			}
			select {
			case slices <- s:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}, a.refuse)
	})
	for range max(a.parallel, 1) {
		group.Go(func() error {
			reader, err := staging.NewSegmentReader()
			if err != nil {
				return err
			}
			defer reader.Close()
			for s := range slices {
				if err := a.read(ctx, reader, &s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// narrow drops the wish for blocks that a later map has otherwise, and tells
// whether any is left.
func (a *applier) narrow(ctx context.Context, s *slice) (some bool, err error) {
	for i := range s.blocks {
		b := &s.blocks[i]
		if b.differs && a.wanted != nil {
			sum, err := a.wanted.at(ctx, b.block)
			if err != nil {
				return false, err
			}
			b.differs = sum == b.sum
		}
		some = some || b.differs
	}
	return some, nil
}

// read puts a segment's blocks and refuses what is not as the maps say.
func (a *applier) read(ctx context.Context, reader *staging.SegmentReader, s *slice) error {
	key := a.run.Place().Segment(s.segment)
	body, err := a.store.Get(ctx, key, 0, -1)
	if errors.Is(err, staging.ErrNotFound) {
		return a.refuse(&Fault{s.segment, firstOf(s), err})
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	var blocks, bytes int64
	var own error // an error of put or refuse
	err = reader.Read(body, a.run.SegmentID(s.segment), func(e staging.Entry, raw []byte) error {
		blocks, bytes = blocks+1, bytes+int64(e.Length)
		own = a.entry(s, e, raw)
		return own
	})
	switch {
	case own != nil:
		return own
	case err != nil && isDamage(err):
		return a.refuse(&Fault{s.segment, firstOf(s), err})
	case err != nil:
		return fmt.Errorf("read %s: %w", key, err)
	}
	for _, b := range s.blocks {
		if b.differs {
			if err := a.refuse(&Fault{s.segment, b.block, ErrNoEntry}); err != nil {
				return err
			}
		}
	}
	if a.segment != nil {
		a.segment(blocks, bytes)
	}
	return nil
}

// entry puts one block if it is asked for. An entry that is as the map says
// but does not differ from the base is harmless.
func (a *applier) entry(s *slice, e staging.Entry, raw []byte) error {
	i, ok := s.find(e.Block)
	switch {
	case !ok:
		return a.refuse(&Fault{s.segment, e.Block, ErrNotOfSlice})
	case s.blocks[i].sum != e.Sum:
		s.blocks[i].differs = false // it is spoken of once
		return a.refuse(&Fault{s.segment, e.Block, ErrOtherHash})
	case !s.blocks[i].differs:
		return nil
	}
	s.blocks[i].differs = false // nothing is left to be done
	if a.put == nil {
		return nil
	}
	err := a.put(e.Block, raw)
	if errors.Is(err, errPadding) {
		return a.refuse(&Fault{s.segment, e.Block, err})
	}
	return err
}

// firstOf is the first block that a segment is needed for; -1 for none.
func firstOf(s *slice) int64 {
	for _, b := range s.blocks {
		if b.differs {
			return b.block
		}
	}
	return -1
}
