package bucket

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"skylift/internal/problem"
	"skylift/staging"
)

func TestAPutIsTriedAgainUntilItIsThere(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws())
	for _, tt := range []struct {
		name  string
		fault fault
	}{
		{"throttled", slowDown},
		{"an internal error", internalError},
		{"a dropped connection", dropped},
		{"a lost answer", answerLost},
		{"bytes damaged on the way", damaged},
		{"a request that timed out", func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
			answer(w, http.StatusBadRequest, "RequestTimeout", "Your socket connection was not read from.")
		}},
		{"a gateway's own page", func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
			w.Header().Set("X-Fault", "gateway")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<html>Bad Gateway"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.set(times(4, http.MethodPut, tt.fault))
			want := random(100_000)
			if err := s.Put(t.Context(), "a", want); err != nil {
				t.Fatal(err)
			}
			if n := len(p.requests()); n != 5 {
				t.Errorf("%d requests, want 4 that failed and one", n)
			}
			p.set(nil)
			if got, err := read(t, s, "a", 0, -1); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes are there, %v", len(got), err)
			}
			p.set(times(5, http.MethodPut, tt.fault))
			err := s.Put(t.Context(), "a", want)
			if problem.Of(err) != KindUnreachable || len(p.requests()) != 5 {
				t.Errorf("with the budget spent: %d requests, %v", len(p.requests()), err)
			}
		})
	}
}

func TestCreateKnowsItsOwnObjectAfterALostAnswer(t *testing.T) {
	for name, edit := range map[string]func(*Config){"conditional": conditional, "looking first": func(*Config) {}} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, server(t))
			s := store(t, p.aws(), edit)
			want := random(5000)
			p.set(times(2, http.MethodPut, answerLost))
			if err := s.Create(t.Context(), "a", want); err != nil {
				t.Errorf("Create whose answers were lost: %v", err)
			}
			p.set(times(1, http.MethodPut, dropped))
			if err := s.Create(t.Context(), "a", random(5000)); !errors.Is(err, staging.ErrExists) {
				t.Errorf("Create over another's object: %v", err)
			}
			if got, err := read(t, s, "a", 0, -1); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the first object is gone: %v", err)
			}
			// Reading back to compare is part of the operation's budget.
			p.set(func(w http.ResponseWriter, r *http.Request, pass func() *http.Response) {
				switch {
				case r.Method == http.MethodPut && len(p.requests()) == 1:
					answerLost(w, r, pass)
				case r.Method == http.MethodGet && len(p.requests()) < 4:
					slowDown(w, r, pass)
				}
			})
			if err := s.Create(t.Context(), "b", want); err != nil {
				t.Errorf("Create whose comparison was throttled: %v", err)
			}
		})
	}
}

func TestAConflictOfWritersIsTriedAgain(t *testing.T) {
	p := newProxy(t, server(t))
	s := store(t, p.aws(), conditional)
	p.set(times(2, http.MethodPut, func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
		answer(w, http.StatusConflict, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation.")
	}))
	if err := s.Create(t.Context(), "a", []byte("x")); err != nil {
		t.Error(err)
	}
}

func TestPermanentErrorsAreTypedAndNotTriedAgain(t *testing.T) {
	p := newProxy(t, server(t))
	for _, tt := range []struct {
		status int
		code   string
		kind   *problem.Kind
		says   string
	}{
		{http.StatusForbidden, "AccessDenied", KindDenied, ""},
		{http.StatusForbidden, "", KindDenied, ""},
		{http.StatusForbidden, "InvalidAccessKeyId", KindKey, ""},
		{http.StatusForbidden, "SignatureDoesNotMatch", KindKey, ""},
		{http.StatusForbidden, "RequestTimeTooSkewed", KindClock, ""},
		{http.StatusNotFound, "NoSuchBucket", KindNoBucket, ""},
		{http.StatusMovedPermanently, "PermanentRedirect", KindRegion, "lies in eu-south-2"},
		{http.StatusBadRequest, "AuthorizationHeaderMalformed", KindRegion, "lies in eu-south-2"},
		{http.StatusForbidden, "QuotaExceeded", KindFull, ""},
		{http.StatusInsufficientStorage, "XMinioStorageFull", KindFull, ""},
		{http.StatusInsufficientStorage, "", KindFull, ""},
		{http.StatusNotImplemented, "NotImplemented", KindUnfit, ""},
		{http.StatusBadRequest, "InvalidArgument", KindRefused, ""},
	} {
		t.Run(strconv.Itoa(tt.status)+" "+tt.code, func(t *testing.T) {
			s := store(t, p.aws())
			p.set(func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
				w.Header().Set("X-Amz-Bucket-Region", "eu-south-2")
				answer(w, tt.status, tt.code, "in the server's words")
			})
			err := s.Put(t.Context(), "a", []byte("x"))
			if problem.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v", err)
			}
			if n := len(p.requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestExpiredCredentialsAreRenewedOnceForAll(t *testing.T) {
	srv := server(t)
	p := newProxy(t, srv)
	issue := &issuer{give: func(n int) aws.Credentials {
		c := aws.Credentials{AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey.Reveal()}
		if n == 1 {
			c.AccessKeyID = "EXPIRED"
		}
		return c
	}}
	const writers = 8
	s := store(t, p.aws(), func(c *Config) { c.AWS.Credentials = issue })
	var gate sync.WaitGroup // all the first requests are there before any is answered
	gate.Add(writers)
	p.set(func(w http.ResponseWriter, r *http.Request, _ func() *http.Response) {
		if strings.Contains(r.Header.Get("Authorization"), "Credential=EXPIRED/") {
			gate.Done()
			gate.Wait()
			answer(w, http.StatusBadRequest, "ExpiredToken", "The provided token has expired.")
		}
	})
	var wait sync.WaitGroup
	for i := range writers {
		wait.Go(func() {
			if err := s.Put(t.Context(), strconv.Itoa(i), []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if issue.asked != 2 {
		t.Errorf("credentials were asked for %d times, want 2", issue.asked)
	}
	p.set(func(w http.ResponseWriter, _ *http.Request, _ func() *http.Response) {
		answer(w, http.StatusBadRequest, "ExpiredToken", "The provided token has expired.")
	})
	err := s.Put(t.Context(), "a", nil)
	if problem.Of(err) != KindExpired || len(p.requests()) != 2 || issue.asked != 3 {
		t.Errorf("expired for good: %d requests, asked %d times, %v", len(p.requests()), issue.asked, err)
	}
}

// bare makes a Store that never reaches a server.
func bare(t *testing.T, r Retry) *Store {
	s, err := New(Config{Bucket: "b", Retry: r, AWS: aws.Config{Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheBudgetIsBoundedInTimeFromTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bare(t, Retry{Attempts: 1000, Elapsed: 10 * time.Minute})
		began, attempts := time.Now(), 0
		err := s.operation("put", "a").do(t.Context(), func() error {
			attempts++
			time.Sleep(time.Minute) // an attempt that gets on slowly, then breaks
			return errors.New("connection reset")
		})
		if took := time.Since(began); problem.Of(err) != KindUnreachable || took > 12*time.Minute || took < 9*time.Minute {
			t.Errorf("%d attempts in %v: %v", attempts, took, err)
		}
	})
}

func TestWaitsGrowToTheLongestAndStartAnewAfterProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bare(t, Retry{Attempts: 30, Elapsed: time.Hour, First: time.Second, Longest: 8 * time.Second})
		op := s.operation("get", "a")
		var waits []time.Duration
		for i := range 12 {
			if i == 10 {
				op.gotOn()
			}
			began := time.Now()
			if err := op.failed(t.Context(), errors.New("reset")); err != nil {
				t.Fatal(err)
			}
			waits = append(waits, time.Since(began))
		}
		if slices.Max(waits) > 12*time.Second || waits[0] > 1500*time.Millisecond || waits[9] < 4*time.Second || waits[10] > 1500*time.Millisecond {
			t.Errorf("waits: %v", waits)
		}
	})
}

func TestACanceledOperationDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bare(t, Retry{First: time.Hour, Elapsed: 24 * time.Hour})
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("paused")
		time.AfterFunc(time.Minute, func() { cancel(reason) })
		began := time.Now()
		err := s.operation("put", "a").do(ctx, func() error { return errors.New("reset") })
		if !errors.Is(err, reason) || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestAProblemOfTheTransportStaysWhatItIs(t *testing.T) {
	proxyRefuses := &problem.Kind{Code: "proxy", Title: "the proxy refuses the password", Hint: "Check it"}
	stalled := &problem.Kind{Code: "stalled", Title: "no bytes flow", Hint: "Check the line", Retry: true}
	for kind, attempts := range map[*problem.Kind]int{proxyRefuses: 1, stalled: 3} {
		n := 0
		s := bare(t, Retry{Attempts: 3, First: time.Microsecond})
		err := s.operation("put", "a").do(t.Context(), func() error { n++; return kind.New(nil, "dial") })
		if problem.Of(err) != kind || n != attempts {
			t.Errorf("%s: %d attempts, %v", kind.Code, n, err)
		}
	}
}

func TestEveryKindHasAHint(t *testing.T) {
	for _, k := range []*problem.Kind{KindDenied, KindNoBucket, KindRegion, KindKey, KindExpired, KindNoCredentials,
		KindClock, KindFull, KindUntrusted, KindPlain, KindUnfit, KindChanged, KindRefused, KindUnreachable} {
		if k.Code == "" || k.Title == "" || k.Hint == "" || !strings.HasPrefix(k.Code, "bucket-") {
			t.Errorf("%+v", k)
		}
	}
}
