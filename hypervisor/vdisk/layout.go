package vdisk

import (
	"context"
	"fmt"
)

// Kind says what a Piece of a disk is.
type Kind int

const (
	Data   Kind = iota // the file holds the bytes
	Zero               // the bytes are zero
	Parent             // not held here: the parent's bytes, zero where there is no parent
)

func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Parent:
		return "parent"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Piece says where a run of a disk's bytes is. All lengths and offsets are in
// bytes.
type Piece struct {
	Offset, Length int64 // of the disk
	At             int64 // of the file; only of Data, else 0
	Kind           Kind
}

// Layout maps a virtual disk's bytes into one file. It is safe for concurrent
// use.
type Layout interface {
	// Size is the virtual disk's, in bytes.
	Size() int64
	// Pieces emits the pieces of the disk's bytes [off, off+length), which
	// must be inside the disk: ascending, without gaps, and joined where
	// neighbors are of one kind and, if data, contiguous in the file. An error
	// of emit ends it and is returned. Tables are read as needed, a bounded
	// number of them is kept.
	Pieces(ctx context.Context, off, length int64, emit func(Piece) error) error
}

// Flat is the layout of a disk of size bytes that lies in one run of a file,
// from its byte at on: the FLAT and VMFS extents of a descriptor.
func Flat(size, at int64) Layout { return flat{size, at} }

type flat struct{ size, at int64 }

func (f flat) Size() int64 { return f.size }

func (f flat) Pieces(ctx context.Context, off, length int64, emit func(Piece) error) error {
	if err := within(off, length, f.size); err != nil {
		return err
	}
	if length == 0 {
		return nil
	}
	return emit(Piece{Offset: off, Length: length, At: f.at + off, Kind: Data})
}

// within refuses a range that is not inside a disk of size bytes.
func within(off, length, size int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%d bytes at offset %d are not inside the disk of %d bytes", length, off, size)
	}
	return nil
}
