package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"skylift/controlplane/catalog"
	"skylift/internal/secret"
)

// Code is an activation code as it is stored.
type Code struct {
	ID      string
	Hash    []byte // SHA-256 of the code's secret part, which is 80 random bits
	Expires time.Time
	Tries   int // wrong secrets so far
	// PublicKey and Connector are set once the code was used.
	PublicKey []byte
	Connector string
}

// maxTries is how many wrong secrets an activation code takes.
const maxTries = 5

// Enrolment takes connectors in.
type Enrolment struct{ store Store }

// NewEnrolment returns the enrolment of connectors kept in store.
func NewEnrolment(store Store) *Enrolment { return &Enrolment{store} }

// Issue makes an activation code that one connector can use within ttl.
// Only its hash is kept.
func (e *Enrolment) Issue(ctx context.Context, ttl time.Duration) (secret.Text, time.Time, error) {
	now, err := e.store.Now(ctx)
	if err != nil {
		return secret.Text{}, time.Time{}, err
	}
	id, rest := randomText(5), randomText(10)
	code := Code{ID: id, Hash: hash(rest), Expires: now.Add(ttl)}
	if err := e.store.InsertCode(ctx, code); err != nil {
		return secret.Text{}, time.Time{}, err
	}
	text := id + rest
	return secret.New(text[:8] + "-" + text[8:16] + "-" + text[16:]), code.Expires, nil
}

// Enrol registers a connector's public key and returns the connector's ID.
// The same code and key give the same answer again. CodeRefused tells nothing
// about why, since the caller is a stranger.
func (e *Enrolment) Enrol(ctx context.Context, code secret.Text, key []byte, name, version string) (string, error) {
	if len(key) != ed25519.PublicKeySize {
		return "", PublicKeyInvalid.New(nil, "enrol a connector")
	}
	id, rest, ok := splitCode(code.Reveal())
	if !ok {
		return "", CodeRefused.New(nil, "enrol a connector")
	}
	connector := ""
	_, err := e.store.RedeemCode(ctx, id, func(c *Code, exists bool, now time.Time) *catalog.Connector {
		connector = ""
		right := subtle.ConstantTimeCompare(c.Hash, hash(rest)) == 1
		switch {
		case c.Tries >= maxTries:
		case !right:
			c.Tries++
		case c.Connector != "":
			if exists && subtle.ConstantTimeCompare(c.PublicKey, key) == 1 {
				connector = c.Connector
			}
		case now.Before(c.Expires):
			connector = catalog.NewID("c-")
			c.Connector, c.PublicKey = connector, key
			return &catalog.Connector{ID: connector, Name: name, PublicKey: key, Version: version, AssociatedOn: now, LastSeen: now}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if connector == "" {
		return "", CodeRefused.New(nil, "enrol a connector")
	}
	return connector, nil
}

// PublicKey returns the key that an enrolled connector signs with;
// ConnectorRevoked when there is none.
func (e *Enrolment) PublicKey(ctx context.Context, connector string) (ed25519.PublicKey, error) {
	key, ok, err := e.store.PublicKey(ctx, connector)
	if err != nil {
		return nil, err
	}
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, ConnectorRevoked.New(nil, "check the assertion of connector %q", connector)
	}
	return key, nil
}

// splitCode takes a code apart: 8 characters of ID, 16 of secret. People type
// it: case, spaces and hyphens don't matter.
func splitCode(code string) (id, rest string, ok bool) {
	code = strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToUpper(strings.TrimSpace(code)))
	if len(code) != 24 {
		return "", "", false
	}
	return code[:8], code[8:], true
}

// randomText returns n random bytes in base 32; n is a multiple of 5.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return base32.StdEncoding.EncodeToString(b)
}

func hash(s string) []byte {
	sum := sha256.Sum256(fmt.Append(nil, "skylift activation code\x00", s))
	return sum[:]
}
