package vdisk

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// Inflater decompresses a Stream's grains. It keeps its working memory: one
// for each goroutine that inflates.
type Inflater struct {
	grain int
	in    bytes.Reader
	z     io.ReadCloser // also a zlib.Resetter
	rest  [512]byte
}

// Inflate decompresses raw, a grain as Stream.Raw gave it, into dst, whose
// length is the grain's as Stream.Next gave it. Anything but exactly that many
// bytes under the right checksum is a FormatError; but the disk's last grain
// may be padded to a whole one.
func (i *Inflater) Inflate(dst, raw []byte) error {
	if err := i.inflate(dst, raw); err != nil {
		return malformed("%s: inflate a grain of %d bytes: %v", streamFormat, len(dst), err)
	}
	return nil
}

func (i *Inflater) inflate(dst, raw []byte) (err error) {
	i.in.Reset(raw)
	if i.z == nil {
		i.z, err = zlib.NewReader(&i.in)
	} else {
		err = i.z.(zlib.Resetter).Reset(&i.in, nil)
	}
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(i.z, dst); err != nil {
		return err
	}
	// Reading on to the end is also what checks the checksum.
	for whole := len(dst); ; {
		n, err := i.z.Read(i.rest[:])
		whole += n
		switch {
		case whole > i.grain:
			return fmt.Errorf("it has more than %d bytes", i.grain)
		case err == io.EOF && n == 0 && (whole == len(dst) || whole == i.grain):
			return nil
		case err == io.EOF && n == 0:
			return fmt.Errorf("it has %d bytes", whole)
		case err != nil && err != io.EOF:
			return err
		}
	}
}
