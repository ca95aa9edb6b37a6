package vsphere

import (
	"context"
	"fmt"

	"skylift/hypervisor"
)

// CheckSource logs in and tells what was found.
func (s *Source) CheckSource(ctx context.Context) (hypervisor.Report, error) {
	services, err := s.session.services(ctx)
	if err != nil {
		return hypervisor.Report{}, fmt.Errorf("check the source: %w", err)
	}
	return hypervisor.Report{Facts: []hypervisor.Fact{{Name: "version", Value: services.About.FullName}}}, nil
}
