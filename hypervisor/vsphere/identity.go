package vsphere

import (
	"context"
	"errors"
)

// Identity returns the vCenter's own ID, which stays the same whatever name or
// address it is reached by.
func (s *Source) Identity(ctx context.Context) (string, error) {
	if _, err := s.session.ready(ctx); err != nil {
		return "", err
	}
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	id := s.session.content.About.InstanceUuid
	if id == "" {
		return "", errors.New("this vSphere does not tell its identity: only a vCenter can be a source")
	}
	return id, nil
}
