package bucket

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"skylift/internal/problem"
	"skylift/staging"
)

func TestProbeSaysWhatAServerLacks(t *testing.T) {
	srv := server(t)
	p := newProxy(t, srv)
	s := store(t, p.aws(), func(c *Config) { c.Prefix = "" })
	whenPath := func(method, part string, f fault) fault {
		return func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
			if r.Method == method && strings.Contains(r.URL.String(), part) {
				f(w, r, pass)
			}
		}
	}
	notFound := func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
		answer(w, http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	}
	for _, tt := range []struct {
		name  string
		fault fault
		kind  *problem.Kind
		says  string
		caps  Capabilities

		leaves bool // the fault keeps the probe from cleaning up
	}{
		{"a new object cannot be read yet", whenPath(http.MethodGet, "/a?", notFound), KindUnfit, "what was just written", Capabilities{}, false},
		{"a new object is not listed yet", whenPath(http.MethodGet, "list-type", func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
			page(w, "")
		}), KindUnfit, "not in the listing", Capabilities{}, false},
		{"ranges are ignored", whenPath(http.MethodGet, "/a?", func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
			if r.Header.Get("Range") != "" {
				w.Header().Set("X-Fault", "whole")
				w.Header().Set("Content-Length", strconv.Itoa(probeSize))
				_, _ = w.Write(make([]byte, probeSize))
			}
		}), KindUnfit, "bytes=", Capabilities{}, false},
		{"a wrong checksum is taken", whenPath(http.MethodPut, "/wrong", p.plainPut), KindUnfit, "checksum is wrong is taken", Capabilities{}, false},
		{"a deleted object stays", whenPath(http.MethodPost, "delete", func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
			w.Header().Set("X-Fault", "result")
			_, _ = w.Write([]byte("<DeleteResult></DeleteResult>"))
		}), KindUnfit, "still there", Capabilities{}, true},
		{"access is denied", func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
			answer(w, http.StatusForbidden, "AccessDenied", "Access Denied")
		}, KindDenied, "probe", Capabilities{}, false},
		{"conditions are ignored, which is allowed", whenPath(http.MethodPut, "/race", p.plainPut), nil, "", Capabilities{}, false},
		{"conditions are not implemented, which is allowed", whenPath(http.MethodPut, "/race", func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
			answer(w, http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented.")
		}), nil, "", Capabilities{}, false},
		{"encryption is noticed", whenPath(http.MethodPut, "/a", header("X-Amz-Server-Side-Encryption", "aws:kms")), nil, "", Capabilities{ConditionalCreate: true, Encryption: "aws:kms"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.set(tt.fault)
			caps, err := s.Probe(t.Context())
			if caps != tt.caps || problem.Of(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %+v, %v", caps, err)
			}
			if tt.kind == KindDenied && len(p.requests()) != 1 {
				t.Errorf("%d requests after a refusal", len(p.requests()))
			}
			p.set(nil)
			left := []string{}
			if err := s.List(t.Context(), "", func(o staging.Object) error { left = append(left, o.Key); return nil }); err != nil {
				t.Fatal(err)
			}
			if len(left) != 0 && !tt.leaves {
				t.Errorf("left behind: %q", left)
			}
			if err := s.Delete(t.Context(), left); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAStoreUsesWhatProbeFound(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	caps, err := s.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.set(nil)
	if err := s.With(caps).Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if r := p.requests(); len(r) != 1 || r[0].Header.Get("If-None-Match") != "*" {
		t.Errorf("%d requests, the first with %v", len(r), r[0].Header)
	}
}
