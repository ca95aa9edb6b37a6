package vsphere

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Identity returns the source's own ID, which stays the same whatever name or
// address it is reached by: a vCenter's instance UUID, or the hardware UUID of
// a standalone host, which it keeps when ESXi is installed anew.
func (s *Source) Identity(ctx context.Context) (string, error) {
	services, err := s.session.services(ctx)
	if err != nil {
		return "", err
	}
	switch {
	case services.About.InstanceUuid != "":
		return services.About.InstanceUuid, nil
	case standalone(services.About):
		return s.hardwareID(ctx)
	}
	return "", fmt.Errorf("this vSphere (%s, %s) does not tell its identity: only a vCenter or an ESXi host can be a source", services.About.FullName, services.About.ApiType)
}

// hardwareID is the UUID in the host's firmware. Boards whose maker left it
// out have zeros there.
func (s *Source) hardwareID(ctx context.Context) (string, error) {
	var found []mo.HostSystem
	err := s.session.steadily(func() (err error) {
		view, destroy, err := s.session.view(ctx, "HostSystem")
		if err != nil {
			return err
		}
		defer func() { err = s.tidy(err, destroy(ctx)) }()
		objects, err := s.session.retrieveSpec(ctx, types.PropertyFilterSpec{
			ObjectSet: []types.ObjectSpec{viewed(view)},
			PropSet:   []types.PropertySpec{{Type: "HostSystem", PathSet: []string{"summary.hardware.uuid"}}},
		})
		if err != nil {
			return err
		}
		return mo.LoadObjectContent(objects, &found)
	})
	if err != nil {
		return "", fmt.Errorf("read the host's hardware UUID: %w", explain(err, "the host"))
	}
	if len(found) != 1 || found[0].Summary.Hardware == nil || strings.Trim(found[0].Summary.Hardware.Uuid, "0-") == "" {
		return "", errors.New("the host has no hardware UUID by which it could be told apart: let a vCenter manage it, and use that as the source")
	}
	return strings.ToLower(found[0].Summary.Hardware.Uuid), nil
}
