package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/golang-jwt/jwt/v5"

	"skylift/internal/problem"
)

var unknown = &problem.Kind{Code: "unknown", Title: "unknown connector", Hint: "Enrol it."}

type keyring map[string]ed25519.PublicKey

func (k keyring) PublicKey(_ context.Context, connector string) (ed25519.PublicKey, error) {
	if key, ok := k[connector]; ok {
		return key, nil
	}
	return nil, unknown.New(nil, "look up %q", connector)
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// forge signs any claims with any method and key.
func forge(t testing.TB, method jwt.SigningMethod, key any, change func(c *jwt.RegisteredClaims)) string {
	t.Helper()
	c := &jwt.RegisteredClaims{
		Issuer: "c-1", Audience: jwt.ClaimStrings{"i1"}, ID: "0123456789abcdef",
		IssuedAt: jwt.NewNumericDate(noon), ExpiresAt: jwt.NewNumericDate(noon.Add(time.Minute)),
	}
	if change != nil {
		change(c)
	}
	token, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func headerOf(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func TestAssertionIsTakenOnlyAsItMustBe(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	_, stranger, _ := ed25519.GenerateKey(nil)
	at := func(d time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(noon.Add(d)) }
	for name, c := range map[string]struct {
		token string
		want  *problem.Kind
	}{
		"a good one":            {forge(t, jwt.SigningMethodEdDSA, private, nil), nil},
		"one signed by another": {forge(t, jwt.SigningMethodEdDSA, stranger, nil), AssertionRefused},
		"an unsigned one":       {forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), AssertionRefused},
		"one signed with the public key as a password": {forge(t, jwt.SigningMethodHS256, []byte(public), nil), AssertionRefused},
		"one of an unknown connector":                  {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.Issuer = "c-2" }), unknown},
		"one for another control plane":                {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.Audience = jwt.ClaimStrings{"i2"} }), AssertionRefused},
		"one for several":                              {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.Audience = jwt.ClaimStrings{"i1", "i2"} }), AssertionRefused},
		"one without ID":                               {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.ID = "" }), AssertionRefused},
		"one without end":                              {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.ExpiresAt = nil }), AssertionRefused},
		"one without beginning":                        {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.IssuedAt = nil }), AssertionRefused},
		"one valid too long":                           {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.ExpiresAt = at(61 * time.Second) }), AssertionRefused},
		"one that ends before it begins":               {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.ExpiresAt = at(-time.Second) }), AssertionRefused},
		"one of a clock two minutes ahead":             {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.IssuedAt, c.ExpiresAt = at(2*time.Minute), at(3*time.Minute) }), nil},
		"one of a clock further ahead":                 {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.IssuedAt, c.ExpiresAt = at(121*time.Second), at(3*time.Minute) }), ClockSkewed},
		"one of a clock too late":                      {forge(t, jwt.SigningMethodEdDSA, private, func(c *jwt.RegisteredClaims) { c.IssuedAt, c.ExpiresAt = at(-4*time.Minute), at(-181*time.Second) }), ClockSkewed},
		"nonsense":                                     {"a.b.c", AssertionRefused},
		"nothing":                                      {"", AssertionRefused},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewVerifier("i1", keyring{"c-1": public}, func() time.Time { return noon })
			ctx, err := v.admit(t.Context(), headerOf(c.token))
			if c.want == nil {
				if err != nil || Connector(ctx) != "c-1" {
					t.Fatalf("connector %q, error %v", Connector(ctx), err)
				}
				return
			}
			if !problem.Has(err, c.want) || connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Fatalf("error %v, want %s", err, c.want.Code)
			}
			if code, hint := Problem(err); code != c.want.Code || hint != c.want.Hint {
				t.Errorf("problem %q, hint %q", code, hint)
			}
		})
	}
}

func TestSkewedClocksAreBothShown(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	v := NewVerifier("i1", keyring{"c-1": public}, func() time.Time { return noon.Add(time.Hour) })
	_, err := v.admit(t.Context(), headerOf(forge(t, jwt.SigningMethodEdDSA, private, nil)))
	if err == nil || !strings.Contains(err.Error(), "2026-03-01T12:00:00Z") || !strings.Contains(err.Error(), "2026-03-01T13:00:00Z") {
		t.Errorf("error %v", err)
	}
}

func TestKeysThatCannotBeLookedUpAreNotTheCallersFault(t *testing.T) {
	_, private, _ := ed25519.GenerateKey(nil)
	v := NewVerifier("i1", brokenKeys{}, func() time.Time { return noon })
	if _, err := v.admit(t.Context(), headerOf(forge(t, jwt.SigningMethodEdDSA, private, nil))); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("error %v", err)
	}
}

type brokenKeys struct{}

func (brokenKeys) PublicKey(context.Context, string) (ed25519.PublicKey, error) {
	return nil, errors.New("the database is away")
}

func TestAssertionIsTakenOnce(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	now := noon
	v := NewVerifier("i1", keyring{"c-1": public}, func() time.Time { return now })
	token := forge(t, jwt.SigningMethodEdDSA, private, nil)
	if _, err := v.admit(t.Context(), headerOf(token)); err != nil {
		t.Fatal(err)
	}
	// As long as it would be valid, and ever after.
	for _, d := range []time.Duration{0, time.Minute, 3 * time.Minute, time.Hour} {
		now = noon.Add(d)
		if _, err := v.admit(t.Context(), headerOf(token)); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("after %s: error %v", d, err)
		}
	}
}

func TestReplayMemoryIsBoundedAndRefusesRatherThanForgets(t *testing.T) {
	r := replays{limit: 3}
	end := noon.Add(time.Minute)
	for _, id := range []string{"a", "b", "c"} {
		if got := r.add(id, end, noon); got != fresh {
			t.Fatalf("%s: %d", id, got)
		}
	}
	if got := r.add("d", end, noon); got != full {
		t.Errorf("beyond the limit: %d", got)
	}
	if got := r.add("a", end, end); got != seen {
		t.Errorf("at its very end: %d", got)
	}
	if got := r.add("d", end.Add(time.Hour), end.Add(time.Second)); got != fresh || len(r.until) != 1 {
		t.Errorf("after the others' end: %d, %d remembered", got, len(r.until))
	}
}

func TestSignersAssertionsAreAccepted(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	v := NewVerifier("i1", keyring{"c-1": public}, func() time.Time { return noon })
	s := NewSigner("c-1", "i1", private, func() time.Time { return noon })
	for range 2 { // each call has an assertion of its own
		request := connect.NewRequest(&struct{}{})
		_, err := s.WrapUnary(func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			_, err := v.admit(ctx, r.Header())
			return nil, err
		})(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzAssertion(f *testing.F) {
	public, private, _ := ed25519.GenerateKey(nil)
	f.Add(forge(f, jwt.SigningMethodEdDSA, private, nil) + "x")
	f.Add(forge(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil))
	f.Add("eyJhbGciOiJFZERTQSJ9.e30.")
	v := NewVerifier("i1", keyring{"c-1": public}, func() time.Time { return noon })
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.admit(t.Context(), headerOf(token)); err == nil {
			t.Fatalf("%q was accepted", token)
		}
	})
}
