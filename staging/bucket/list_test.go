package bucket

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"skylift/internal/problem"
	"skylift/staging"
)

// page is an answer to ListObjectsV2, with a next token if it is truncated.
func page(w http.ResponseWriter, next string, keys ...string) {
	w.Header().Set("X-Fault", "page")
	fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%t</IsTruncated><NextContinuationToken>%s</NextContinuationToken>", next != "", next)
	for _, key := range keys {
		fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>1</Size></Contents>", key)
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

func TestAListingThatDoesNotGetOnIsAnError(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	for _, tt := range []struct {
		name string
		most int // keys emitted
		f    func(w http.ResponseWriter, token string, request int)
	}{
		{"the same token again", 1, func(w http.ResponseWriter, token string, n int) {
			page(w, "same", fmt.Sprintf("sky/lift/dir/%d", n))
		}},
		{"the same page again", 2, func(w http.ResponseWriter, token string, n int) {
			page(w, fmt.Sprint(n), "sky/lift/dir/1", "sky/lift/dir/2")
		}},
		{"truncated without a token", 1, func(w http.ResponseWriter, token string, n int) {
			w.Header().Set("X-Fault", "page")
			fmt.Fprint(w, "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>sky/lift/dir/1</Key></Contents></ListBucketResult>")
		}},
		{"empty pages for ever", 0, func(w http.ResponseWriter, token string, n int) { page(w, fmt.Sprint(n)) }},
		{"keys that descend", 1, func(w http.ResponseWriter, token string, n int) { page(w, "", "sky/lift/dir/2", "sky/lift/dir/1") }},
		{"keys of another prefix", 0, func(w http.ResponseWriter, token string, n int) { page(w, "", "sky/other") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.set(func(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
				tt.f(w, r.URL.Query().Get("continuation-token"), len(p.requests()))
			})
			emitted := 0
			err := s.List(t.Context(), "dir/", func(staging.Object) error { emitted++; return nil })
			if problem.Of(err) != KindUnfit || emitted > tt.most+1 {
				t.Errorf("%d keys, %v", emitted, err)
			}
		})
	}
}

func TestAListingGetsOverEmptyAndThrottledPages(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	p.set(func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
		switch token, n := r.URL.Query().Get("continuation-token"), len(p.requests()); {
		case n%2 == 1:
			slowDown(w, r, pass)
		case token == "":
			page(w, "1", "sky/lift/", "sky/lift/a")
		case token == "1":
			page(w, "2")
		case token == "2":
			page(w, "", "sky/lift/b")
		}
	})
	var keys []string
	err := s.List(t.Context(), "", func(o staging.Object) error { keys = append(keys, o.Key); return nil })
	if err != nil || strings.Join(keys, " ") != "a b" {
		t.Errorf("got %q, %v", keys, err)
	}
}

func TestKeysThatCannotBeDeletedAreToldOfAndTheOthersGo(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	result := func(w http.ResponseWriter, r *http.Request, errs string) {
		w.Header().Set("X-Fault", "result")
		fmt.Fprintf(w, "<DeleteResult>%s</DeleteResult>", errs)
	}
	const denied = "<Error><Key>sky/lift/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
	const again = "<Error><Key>sky/lift/a</Key><Code>InternalError</Code><Message>later</Message></Error>"
	const gone = "<Error><Key>sky/lift/c</Key><Code>NoSuchKey</Code></Error>"

	p.set(func(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
		switch len(p.requests()) {
		case 1:
			result(w, r, denied+again+gone)
		case 2: // only what is worth trying again
			if r.ContentLength > 120 {
				t.Errorf("tried again with %d bytes of keys", r.ContentLength)
			}
			result(w, r, "")
		}
	})
	err := s.Delete(t.Context(), []string{"a", "b", "c", "d"})
	if problem.Of(err) != KindDenied || !strings.Contains(err.Error(), "1 not deleted, sky/lift/b") || len(p.requests()) != 2 {
		t.Errorf("%d requests, %v", len(p.requests()), err)
	}

	p.set(func(w http.ResponseWriter, r *http.Request, _ func() *http.Response) { result(w, r, again) })
	if err := s.Delete(t.Context(), []string{"a"}); problem.Of(err) != KindUnreachable || len(p.requests()) != 5 {
		t.Errorf("a key that never goes: %d requests, %v", len(p.requests()), err)
	}

	p.set(nil)
	if err := errors.Join(s.Put(t.Context(), "e", nil), s.Delete(t.Context(), []string{"e"})); err != nil {
		t.Error(err)
	}
}
