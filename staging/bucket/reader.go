package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Get implements staging.Store. The reader resumes a broken stream, as long as
// the object is still the same, within the budget that opening it began; ctx
// governs its reads too. From an offset at or past the end there is nothing to
// read, which is no error.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, fmt.Errorf("get %s: the offset %d is negative", key, off)
	}
	if n < 0 || n > math.MaxInt64-off {
		n = all
	}
	r := &reader{ctx: ctx, store: s, key: key, op: s.operation("get", key), next: off, left: n}
	open := r.open
	if n == 0 { // HTTP knows no empty range
		open = func() error { return s.head(ctx, key) }
	}
	if err := r.op.do(ctx, open); err != nil {
		return nil, err
	}
	return r, nil
}

// all stands for a length that is not known yet.
const all = -1

// errClosed is what a Read after Close gets.
var errClosed = errors.New("the object's reader is closed")

// reader reads a range of an object.
type reader struct {
	ctx   context.Context // Get's, which governs the reads by its contract
	store *Store
	key   string
	op    *operation
	next  int64 // offset of the next byte
	left  int64 // bytes that are still to come, or all before the first open
	etag  string
	body  io.ReadCloser // nil while there is no stream
	err   error         // final
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.err == nil {
		if r.left == 0 {
			return 0, io.EOF
		}
		if r.body == nil {
			if r.err = r.op.do(r.ctx, r.open); r.err != nil {
				break
			}
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
		r.next += int64(n)
		r.left -= int64(n)
		if n > 0 {
			r.op.gotOn()
		}
		if err != nil || r.left == 0 {
			r.drop()
		}
		if err != nil && r.left > 0 {
			r.err = r.broken(err)
		}
		if n > 0 {
			return n, nil // a final error is told by the next Read
		}
	}
	return 0, r.err
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.drop()
	if r.err == nil {
		r.err = errClosed
	}
	return nil
}

// drop ends the stream. How that goes tells nothing: all that was wanted of it
// has arrived, or it is to be replaced.
func (r *reader) drop() {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
}

// broken takes a stream's early end. It waits and returns nil when the stream
// is to be opened again.
func (r *reader) broken(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	err = fmt.Errorf("the stream broke at byte %d, with %d to come: %w", r.next, r.left, err)
	if r.etag == "" {
		return KindUnfit.New(err, "%s: without an ETag a broken stream cannot be resumed", r.op)
	}
	return r.op.failed(r.ctx, err)
}

// open is one attempt to have the stream at next.
func (r *reader) open() error {
	in := &s3.GetObjectInput{Bucket: &r.store.bucket, Key: aws.String(r.store.prefix + r.key)}
	if r.left != all {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", r.next, r.next+r.left-1))
	} else if r.next > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", r.next))
	}
	resumed := r.etag != ""
	if resumed {
		in.IfMatch = &r.etag
	}
	out, err := r.store.client.GetObject(r.ctx, in)
	switch status := statusOf(err); {
	case err == nil:
	case resumed && (status == http.StatusPreconditionFailed || status == http.StatusRequestedRangeNotSatisfiable):
		return KindChanged.New(err, "resume at byte %d", r.next)
	case status == http.StatusRequestedRangeNotSatisfiable:
		r.left = 0
		return nil
	default:
		return asNotFound(err)
	}
	if err := r.check(in, out, resumed); err != nil {
		return errors.Join(err, out.Body.Close())
	}
	r.body, r.left, r.etag = out.Body, *out.ContentLength, aws.ToString(out.ETag)
	return nil
}

// check sees that the answer is the whole of the range that was asked for.
func (r *reader) check(in *s3.GetObjectInput, out *s3.GetObjectOutput, resumed bool) error {
	if out.ContentLength == nil || *out.ContentLength < 0 {
		return KindUnfit.New(nil, "it answers without Content-Length")
	}
	length := *out.ContentLength
	if in.Range != nil {
		var first, last, size int64
		_, err := fmt.Sscanf(aws.ToString(out.ContentRange), "bytes %d-%d/%d", &first, &last, &size)
		want := size - 1
		if r.left != all {
			want = min(want, r.next+r.left-1)
		}
		if err != nil || first != r.next || last != want || length != last-first+1 {
			return KindUnfit.New(err, "it answers a request for %s with %d bytes as %q", *in.Range, length, aws.ToString(out.ContentRange))
		}
	}
	if resumed && length != r.left {
		return KindChanged.New(nil, "resume at byte %d: %d bytes follow instead of %d", r.next, length, r.left)
	}
	return nil
}
