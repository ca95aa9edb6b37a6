package vsphere

import (
	"context"
	"fmt"

	"skylift/hypervisor"
)

// disks tells how each disk is kept, and which cannot be replicated.
func (in *inspection) disks() {
	for _, d := range in.v.disks() {
		in.fact(d.label, "file", "%s", d.file)
		in.fact(d.label, "size", "%d bytes", d.size)
		in.fact(d.label, "mode", "%s", d.mode)
		in.fact(d.label, "kind", "%s%s", d.kind, layers(d))
		in.disk(d)
	}
}

func layers(d virtualDisk) string {
	if len(d.parents) == 0 {
		return ""
	}
	return fmt.Sprintf(", on top of %d other files", len(d.parents))
}

func (in *inspection) disk(d virtualDisk) {
	switch {
	case d.shared:
		in.find(hypervisor.Finding{
			Code: "vsphere-disk-shared", Blocks: true, Subject: d.label,
			What: "the disk cannot be replicated: " + d.skip + "; vSphere takes no snapshot of the running server at all",
			Hint: "Switch the server off and remove the sharing for the migration, or carry the shared data over by other means",
		})
	case d.skip != "":
		in.find(hypervisor.Finding{
			Code: "vsphere-disk-not-snapshotted", Blocks: true, Subject: d.label,
			What: "the disk cannot be replicated: " + d.skip,
			Hint: "Convert it to an ordinary disk in vSphere, or let the job leave it out",
		})
	case d.sealed:
		in.find(hypervisor.Finding{
			Code: "vsphere-encrypted", Blocks: in.source.exports == nil, Subject: d.label,
			What: "the disk is encrypted by vSphere: " + encryptedReads,
			Hint: encryptedHint,
		})
	}
}

// tracking tells per disk whether changed blocks are tracked: by the machine's
// flag, the disk's own setting, and the change ID in the present snapshot.
func (in *inspection) tracking() {
	v := in.v
	if why := untrackable(v); why != "" {
		in.fact("", "change tracking", "not possible: %s", why)
		in.find(hypervisor.Finding{
			Code: "vsphere-tracking-unavailable", Subject: v.Name,
			What: "changed blocks cannot be tracked, each run reads every disk whole: " + why,
			Hint: "Upgrade the virtual hardware if that takes too long",
		})
		return
	}
	if enabled := v.Config.ChangeTrackingEnabled; enabled == nil || !*enabled {
		in.fact("", "change tracking", "off")
		in.find(hypervisor.Finding{
			Code: "vsphere-tracking-off", Subject: v.Name,
			What: "changed block tracking is off: each run reads every disk whole",
			Hint: "Enable it from Skylift at a quiet time; a running server is stunned for as long as a snapshot is made and removed",
		})
		return
	}
	in.fact("", "change tracking", "on")
	for _, d := range v.disks() {
		if d.skip != "" {
			in.fact(d.label, "change tracking", "not possible: %s", d.skip)
			continue
		}
		flaw := trackingFlaw(v.Config.ChangeTrackingEnabled, v.Config.ExtraConfig, d.node)
		id, known := in.frozen[d.key]
		if flaw == "" && known && id == "" {
			flaw = "changed block tracking is on, but the present snapshot has no change ID of the disk: it begins with the next snapshot"
		}
		switch {
		case flaw != "":
			in.fact(d.label, "change tracking", "%s", flaw)
			in.find(hypervisor.Finding{
				Code: "vsphere-tracking-flawed", Subject: d.label,
				What: flaw + ": a run reads the disk whole",
				Hint: "Enable tracking from Skylift once more; without snapshots on the server",
			})
		case known:
			in.fact(d.label, "change tracking", "on, the present snapshot has a change ID")
		default:
			in.fact(d.label, "change tracking", "on")
		}
	}
}

// readFrozen reads the change IDs in the present snapshot, if there is one:
// the machine's own configuration does not tell them reliably.
func (in *inspection) readFrozen(ctx context.Context) error {
	if in.v.Snapshot == nil || in.v.Snapshot.CurrentSnapshot == nil {
		return nil
	}
	object, err := in.source.snapshotObject(ctx, in.v.Snapshot.CurrentSnapshot.Value)
	if err != nil || object == nil { // it went meanwhile
		return err
	}
	in.frozen = map[int32]hypervisor.ChangeID{}
	for _, d := range frozenDisks(object, in.v) {
		in.frozen[d.key] = d.changeID
	}
	return nil
}
