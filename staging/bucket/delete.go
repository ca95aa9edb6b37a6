package bucket

import (
	"context"
	"errors"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithy "github.com/aws/smithy-go"
)

// Delete implements staging.Store. Objects that could not be deleted do not
// keep the others of their batch, and are all told of. Whether the bucket
// keeps versions is learned from its answers: there a deletion makes a marker,
// and then every version goes, and the marker too.
func (s *Store) Delete(ctx context.Context, keys []string) error {
	for some := range slices.Chunk(keys, s.page) {
		full := make([]string, len(some))
		ids := make([]types.ObjectIdentifier, len(some))
		for i, key := range some {
			full[i] = s.prefix + key
			ids[i].Key = &full[i]
		}
		versioned, err := s.deleteBatch(ctx, ids)
		if err != nil {
			return err
		}
		if versioned {
			if err := s.deleteVersions(ctx, full); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteBatch deletes at most a page of objects or versions, and reports whether
// the bucket has put delete markers in the place of objects.
func (s *Store) deleteBatch(ctx context.Context, ids []types.ObjectIdentifier) (marked bool, err error) {
	op := s.operation("delete", relative(s, ids))
	var refused refusals
	err = op.do(ctx, func() error {
		out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: &s.bucket, Delete: &types.Delete{Objects: ids},
		})
		if err != nil {
			return err
		}
		for _, d := range out.Deleted {
			marked = marked || d.VersionId == nil && aws.ToBool(d.DeleteMarker)
		}
		var again error
		ids, again = refused.sort(out.Errors)
		return again
	})
	return marked, errors.Join(err, refused.problem(op))
}

// relative names a batch by its first key.
func relative(s *Store, ids []types.ObjectIdentifier) string {
	name := aws.ToString(ids[0].Key)[len(s.prefix):]
	if len(ids) > 1 {
		name += " and more"
	}
	return name
}

// refusals counts what a server would not delete, by its code.
type refusals struct {
	count int
	first map[string]types.Error
}

// sort keeps the final ones and returns the others, with the error for which
// they are to be tried again.
func (r *refusals) sort(errs []types.Error) (again []types.ObjectIdentifier, err error) {
	for _, e := range errs {
		code := aws.ToString(e.Code)
		if code == "NoSuchKey" || code == "NoSuchVersion" {
			continue
		}
		if _, retry, known := judgeCode(code); known && retry {
			again = append(again, types.ObjectIdentifier{Key: e.Key, VersionId: e.VersionId})
			err = asError(e)
			continue
		}
		r.count++
		if r.first == nil {
			r.first = map[string]types.Error{}
		}
		if _, ok := r.first[code]; !ok {
			r.first[code] = e
		}
	}
	return again, err
}

// problem tells of all of them, with an example of each code.
func (r *refusals) problem(op *operation) error {
	var errs []error
	for code, e := range r.first {
		kind, _, known := judgeCode(code)
		if !known {
			kind = KindRefused
		}
		errs = append(errs, kind.New(asError(e), "%s: %d not deleted, %s for one", op, r.count, aws.ToString(e.Key)))
	}
	return errors.Join(errs...)
}

func asError(e types.Error) error {
	return &smithy.GenericAPIError{Code: aws.ToString(e.Code), Message: aws.ToString(e.Message)}
}

// deleteVersions deletes every version and delete marker of the keys. They are
// all found before the first goes: a server may lose its place in a listing
// when the version that marks it is deleted.
func (s *Store) deleteVersions(ctx context.Context, keys []string) error {
	slices.Sort(keys)
	found, err := s.versions(ctx, keys)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(found, s.page) {
		if _, err := s.deleteBatch(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// versions returns the versions and delete markers of the keys, which are
// sorted. It lists what the keys' names have in common, up to the last of them.
func (s *Store) versions(ctx context.Context, keys []string) (found []types.ObjectIdentifier, err error) {
	first, last := keys[0], keys[len(keys)-1]
	prefix := first[:common(first, last)]
	var keyMarker, versionMarker *string
	for {
		op := s.operation("list the versions of", prefix[len(s.prefix):])
		var page *s3.ListObjectVersionsOutput
		err := op.do(ctx, func() (err error) {
			page, err = s.client.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{
				Bucket: &s.bucket, Prefix: &prefix, MaxKeys: aws.Int32(int32(s.page)),
				KeyMarker: keyMarker, VersionIdMarker: versionMarker,
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		past := false // a key after the last was listed
		visit := func(key, version *string) {
			past = past || aws.ToString(key) > last
			if _, wanted := slices.BinarySearch(keys, aws.ToString(key)); wanted {
				found = append(found, types.ObjectIdentifier{Key: key, VersionId: version})
			}
		}
		for _, v := range page.Versions {
			visit(v.Key, v.VersionId)
		}
		for _, m := range page.DeleteMarkers {
			visit(m.Key, m.VersionId)
		}
		if past || !aws.ToBool(page.IsTruncated) {
			return found, nil
		}
		nextKey, nextVersion := aws.ToString(page.NextKeyMarker), aws.ToString(page.NextVersionIdMarker)
		if nextKey < aws.ToString(keyMarker) || nextKey == aws.ToString(keyMarker) && nextVersion == aws.ToString(versionMarker) {
			return nil, KindUnfit.New(nil, "%s: its pages do not get on after %q", op, aws.ToString(keyMarker))
		}
		keyMarker, versionMarker = page.NextKeyMarker, page.NextVersionIdMarker
	}
}

// common returns the length of what a and b begin with.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
