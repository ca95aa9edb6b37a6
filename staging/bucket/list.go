package bucket

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"skylift/staging"
)

// maxEmptyPages bounds how many pages in a row may hold nothing. S3 gives some
// where many objects were deleted lately.
const maxEmptyPages = 1000

// List implements staging.Store. Each page has a budget of its own, since a
// listing may have thousands.
func (s *Store) List(ctx context.Context, prefix string, emit func(staging.Object) error) error {
	var token *string
	last := "" // the last key of the listing so far
	for empty := 0; ; {
		op := s.operation("list", prefix)
		var page *s3.ListObjectsV2Output
		err := op.do(ctx, func() (err error) {
			page, err = s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
				Bucket: &s.bucket, Prefix: aws.String(s.prefix + prefix),
				MaxKeys: aws.Int32(int32(s.page)), ContinuationToken: token,
			})
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			full := aws.ToString(o.Key)
			key, ours := strings.CutPrefix(full, s.prefix)
			if !ours || !strings.HasPrefix(key, prefix) {
				return KindUnfit.New(nil, "%s: it lists %q", op, full)
			}
			if full <= last {
				return KindUnfit.New(nil, "%s: it lists %q after %q", op, full, last)
			}
			last = full
			if key == "" { // the prefix itself, which some tools make an object of
				continue
			}
			if err := emit(staging.Object{Key: key, Size: aws.ToInt64(o.Size)}); err != nil {
				return err
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			return nil
		}
		if empty++; len(page.Contents) > 0 {
			empty = 0
		}
		next := aws.ToString(page.NextContinuationToken)
		if next == "" || next == aws.ToString(token) || empty > maxEmptyPages {
			return KindUnfit.New(nil, "%s: its pages do not get on after %q", op, last)
		}
		token = &next
	}
}
