package access

import (
	"context"
	"crypto/rand"
	"encoding/base64"

	"skylift/internal/secret"
)

// Keys are the access keys of the SMS API.
type Keys struct {
	store Store
	seal  *SealingKey
}

// NewKeys returns the access keys kept in store, their secrets sealed under seal.
func NewKeys(store Store, seal *SealingKey) *Keys { return &Keys{store, seal} }

// Create makes an access key. Its secret is shown this once. RoleUnknown for
// a role that does not exist.
func (k *Keys) Create(ctx context.Context, role Role, description string) (Key, error) {
	if !role.Allows(role) {
		return Key{}, RoleUnknown.New(nil, "create an access key for role %q", string(role))
	}
	now, err := k.store.Now(ctx)
	if err != nil {
		return Key{}, err
	}
	b := make([]byte, 30)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	key := Key{
		ID:     "AKIA" + randomText(10), // 20 characters, as clients expect of an access key
		Secret: secret.New(base64.StdEncoding.EncodeToString(b)), Role: role, Description: description, Created: now,
	}
	sealed := k.seal.Seal([]byte(key.Secret.Reveal()), key.ID)
	if err := k.store.InsertKey(ctx, key, sealed); err != nil {
		return Key{}, err
	}
	return key, nil
}

// Lookup returns a valid key with its secret; KeyNotFound for one that does
// not exist or was revoked.
func (k *Keys) Lookup(ctx context.Context, id string) (Key, error) {
	key, sealed, ok, err := k.store.Key(ctx, id)
	if err != nil {
		return Key{}, err
	}
	if !ok || !key.Revoked.IsZero() {
		return Key{}, KeyNotFound.New(nil, "look up access key %q", id)
	}
	plain, err := k.seal.Open(sealed, key.ID)
	if err != nil {
		return Key{}, err
	}
	key.Secret = secret.New(string(plain))
	return key, nil
}

// List returns all keys without their secrets, in order of ID.
func (k *Keys) List(ctx context.Context) ([]Key, error) { return k.store.ListKeys(ctx) }

// Revoke makes a key invalid for good; KeyNotFound when there is none.
func (k *Keys) Revoke(ctx context.Context, id string) error {
	ok, err := k.store.RevokeKey(ctx, id)
	if err == nil && !ok {
		err = KeyNotFound.New(nil, "revoke access key %q", id)
	}
	return err
}
