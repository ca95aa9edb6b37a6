package connector

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"skylift/internal/secret"
	"skylift/link"
	linkv1 "skylift/link/linkv1"
	"skylift/link/linkv1/linkv1connect"
)

// Identity is what enrolment gave the connector. The key never leaves its file.
type Identity struct {
	Connector    string             `json:"connector"`
	Installation string             `json:"installation"`
	Key          ed25519.PrivateKey `json:"key"`
}

// Enrolment is what it takes to become an enrolled connector.
type Enrolment struct {
	Dir  string // where the identity is kept: Dir/identity.json
	URL  string // of the control plane
	HTTP *http.Client
	// Code is the activation code; it is not needed once the connector is enrolled.
	Code          secret.Text
	Name, Version string
}

// Enrol returns the identity kept in Dir, or enrols with the activation code
// and keeps what comes of it. The key is kept before it is announced, so that
// an enrolment whose answer was lost can be repeated with the same code.
func Enrol(ctx context.Context, e Enrolment) (Identity, error) {
	path := filepath.Join(e.Dir, "identity.json")
	id, err := readIdentity(path)
	if err != nil || id.Connector != "" {
		return id, err
	}
	if e.Code.Empty() {
		return Identity{}, NotEnrolled.New(nil, "look for an identity in %s", path)
	}
	if id.Key == nil {
		if _, id.Key, err = ed25519.GenerateKey(nil); err != nil {
			return Identity{}, fmt.Errorf("make a key: %w", err)
		}
		if err := writeIdentity(path, id); err != nil {
			return Identity{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := linkv1connect.NewEnrolmentServiceClient(e.HTTP, e.URL).Enrol(ctx, connect.NewRequest(&linkv1.EnrolRequest{
		ActivationCode: e.Code.Reveal(), PublicKey: id.Key.Public().(ed25519.PublicKey), Name: e.Name, Version: e.Version,
	}))
	if code, _ := link.Problem(err); code != "" {
		return Identity{}, EnrolmentRefused.New(err, "enrol with %s", e.URL)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("enrol with %s: %w", e.URL, err)
	}
	id.Connector, id.Installation = answer.Msg.Connector, answer.Msg.Installation
	if id.Connector == "" || id.Installation == "" {
		return Identity{}, fmt.Errorf("enrol with %s: what answers is no control plane", e.URL)
	}
	return id, writeIdentity(path, id)
}

// readIdentity returns the zero Identity when there is no file.
func readIdentity(path string) (Identity, error) {
	p, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, nil
	}
	if err != nil {
		return Identity{}, fmt.Errorf("read the connector's identity: %w", err)
	}
	var id Identity
	if err := json.Unmarshal(p, &id); err != nil || !id.whole() {
		return Identity{}, IdentityDamaged.New(err, "read %s", path)
	}
	return id, nil
}

// whole reports whether the key is one, and enrolment complete or still to come.
func (id Identity) whole() bool {
	return len(id.Key) == ed25519.PrivateKeySize && ed25519.NewKeyFromSeed(id.Key.Seed()).Equal(id.Key) &&
		(id.Connector == "") == (id.Installation == "")
}

// writeIdentity replaces the file as a whole, readable by its owner only.
func writeIdentity(path string, id Identity) error {
	p, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the connector's identity: %w", err)
	}
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(p)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = errors.Join(os.Rename(next, path), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("keep the connector's identity: %w", err)
	}
	return nil
}

// syncDir has a rename survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// client makes the client whose calls are signed with the identity's key.
func (id Identity) client(http *http.Client, url string, now func() time.Time) linkv1connect.LinkServiceClient {
	signer := link.NewSigner(id.Connector, id.Installation, id.Key, now)
	return linkv1connect.NewLinkServiceClient(http, url, connect.WithInterceptors(signer))
}
