package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"skylift/controlplane/api/sms"
)

// signer makes signed requests, and wrong ones.
type signer struct {
	at      time.Time
	key     string
	secret  string
	region  string
	service string
	session string
	path    string
	before  func(*http.Request) // is signed
	after   func(*http.Request) // is not
}

func newSigner(at time.Time) signer {
	return signer{at: at, key: operatorKey, secret: testSecret, region: "eu-central-1", service: "sms", path: "/"}
}

func (s signer) request(t testing.TB, action, body string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://skylift.example:8443"+s.path, strings.NewReader(body))
	r.RequestURI = s.path
	r.Header.Set("Content-Type", sms.ContentType)
	r.Header.Set(sms.TargetHeader, sms.TargetPrefix+action)
	if s.before != nil {
		s.before(r)
	}
	sum := sha256.Sum256([]byte(body))
	c := aws.Credentials{AccessKeyID: s.key, SecretAccessKey: s.secret, SessionToken: s.session}
	if err := v4.NewSigner().SignHTTP(context.Background(), c, r, hex.EncodeToString(sum[:]), s.service, s.region, s.at); err != nil {
		t.Fatal(err)
	}
	if s.after != nil {
		s.after(r)
	}
	return r
}
