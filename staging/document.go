package staging

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A document is how plans and manifests are written: JSON values, one per
// line, in one zstd frame: first a header object with the counts of what
// follows, then that. Both directions work line by line, so memory does not
// depend on what a reader is given.

// maxLine bounds a document's line in bytes; headers are far shorter.
const maxLine = 64 << 10

// documentWindow bounds the memory of a document's decoder.
const documentWindow = 1 << 20

type documentWriter struct {
	object string
	out    *zstd.Encoder
	err    error
}

func newDocumentWriter(object string, w io.Writer) (*documentWriter, error) {
	out, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(documentWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &documentWriter{object: object, out: out}, nil
}

// line writes one value; the first error sticks.
func (d *documentWriter) line(v any) {
	if d.err != nil {
		return
	}
	p, err := json.Marshal(v)
	if err == nil && len(p) >= maxLine {
		err = bad(d.object, ErrRange, "a line of %d bytes", len(p))
	}
	if err == nil {
		_, err = d.out.Write(append(p, '\n'))
	}
	d.err = err
}

func (d *documentWriter) close() error { return errors.Join(d.err, d.out.Close()) }

type documentReader struct {
	object string
	source *sourceReader
	in     *zstd.Decoder
	lines  *bufio.Reader
}

func newDocumentReader(object string, r io.Reader) (*documentReader, error) {
	source := &sourceReader{r: r}
	in, err := zstd.NewReader(source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(documentWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &documentReader{object, source, in, bufio.NewReaderSize(in, maxLine)}, nil
}

func (d *documentReader) close() { d.in.Close() }

// header reads the first line into v, after the version in it was found to be
// one that is known: a reader refuses what it does not know before it looks
// at the rest.
func (d *documentReader) header(format string, v any) error {
	p, err := d.raw()
	if err != nil {
		return err
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(p, &head); err != nil {
		return bad(d.object, ErrMalformed, "header: %v", err)
	}
	if head.Format != format {
		return bad(d.object, ErrMalformed, "its format is %.40q, not %q", head.Format, format)
	}
	if head.Version != Version {
		return bad(d.object, ErrVersion, "version %d", head.Version)
	}
	return d.strict(p, v)
}

// line reads the next line into v.
func (d *documentReader) line(v any) error {
	p, err := d.raw()
	if err != nil {
		return err
	}
	return d.strict(p, v)
}

// end errs unless everything was read.
func (d *documentReader) end() error {
	_, err := d.lines.ReadByte()
	switch {
	case err == nil:
		return bad(d.object, ErrTrailing, "after its last line")
	case err != io.EOF:
		return d.broken(err)
	}
	return nil
}

func (d *documentReader) raw() ([]byte, error) {
	p, err := d.lines.ReadSlice('\n')
	switch {
	case err == nil:
		return p[:len(p)-1], nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, bad(d.object, ErrRange, "a line of more than %d bytes", maxLine)
	case err == io.EOF:
		return nil, bad(d.object, ErrTruncated, "in a line")
	}
	return nil, d.broken(err)
}

func (d *documentReader) strict(p []byte, v any) error {
	in := json.NewDecoder(bytes.NewReader(p))
	in.DisallowUnknownFields()
	if err := in.Decode(v); err != nil {
		return bad(d.object, ErrMalformed, "%v", err)
	}
	if in.InputOffset() != int64(len(p)) {
		return bad(d.object, ErrTrailing, "in a line")
	}
	return nil
}

// broken tells what the decompressor found from what the stream's reader said.
func (d *documentReader) broken(err error) error {
	switch {
	case d.source.err != nil:
		return fmt.Errorf("read %s: %w", d.object, d.source.err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return bad(d.object, ErrTruncated, "in the compressed stream")
	case errors.Is(err, zstd.ErrCRCMismatch):
		return bad(d.object, ErrChecksum, "%v", err)
	}
	return bad(d.object, ErrMalformed, "%v", err)
}

// sourceReader remembers the error of the stream below the decompressor.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
