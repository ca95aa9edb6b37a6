package access

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SealingKey encrypts secrets that are stored in the database. It is kept
// outside of it, so that a copy of the database gives none of them away.
type SealingKey struct{ aead cipher.AEAD }

// LoadSealingKey reads the key, 64 hexadecimal digits, from the file; a file
// that does not exist is made, readable by its owner only. A file that others
// can read is refused.
func LoadSealingKey(path string) (*SealingKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createSealingKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, SealingKeyUnusable.New(err, "make the sealing key")
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, SealingKeyUnusable.New(err, "read the sealing key")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, SealingKeyUnusable.New(err, "read the sealing key")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, SealingKeyUnusable.New(fmt.Errorf("others can read it (mode %04o): make it 0600", info.Mode().Perm()), "read the sealing key %s", path)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 32 {
		return nil, SealingKeyUnusable.New(errors.New("it is not 64 hexadecimal digits"), "read the sealing key %s", path)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, SealingKeyUnusable.New(err, "read the sealing key")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, SealingKeyUnusable.New(err, "read the sealing key")
	}
	return &SealingKey{aead}, nil
}

// createSealingKey writes a fresh key that is there whole or not at all: a
// key cut short by a crash would lock out what the next start seals.
func createSealingKey(path string) (err error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
	f, err := os.CreateTemp(filepath.Dir(path), ".sealing-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.WriteString(hex.EncodeToString(key) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // unlike a rename, replaces no key that is there
}

// Seal encrypts plain for the subject, which Open must be given again.
func (k *SealingKey) Seal(plain []byte, subject string) []byte {
	return k.aead.Seal(nil, nil, plain, []byte(subject))
}

// Open decrypts what Seal made for the same subject.
func (k *SealingKey) Open(sealed []byte, subject string) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, sealed, []byte(subject))
	if err != nil {
		return nil, SealingKeyUnusable.New(err, "open the secret of %s", subject)
	}
	return plain, nil
}
