package bucket

import (
	"crypto/tls"
	"errors"
	"net/http"
	"regexp"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"skylift/internal/problem"
	"skylift/staging"
)

// The errors of a bucket that a user can see.
var (
	KindDenied = &problem.Kind{Code: "bucket-access-denied", Title: "the staging bucket refuses access",
		Hint: "Check that the bucket's and the account's policies allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the staging prefix, on a versioned bucket also s3:ListBucketVersions and s3:DeleteObjectVersion, and the use of the bucket's KMS key if it has one"}
	KindNoBucket = &problem.Kind{Code: "bucket-missing", Title: "the staging bucket does not exist",
		Hint: "Check the bucket's name, the endpoint and the account, or create the bucket"}
	KindRegion = &problem.Kind{Code: "bucket-wrong-region", Title: "the staging bucket lies in another Region",
		Hint: "Set the staging Region to the bucket's"}
	KindKey = &problem.Kind{Code: "bucket-key-refused", Title: "the access key or its secret is wrong",
		Hint: "Check the access key ID and the secret access key of the staging bucket, and that the key is active"}
	KindExpired = &problem.Kind{Code: "bucket-credentials-expired", Title: "the staging credentials have expired",
		Hint: "New ones were asked for and are expired too: check the role that issues them and the clocks of this machine and of the control plane"}
	KindNoCredentials = &problem.Kind{Code: "bucket-no-credentials", Title: "there are no credentials for the staging bucket",
		Hint: "Check the staging credentials in the settings, and the connection to the control plane if they come from there", Retry: true}
	KindClock = &problem.Kind{Code: "bucket-clock-skew", Title: "this machine's clock is too far from the server's",
		Hint: "Set the clock, and check that the time servers can be reached"}
	KindFull = &problem.Kind{Code: "bucket-full", Title: "the staging storage is full",
		Hint: "Free space or raise the quota of the staging bucket; the run goes on where it stopped"}
	KindUntrusted = &problem.Kind{Code: "bucket-certificate", Title: "the storage server's certificate is not trusted",
		Hint: "Upload the certificate authority that signed it (a TLS-inspecting proxy has its own), and check the endpoint's name and the clock"}
	KindPlain = &problem.Kind{Code: "bucket-not-encrypted", Title: "the storage endpoint does not use TLS",
		Hint: "Use an https:// endpoint: staged disks must not cross the network in the clear"}
	KindUnfit = &problem.Kind{Code: "bucket-unfit", Title: "the storage server does not do what staging needs",
		Hint: "Use Amazon S3 or a server that keeps S3's rules for consistency, checksums, ranges and listings; a proxy or gateway in between may break them too"}
	KindChanged = &problem.Kind{Code: "bucket-object-changed", Title: "the object was replaced while it was read",
		Hint: "See that nothing else writes to the staging prefix, then try again", Retry: true}
	KindRefused = &problem.Kind{Code: "bucket-refused", Title: "the storage server refused the request",
		Hint: "See the server's own words; check that the endpoint is an S3 endpoint and the bucket's settings allow the request"}
	KindUnreachable = &problem.Kind{Code: "bucket-unreachable", Title: "the storage server could not be reached or did not answer properly",
		Hint: "Check the network, the proxy and the endpoint, and the server's own state; the run goes on where it stopped", Retry: true}
)

// judge finds the kind of an attempt's error and whether another attempt may
// help. The codes are those of the S3 API reference, "Error responses", and a
// few that other servers use.
func judge(err error) (kind *problem.Kind, retry bool) {
	if k := problem.Of(err); k != nil {
		return k, k.Retry && k != KindChanged
	}
	if untrusted := (*tls.CertificateVerificationError)(nil); errors.As(err, &untrusted) {
		return KindUntrusted, false
	}
	if missing := (*credentialsError)(nil); errors.As(err, &missing) {
		return KindNoCredentials, false // whoever issues them has a budget of their own
	}
	if api := smithy.APIError(nil); errors.As(err, &api) {
		if kind, retry, known := judgeCode(api.ErrorCode()); known {
			return kind, retry
		}
	}
	return judgeStatus(statusOf(err))
}

func judgeCode(code string) (kind *problem.Kind, retry, known bool) {
	switch code {
	case "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded",
		"RequestTimeout", "RequestTimeoutException", "InternalError", "ServiceUnavailable",
		"OperationAborted", "ConditionalRequestConflict",
		"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "IncompleteBody":
		return KindUnreachable, true, true
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "UnauthorizedAccess":
		return KindDenied, false, true
	case "NoSuchBucket":
		return KindNoBucket, false, true
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint":
		return KindRegion, false, true
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "NotSignedUp":
		return KindKey, false, true
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired":
		return KindExpired, false, true
	case "RequestTimeTooSkewed":
		return KindClock, false, true
	case "QuotaExceeded", "QuotaExceededException", "InsufficientStorage", "StorageFull", "XMinioStorageFull",
		"XMinioAdminBucketQuotaExceeded", "InsufficientCapacity", "ServiceQuotaExceededException":
		return KindFull, false, true
	}
	return nil, false, false
}

// judgeStatus goes by the status alone; 0 stands for no answer at all.
func judgeStatus(status int) (*problem.Kind, bool) {
	switch status {
	case http.StatusInsufficientStorage:
		return KindFull, false
	case http.StatusNotImplemented:
		return KindUnfit, false
	case http.StatusMovedPermanently:
		return KindRegion, false
	case http.StatusUnauthorized, http.StatusForbidden:
		return KindDenied, false
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return KindUnreachable, true
	}
	if status >= 300 && status < 500 {
		return KindRefused, false
	}
	return KindUnreachable, true
}

// statusOf returns the HTTP status of the answer that err tells of, or 0.
func statusOf(err error) int {
	if answer := (*smithyhttp.ResponseError)(nil); errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// asNotFound makes staging.ErrNotFound of an answer that the object is
// missing. A HEAD has no body, so that a missing bucket looks the same there.
func asNotFound(err error) error {
	if statusOf(err) != http.StatusNotFound {
		return err
	}
	if api := smithy.APIError(nil); errors.As(err, &api) && api.ErrorCode() == "NoSuchBucket" {
		return err
	}
	return staging.ErrNotFound
}

// expectedRegion is how S3 words a signature for another Region.
var expectedRegion = regexp.MustCompile(`expecting ['"]([a-z0-9-]+)['"]`)

// detail tells what an answer gives away beyond its code: the right Region.
func detail(kind *problem.Kind, err error) string {
	if kind != KindRegion {
		return ""
	}
	region := ""
	if answer := (*smithyhttp.ResponseError)(nil); errors.As(err, &answer) {
		region = answer.Response.Header.Get("X-Amz-Bucket-Region")
	}
	if m := expectedRegion.FindStringSubmatch(err.Error()); region == "" && m != nil {
		region = m[1]
	}
	if region == "" {
		return ""
	}
	return " (which lies in " + region + ")"
}
