package config

import (
	"fmt"
	"io"
	"os"
	"strings"

	"skylift/internal/secret"
)

// maxSecret bounds the file that a secret is read from.
const maxSecret = 64 << 10

// SecretFile is the path of a file that holds a secret: the whole text, but
// for one line end behind it.
type SecretFile string

// Read returns the secret; the empty path stands for none.
func (f SecretFile) Read() (secret.Text, error) {
	if f == "" {
		return secret.Text{}, nil
	}
	file, err := os.Open(string(f))
	if err != nil {
		return secret.Text{}, Invalid.New(err, "read a secret")
	}
	defer file.Close()
	p, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err == nil && len(p) > maxSecret {
		err = fmt.Errorf("%s is too large for a secret", f)
	}
	if err != nil {
		return secret.Text{}, Invalid.New(err, "read a secret from %s", string(f))
	}
	text, _ := strings.CutSuffix(string(p), "\n")
	text, _ = strings.CutSuffix(text, "\r")
	return secret.New(text), nil
}
