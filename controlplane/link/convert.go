package link

import (
	"time"

	"skylift/controlplane/catalog"
	"skylift/controlplane/replication"
	"skylift/link/linkv1"
)

func serverFrom(v *linkv1.Server) catalog.Server {
	s := catalog.Server{
		VM: v.Id, ManagerID: v.ManagerId, Name: v.Name, Path: v.Path, PoweredOn: v.PoweredOn, GuestOS: v.GuestOs,
		Firmware: v.Firmware, SecureBoot: v.SecureBoot, TPM: v.Tpm, CPUs: int(v.Cpus), MemoryMiB: v.MemoryMib, Host: v.Host,
	}
	for _, d := range v.Disks {
		s.Disks = append(s.Disks, catalog.Disk{ID: d.GetId(), Name: d.GetName(), Size: d.GetSize(), Skip: d.GetSkip()})
	}
	for _, n := range v.Nics {
		s.NICs = append(s.NICs, catalog.NIC{Name: n.GetName(), MAC: n.GetMac(), Network: n.GetNetwork()})
	}
	return s
}

func snapshotFrom(v *linkv1.SnapshotRef) replication.Snapshot {
	s := replication.Snapshot{
		Server: v.GetServer(), Run: v.GetRun(), ID: v.GetId(), Consistency: v.GetConsistency(), Note: v.GetNote(),
	}
	if v.GetCreated() != 0 {
		s.Created = time.UnixMilli(v.GetCreated()).UTC()
	}
	return s
}

func snapshotOf(s replication.Snapshot) *linkv1.SnapshotRef {
	v := &linkv1.SnapshotRef{Server: s.Server, Run: s.Run, Id: s.ID, Consistency: s.Consistency, Note: s.Note}
	if !s.Created.IsZero() {
		v.Created = s.Created.UnixMilli()
	}
	return v
}

func anchorFrom(v *linkv1.Anchor) *replication.Anchor {
	if v == nil {
		return nil
	}
	return &replication.Anchor{Server: v.Server, Run: v.Run, ID: v.Id}
}

func sealedFrom(v *linkv1.SealedDisk) replication.SealedDisk {
	return replication.SealedDisk{
		Disk: v.GetDisk(), Key: v.GetDiskKey(), Name: v.GetName(), Position: int(v.GetPosition()), Size: v.GetSize(),
		ManifestSHA256: v.GetManifestSha256(), Digest: v.GetDigest(), BaseRun: v.GetBaseRun(), BaseDigest: v.GetBaseDigest(),
		ChangeID: v.GetChangeId(),
	}
}

// progressFrom takes a progress over; its stage "preparing" comes before any upload.
func progressFrom(v *linkv1.Progress) replication.Progress {
	p := replication.Progress{WaitingFor: v.GetWaitingFor(), Uploading: v.GetStage() == "uploading" || v.GetStage() == "settling"}
	for _, d := range v.GetDisks() {
		p.Disks = append(p.Disks, diskProgressFrom(d))
	}
	return p
}

func diskProgressFrom(v *linkv1.DiskProgress) replication.DiskProgress {
	return replication.DiskProgress{
		RunDisk: replication.RunDisk{
			ID: v.GetDisk(), Name: v.GetName(), Kind: v.GetKind(), Reason: v.GetReason(), Transport: v.GetTransport(), TransportWhy: v.GetTransportWhy(),
			Size: v.GetSize(), Planned: v.GetPlanned(), Read: v.GetRead(), Changed: v.GetChanged(), Sent: v.GetSent(),
			Stored: v.GetStored(), Resumed: v.GetResumed(),
		},
		Done: v.GetDone(),
	}
}
