package api

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const algorithm = "AWS4-HMAC-SHA256"

// authorization is what an Authorization header of Signature Version 4 says.
type authorization struct {
	keyID     string
	date      string // YYYYMMDD, of the scope
	region    string
	service   string
	headers   []string // the signed ones, in lower case and sorted
	signature string   // hex
}

// Forms are narrower than HTTP allows: these values reach logs and messages.
var (
	keyIDForm     = regexp.MustCompile(`\A[A-Za-z0-9_]{4,128}\z`)
	dateForm      = regexp.MustCompile(`\A[0-9]{8}\z`)
	scopeForm     = regexp.MustCompile(`\A[a-z0-9-]{1,64}\z`)
	headerForm    = regexp.MustCompile(`\A[a-z0-9!#$%&'*+.^_|~-]{1,128}\z`)
	signatureForm = regexp.MustCompile(`\A[0-9a-f]{64}\z`)
)

// parseAuthorization reads
//
//	AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, SignedHeaders=<a;b>, Signature=<hex>
//
// with the parts in any order, and the spaces behind commas optional.
func parseAuthorization(header string) (authorization, error) {
	var a authorization
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return a, errors.New("the Authorization header must begin with " + algorithm)
	}
	parts := make(map[string]string, 3)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := parts[name]; twice {
			return a, errors.New("a part of the Authorization header is there twice")
		}
		parts[name] = value
	}
	if len(parts) != 3 {
		return a, errors.New("the Authorization header must have Credential, SignedHeaders and Signature, and nothing else")
	}
	scope := strings.Split(parts["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" || !keyIDForm.MatchString(scope[0]) || !dateForm.MatchString(scope[1]) ||
		!scopeForm.MatchString(scope[2]) || !scopeForm.MatchString(scope[3]) {
		return a, errors.New("the Authorization header's Credential must be <access key>/<YYYYMMDD>/<region>/<service>/aws4_request")
	}
	a.keyID, a.date, a.region, a.service = scope[0], scope[1], scope[2], scope[3]
	a.headers = strings.Split(parts["SignedHeaders"], ";")
	for i, name := range a.headers {
		if !headerForm.MatchString(name) || i > 0 && a.headers[i-1] >= name {
			return a, errors.New("the Authorization header's SignedHeaders must be names in lower case, sorted, with semicolons between them")
		}
	}
	if a.signature = parts["Signature"]; !signatureForm.MatchString(a.signature) {
		return a, errors.New("the Authorization header's Signature must be 64 hex digits in lower case")
	}
	return a, nil
}

// String gives the header's value.
func (a authorization) String() string {
	return fmt.Sprintf("%s Credential=%s/%s/%s/%s/aws4_request, SignedHeaders=%s, Signature=%s",
		algorithm, a.keyID, a.date, a.region, a.service, strings.Join(a.headers, ";"), a.signature)
}

// signs reports whether the header, given in lower case, is among the signed ones.
func (a authorization) signs(name string) bool {
	_, found := slices.BinarySearch(a.headers, name)
	return found
}
