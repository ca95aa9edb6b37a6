package catalog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Service answers for the catalog.
type Service struct {
	store Store
	wake  func()
}

// NewService returns the catalog kept in store. wake, which may be nil, is
// called when connectors have something to do.
func NewService(store Store, wake func()) *Service {
	if wake == nil {
		wake = func() {}
	}
	return &Service{store: store, wake: wake}
}

// Page selects a part of a list: up to Limit items behind the one whose ID is
// After; "" is the start. A Limit outside 1 to 500 stands for 50.
type Page struct {
	After string
	Limit int
}

// Size is the page's limit, within bounds.
func (p Page) Size() int {
	if p.Limit < 1 || p.Limit > 500 {
		return 50
	}
	return p.Limit
}

// Cut reduces items, of which one more than the page holds was asked for, to
// the page, and returns the After of the next one; "" when there is none.
func Cut[T any](p Page, items []T, id func(T) string) ([]T, string) {
	if n := p.Size(); len(items) > n {
		return items[:n], id(items[n-1])
	}
	return items, ""
}

// NewID returns a random ID in the SMS API's form: the prefix and 17 hex digits.
func NewID(prefix string) string {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return prefix + hex.EncodeToString(b[:])[:17]
}

// ServerID is the catalog's ID of a source's server. It is derived, so that
// it survives clearing and importing the catalog.
func ServerID(source, vm string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(source), source, vm))
	return "s-" + hex.EncodeToString(sum[:])[:17]
}

// Connectors lists the connectors.
func (s *Service) Connectors(ctx context.Context, p Page) ([]Connector, string, error) {
	list, err := s.store.ListConnectors(ctx, p.After, p.Size()+1)
	if err != nil {
		return nil, "", err
	}
	list, next := Cut(p, list, func(c Connector) string { return c.ID })
	return list, next, nil
}

// Disassociate revokes a connector: its assertions are refused from now on.
// ConnectorBusy while it holds a lease.
func (s *Service) Disassociate(ctx context.Context, connector string) error {
	found, busy, err := s.store.DeleteConnector(ctx, connector)
	switch {
	case err != nil:
		return err
	case !found:
		return ConnectorNotFound.New(nil, "disassociate connector %q", connector)
	case busy:
		return ConnectorBusy.New(nil, "disassociate connector %s", connector)
	}
	return nil
}

// Announce records what a connector says of itself.
func (s *Service) Announce(ctx context.Context, connector string, a Announcement) error {
	if err := s.store.Announce(ctx, connector, a); err != nil {
		return err
	}
	s.wake()
	return nil
}

// Touch notes that the connector was heard of.
func (s *Service) Touch(ctx context.Context, connector string) error {
	return s.store.Touch(ctx, connector)
}
