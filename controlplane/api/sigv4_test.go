package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"skylift/controlplane/access"
	"skylift/controlplane/api/sms"
)

func TestASignatureIsAccepted(t *testing.T) {
	for name, mutate := range map[string]func(*signer){
		"as it is":                          func(*signer) {},
		"of 15 minutes ago":                 func(s *signer) { s.at = start.Add(-15 * time.Minute) },
		"of in 15 minutes":                  func(s *signer) { s.at = start.Add(15 * time.Minute) },
		"with a session token":              func(s *signer) { s.session = "left/over+from=elsewhere" },
		"under a path prefix":               func(s *signer) { s.path = "/migration/sms/" },
		"under an escaped path":             func(s *signer) { s.path = "/a%20b%2Fc/" },
		"with a query":                      func(s *signer) { s.path = "/?b=2&a=1%20x" },
		"of another Region":                 func(s *signer) { s.region = "us-gov-west-1" },
		"with a payload hash":               func(s *signer) { s.before = payloadHash },
		"beside a header that is not AWS's": func(s *signer) { s.after = func(r *http.Request) { r.Header.Set("X-Amzn-Trace-Id", "Root=1") } },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := newSigner(start)
			mutate(&s)
			if got := b.send(s.request(t, "GetConnectors", `{}`)); got.status != http.StatusOK {
				t.Errorf("HTTP %d: %s", got.status, got.body)
			}
			if len(b.regions) == 0 || b.regions[0] != s.region {
				t.Errorf("the service saw the Regions %q, want %s", b.regions, s.region)
			}
		})
	}
}

func payloadHash(r *http.Request) {
	r.Header.Set("X-Amz-Content-Sha256", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a") // of {}
}

func TestAPrefixThatTheMuxStripsStaysSigned(t *testing.T) {
	b := newBench(t)
	s := newSigner(start)
	s.path = "/migration/"
	b.referee.Handler = http.StripPrefix("/migration", b.referee.Handler)
	if got := b.send(s.request(t, "GetConnectors", `{}`)); got.status != http.StatusOK {
		t.Errorf("HTTP %d: %s", got.status, got.body)
	}
}

func TestAWrongSignatureIsRefused(t *testing.T) {
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	inAuthorization := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	for name, c := range map[string]struct {
		mutate func(*signer)
		code   string
		tells  string
	}{
		"no signature at all": {func(s *signer) { s.after = func(r *http.Request) { r.Header.Del("Authorization") } }, sms.MissingAuthenticationToken, "not signed"},
		"a password":          {func(s *signer) { s.after = func(r *http.Request) { r.SetBasicAuth("a", "b") } }, sms.IncompleteSignature, algorithm},
		"two signatures":      {func(s *signer) { s.after = func(r *http.Request) { r.Header.Add("Authorization", "x") } }, sms.IncompleteSignature, "more than one"},
		"an unknown key":      {func(s *signer) { s.key = "AKIAIOSFODNN7EXAMPLE" }, sms.UnrecognizedClient, "AKIAIOSFODNN7EXAMPLE"},
		"a wrong secret":      {func(s *signer) { s.secret = "no" }, sms.SignatureDoesNotMatch, "secret access key"},
		"another body": {func(s *signer) {
			s.after = func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a":1}`)) }
		}, sms.SignatureDoesNotMatch, "body"},
		"another action": {func(s *signer) { s.after = set(sms.TargetHeader, sms.TargetPrefix+"DeleteServerCatalog") }, sms.SignatureDoesNotMatch, ""},
		"another host":   {func(s *signer) { s.after = func(r *http.Request) { r.Host = "other.example" } }, sms.SignatureDoesNotMatch, "Host"},
		"another path":   {func(s *signer) { s.after = func(r *http.Request) { r.RequestURI = "/x" } }, sms.SignatureDoesNotMatch, "path"},
		"another method": {func(s *signer) {
			s.before = func(r *http.Request) { r.Method = "PUT" }
			s.after = func(r *http.Request) { r.Method = "POST" }
		}, sms.SignatureDoesNotMatch, ""},
		"another Region":         {func(s *signer) { s.after = inAuthorization("eu-central-1", "eu-central-2") }, sms.SignatureDoesNotMatch, ""},
		"another key":            {func(s *signer) { s.after = inAuthorization(operatorKey, "SKYLIFTUNKNOWN000001") }, sms.UnrecognizedClient, ""},
		"another date":           {func(s *signer) { s.after = set("X-Amz-Date", "20260304T050608Z") }, sms.SignatureDoesNotMatch, ""},
		"too old":                {func(s *signer) { s.at = start.Add(-15*time.Minute - time.Second) }, sms.InvalidSignature, "clock"},
		"too young":              {func(s *signer) { s.at = start.Add(15*time.Minute + time.Second) }, sms.InvalidSignature, "clock"},
		"another service":        {func(s *signer) { s.service = "s3" }, sms.InvalidSignature, "must be sms"},
		"a scope of another day": {func(s *signer) { s.after = inAuthorization("20260304", "20260303") }, sms.InvalidSignature, "scope"},
		"no date":                {func(s *signer) { s.after = func(r *http.Request) { r.Header.Del("X-Amz-Date") } }, sms.IncompleteSignature, "X-Amz-Date"},
		"two dates":              {func(s *signer) { s.after = func(r *http.Request) { r.Header.Add("X-Amz-Date", "20260304T050607Z") } }, sms.IncompleteSignature, "X-Amz-Date"},
		"a date of another form": {func(s *signer) { s.after = set("X-Amz-Date", "2026-03-04") }, sms.IncompleteSignature, "X-Amz-Date"},
		"an action not signed":   {func(s *signer) { s.after = inAuthorization(";x-amz-target", "") }, sms.InvalidSignature, "x-amz-target"},
		"a host not signed":      {func(s *signer) { s.after = inAuthorization("host;", "") }, sms.InvalidSignature, "Host"},
		"a header added":         {func(s *signer) { s.after = set("X-Amz-Anything", "1") }, sms.InvalidSignature, "x-amz-anything"},
		"a token added":          {func(s *signer) { s.after = set("X-Amz-Security-Token", "1") }, sms.InvalidSignature, "x-amz-security-token"},
		"a header signed, not sent": {func(s *signer) {
			s.before = set("X-Extra", "1")
			s.after = func(r *http.Request) { r.Header.Del("X-Extra") }
		},
			sms.SignatureDoesNotMatch, ""},
		"an unsigned payload": {func(s *signer) { s.before = set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD") }, sms.InvalidSignature, "SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := newSigner(start)
			c.mutate(&s)
			b.send(s.request(t, "GetConnectors", `{}`)).expect(t, c.code, c.tells)
			if len(b.regions) != 0 {
				t.Error("a service was called")
			}
		})
	}
}

func TestAnAuthorizationHeaderOfAnotherFormIsRefused(t *testing.T) {
	good := authorization{keyID: "AKIA1234", date: "20260304", region: "eu-west-1", service: "sms", headers: []string{"host", "x-amz-date"}, signature: strings.Repeat("0a", 32)}
	again, err := parseAuthorization(strings.ReplaceAll(good.String(), ", ", ","))
	if err != nil || again.String() != good.String() {
		t.Fatalf("the header without spaces gives %v, %v", again, err)
	}
	for name, bad := range map[string]string{
		"nothing":                "",
		"the algorithm alone":    "AWS4-HMAC-SHA256",
		"another algorithm":      strings.Replace(good.String(), "SHA256", "SHA512", 1),
		"a part twice":           good.String() + ", Signature=" + good.signature,
		"a part too many":        good.String() + ", Extra=1",
		"a short scope":          strings.Replace(good.String(), "/aws4_request", "", 1),
		"a scope of version 5":   strings.Replace(good.String(), "aws4_request", "aws5_request", 1),
		"a key with a newline":   strings.Replace(good.String(), "AKIA1234", "AKIA\n234", 1),
		"headers out of order":   strings.Replace(good.String(), "host;x-amz-date", "x-amz-date;host", 1),
		"a header twice":         strings.Replace(good.String(), "host;", "host;host;", 1),
		"headers in upper case":  strings.Replace(good.String(), "host", "Host", 1),
		"no headers":             strings.Replace(good.String(), "host;x-amz-date", "", 1),
		"a short signature":      strings.TrimSuffix(good.String(), "0a"),
		"a signature not in hex": strings.Replace(good.String(), "0a0a", "0g0g", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := parseAuthorization(bad); err == nil {
				t.Errorf("%q was read as %v", bad, a)
			}
		})
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKIA1234/20260304/eu-west-1/sms/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("0a", 32))
	f.Add("AWS4-HMAC-SHA256 Signature=,Credential=////,SignedHeaders=;")
	f.Fuzz(func(t *testing.T, header string) {
		a, err := parseAuthorization(header)
		if err != nil {
			return
		}
		again, err := parseAuthorization(a.String())
		if err != nil || again.String() != a.String() {
			t.Fatalf("%q was read as %q, and that as %q, %v", header, a, again, err)
		}
		if strings.ContainsAny(a.keyID+a.region, "\r\n \"") {
			t.Fatalf("%q lets %q through", header, a.keyID+a.region)
		}
	})
}

func TestAKeyStoreThatFailsIsNoVerdictOnTheKey(t *testing.T) {
	b := newBench(t)
	b.handler.config.Keys = brokenKeys{}
	got := b.call("GetConnectors", `{}`)
	got.expect(t, sms.InternalFailure, "log")
	if strings.Contains(got.body, "disk on fire") || strings.Contains(got.body, "sealing") {
		t.Errorf("the error tells internals: %s", got.body)
	}
}

type brokenKeys struct{ Keys }

func (brokenKeys) Lookup(context.Context, string) (access.Key, error) {
	return access.Key{}, access.SealingKeyUnusable.New(errors.New("disk on fire"), "open the secret")
}

func TestOnlyRolesThatMayChangeChange(t *testing.T) {
	b := newBench(t)
	for action, body := range requests {
		changes := !strings.HasPrefix(action, "Get")
		for key, may := range map[string]bool{adminKey: true, operatorKey: true, viewerKey: !changes, nobodyKey: false} {
			s := newSigner(start)
			s.key = key
			got := b.send(s.request(t, action, body))
			if may && got.status != http.StatusOK {
				t.Errorf("%s of %s: HTTP %d: %s", action, key, got.status, got.body)
			}
			if !may {
				got.expect(t, sms.UnauthorizedOperation, action, key)
			}
			b.connectors = newWorld(t).connectors
		}
	}
}

func TestTheLogTellsOfEveryRequestOnce(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		action, key, level string
		status             int
		mutate             func(*signer)
	}{
		{"GetServers", operatorKey, "info", 200, func(*signer) {}},
		{"GetServers", "", "warning", 403, func(s *signer) { s.secret = "no" }},
		{"unknown", operatorKey, "warning", 400, func(s *signer) { s.before = func(r *http.Request) { r.Header.Set(sms.TargetHeader, "evil\nline") } }},
	} {
		s := newSigner(start)
		c.mutate(&s)
		b.log.Reset()
		rec := httptest.NewRecorder()
		b.handler.ServeHTTP(rec, s.request(t, "GetServers", `{}`))
		entries := b.log.AllEntries()
		if len(entries) != 1 {
			t.Fatalf("%d lines", len(entries))
		}
		e := entries[0]
		if e.Level.String() != c.level || e.Data["action"] != c.action || e.Data["status"] != c.status ||
			e.Data["request"] != rec.Header().Get("x-amzn-RequestId") || e.Data["duration"] == nil {
			t.Errorf("want %+v, got %s %v", c, e.Level, e.Data)
		}
		if key, _ := e.Data["access_key"].(string); key != c.key {
			t.Errorf("the line has the access key %q, want %q", key, c.key)
		}
		line, err := e.String()
		if err != nil || strings.Contains(line, testSecret) {
			t.Errorf("the line is %s, %v", line, err)
		}
	}
}
