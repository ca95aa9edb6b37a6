package vsphere

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// trackingRun names the snapshot that makes change tracking begin; what is
// left of it is found and removed like any other of ours.
const trackingRun hypervisor.RunID = "enable-tracking"

// trackingHardware is the virtual hardware version that change tracking needs.
const trackingHardware = 7

// EnableTracking switches changed block tracking on. It takes effect when the
// running machine is stunned next: a snapshot is made and removed for that.
// With other snapshots present it would not cover what they hold, so those
// forbid it.
func (s *Source) EnableTracking(ctx context.Context, id hypervisor.ServerID) error {
	v, err := s.find(ctx, id)
	if err != nil {
		return fmt.Errorf("enable tracking: %w", err)
	}
	if trackingOn(v) {
		return nil
	}
	if why := untrackable(v); why != "" {
		return TrackingRefused.New(nil, "%s: %s", v.Name, why)
	}
	left, err := s.withoutTracking(ctx, v)
	if err != nil {
		return err
	}
	if left > 0 {
		return TrackingRefused.New(nil, "%s has %d snapshots", v.Name, left)
	}
	res, err := methods.ReconfigVM_Task(ctx, s.session, &types.ReconfigVM_Task{
		This: v.Self, Spec: types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)},
	})
	if err != nil {
		return fmt.Errorf("enable tracking of %s: %w", v.Name, explain(err, v.Name))
	}
	if _, err := s.await(ctx, res.Returnval, s.limits.Task, "enable tracking of "+v.Name); err != nil {
		return explain(err, v.Name)
	}
	if !v.poweredOn() {
		return nil
	}
	refs, err := s.Snapshot(ctx, trackingRun, []hypervisor.ServerID{id}, hypervisor.QuiesceNever)
	if err != nil {
		return fmt.Errorf("enable tracking of %s: %w", v.Name, err)
	}
	if err = s.Remove(ctx, refs[0]); ctx.Err() != nil {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Undo)
		defer cancel()
		return errors.Join(ctx.Err(), s.Remove(detached, refs[0]))
	}
	return err
}

// withoutTracking removes the snapshot of an attempt that was cut short, and
// counts those that remain.
func (s *Source) withoutTracking(ctx context.Context, v *vm) (int, error) {
	name := s.snapshotName(trackingRun)
	if err := s.removeFrom(ctx, v, func(n node) bool { return n.Name == name }); err != nil {
		return 0, err
	}
	return len(nodes(v.Snapshot)), nil
}

// trackingOn reports that tracking is on for all disks that can have it. Where
// it has not begun yet, the next snapshot begins it.
func trackingOn(v *vm) bool {
	for _, d := range v.disks() {
		if d.skip == "" && (trackingFlaw(v.Config.ChangeTrackingEnabled, v.Config.ExtraConfig, d.node) != "") {
			return false
		}
	}
	return v.Config.ChangeTrackingEnabled != nil && *v.Config.ChangeTrackingEnabled
}

// untrackable says why a machine cannot have change tracking, or nothing.
func untrackable(v *vm) string {
	if n, err := strconv.Atoi(strings.TrimPrefix(v.Config.Version, "vmx-")); err == nil && n < trackingHardware {
		return fmt.Sprintf("its virtual hardware has version %d, change tracking needs %d", n, trackingHardware)
	}
	return ""
}
