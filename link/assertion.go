package link

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"skylift/internal/problem"
)

const (
	// AssertionLife is how long an assertion is valid; a longer one is refused.
	AssertionLife = time.Minute
	// Skew is how far the connector's clock may be off.
	Skew = 2 * time.Minute
)

// What can be wrong with an assertion.
var (
	AssertionRefused = &problem.Kind{
		Code:  "link-assertion-refused",
		Title: "the connector's signature was not accepted",
		Hint:  "Check that the connector is enrolled with this control plane and that no copy of its appliance runs; otherwise enrol it again.",
	}
	ClockSkewed = &problem.Kind{
		Code:  "link-clock-skewed",
		Title: "the connector's clock and the control plane's are too far apart",
		Hint:  "Set both machines' clocks by NTP.",
		Retry: true,
	}
)

// sign makes an assertion.
func sign(connector, installation string, key ed25519.PrivateKey, now time.Time) (string, error) {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails: crypto/rand ends the process instead
	return jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{
		Issuer: connector, Audience: jwt.ClaimStrings{installation}, ID: base64.RawURLEncoding.EncodeToString(id),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(AssertionLife)),
	}).SignedString(key)
}

// assertion is what is left of a checked one.
type assertion struct {
	connector, id string
	expires       time.Time
}

// verify checks an assertion but for its being used before.
func verify(ctx context.Context, token, installation string, keys Keys, now time.Time) (assertion, error) {
	var claims jwt.RegisteredClaims
	var keyErr error
	// Times are checked below: the error must show both clocks.
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) {
		key, err := keys.PublicKey(ctx, claims.Issuer)
		keyErr = err
		return key, err
	})
	if keyErr != nil {
		return assertion{}, keyErr
	}
	if err != nil {
		return assertion{}, AssertionRefused.New(err, "check an assertion")
	}
	if err := checkClaims(&claims, installation, now); err != nil {
		return assertion{}, err
	}
	return assertion{claims.Issuer, claims.ID, claims.ExpiresAt.Time}, nil
}

func checkClaims(c *jwt.RegisteredClaims, installation string, now time.Time) error {
	what := fmt.Sprintf("check an assertion of connector %s", c.Issuer)
	switch {
	case len(c.Audience) != 1 || c.Audience[0] != installation:
		return AssertionRefused.New(errors.New("it was made for another control plane"), "%s", what)
	case len(c.ID) < 16 || len(c.ID) > 64:
		return AssertionRefused.New(errors.New("its ID is not one"), "%s", what)
	case c.IssuedAt == nil || c.ExpiresAt == nil || c.ExpiresAt.Before(c.IssuedAt.Time) || c.ExpiresAt.Sub(c.IssuedAt.Time) > AssertionLife:
		return AssertionRefused.New(errors.New("it is not valid for a minute at most"), "%s", what)
	case c.IssuedAt.After(now.Add(Skew)) || c.ExpiresAt.Before(now.Add(-Skew)):
		return ClockSkewed.New(fmt.Errorf("the connector's clock said %s when it signed, the control plane's says %s",
			c.IssuedAt.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), "%s", what)
	}
	return nil
}
