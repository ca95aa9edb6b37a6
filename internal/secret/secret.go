// Package secret keeps passwords and keys out of logs: a Text prints and
// marshals as "***" whatever the verb or encoder, and only Reveal gives the
// value, so that every place which uses one can be found by its name.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
)

// Redacted is what a non-empty secret prints as.
const Redacted = "***"

// Text is a secret string.
type Text struct{ value string }

// New wraps a secret value.
func New(value string) Text { return Text{value} }

// Reveal returns the value itself, for the one place that must send or store it.
func (t Text) Reveal() string { return t.value }

// Empty reports whether there is no secret.
func (t Text) Empty() bool { return t.value == "" }

// Equal compares in constant time.
func (t Text) Equal(other Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.value), []byte(other.value)) == 1
}

// String returns the redacted form.
func (t Text) String() string {
	if t.value == "" {
		return ""
	}
	return Redacted
}

// Format prints the redacted form for every verb, %#v and %x among them.
func (t Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText gives the redacted form to JSON and other encoders.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes the value from a configuration file.
func (t *Text) UnmarshalText(b []byte) error {
	t.value = string(b)
	return nil
}
