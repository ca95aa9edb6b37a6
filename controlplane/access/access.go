// Package access says who may talk to the control plane: connectors, which
// enrol once with an activation code and sign their calls from then on, and
// users of the SMS API with their access keys and roles.
//
// Activation codes are kept as hashes. The secrets of access keys must be had
// again to check SigV4 signatures; they are sealed with AES-256-GCM under a
// sealing key that is not in the database.
package access

import (
	"context"
	"time"

	"skylift/controlplane/catalog"
	"skylift/internal/problem"
	"skylift/internal/secret"
)

// Role is what a user may do.
type Role string

// The roles; each may do what those before it may.
const (
	Viewer   Role = "viewer"   // look at everything
	Operator Role = "operator" // replicate, launch, cut over
	Admin    Role = "admin"    // keys, connectors, settings
)

// Allows reports whether the role may do what needs the other one. An unknown
// role may do nothing.
func (r Role) Allows(needed Role) bool {
	rank := map[Role]int{Viewer: 1, Operator: 2, Admin: 3}
	return rank[needed] > 0 && rank[r] >= rank[needed]
}

// Key is an access key of the SMS API.
type Key struct {
	ID          string
	Secret      secret.Text // set by Create and Lookup only
	Role        Role
	Description string
	Created     time.Time
	Revoked     time.Time // zero: it is valid
}

// What can be wrong with access.
var (
	CodeRefused = &problem.Kind{
		Code:  "access-code-refused",
		Title: "the activation code is wrong, used or expired",
		Hint:  "Make a new activation code in the control plane and enter it within its time.",
	}
	PublicKeyInvalid = &problem.Kind{
		Code:  "access-public-key-invalid",
		Title: "the connector's public key is not an Ed25519 key",
		Hint:  "Update the connector to a version that this control plane supports.",
	}
	ConnectorRevoked = &problem.Kind{
		Code:  "access-connector-revoked",
		Title: "the connector is not enrolled, or was disassociated",
		Hint:  "Enrol the connector with a new activation code.",
	}
	KeyNotFound = &problem.Kind{
		Code:  "access-key-not-found",
		Title: "the access key does not exist or was revoked",
		Hint:  "Use a valid access key, or ask an administrator for one.",
	}
	RoleUnknown = &problem.Kind{
		Code:  "access-role-unknown",
		Title: "there is no such role",
		Hint:  "Use viewer, operator or admin.",
	}
	SealingKeyUnusable = &problem.Kind{
		Code:  "access-sealing-key-unusable",
		Title: "the sealing key cannot be used",
		Hint:  "Put the sealing key's file back from the recovery kit; without it access keys must be made anew.",
	}
)

// Store keeps codes, keys and the installation's ID.
type Store interface {
	Now(ctx context.Context) (time.Time, error)
	// Installation returns the installation's ID; the first call sets it.
	Installation(ctx context.Context, fresh string) (string, error)

	InsertCode(ctx context.Context, c Code) error
	// RedeemCode runs f on the code in one transaction and saves what f
	// changed. A connector that f returns is inserted; exists tells f whether the
	// code's connector is still enrolled. RedeemCode reports whether there is such a code.
	RedeemCode(ctx context.Context, id string, f func(c *Code, exists bool, now time.Time) *catalog.Connector) (bool, error)
	// PublicKey returns a connector's key.
	PublicKey(ctx context.Context, connector string) ([]byte, bool, error)

	InsertKey(ctx context.Context, k Key, sealed []byte) error
	Key(ctx context.Context, id string) (k Key, sealed []byte, ok bool, err error)
	ListKeys(ctx context.Context) ([]Key, error)
	// RevokeKey reports whether there was such a key, revoked or not.
	RevokeKey(ctx context.Context, id string) (bool, error)
}

// Installation returns the control plane's ID: the audience of connectors'
// assertions, and a part of the name of all that is made for this installation.
func Installation(ctx context.Context, store Store) (string, error) {
	return store.Installation(ctx, catalog.NewID("i"))
}
