package connector

import (
	"time"

	"skylift/hypervisor"
	"skylift/internal/secret"
	linkv1 "skylift/link/linkv1"
)

func fromSnapshot(m *linkv1.SnapshotRef) hypervisor.SnapshotRef {
	ref := hypervisor.SnapshotRef{
		Server: hypervisor.ServerID(m.GetServer()), Run: hypervisor.RunID(m.GetRun()), ID: m.GetId(),
		Consistency: hypervisor.Consistency(m.GetConsistency()), Note: m.GetNote(),
	}
	if m.GetCreated() != 0 {
		ref.Created = time.UnixMilli(m.GetCreated())
	}
	return ref
}

func toSnapshot(r hypervisor.SnapshotRef) *linkv1.SnapshotRef {
	m := &linkv1.SnapshotRef{Server: string(r.Server), Run: string(r.Run), Id: r.ID, Consistency: string(r.Consistency), Note: r.Note}
	if !r.Created.IsZero() {
		m.Created = r.Created.UnixMilli()
	}
	return m
}

func fromAnchor(m *linkv1.Anchor) hypervisor.Anchor {
	return hypervisor.Anchor{Server: hypervisor.ServerID(m.GetServer()), Run: hypervisor.RunID(m.GetRun()), ID: m.GetId()}
}

// toAnchor returns nil for the zero Anchor, which stands for nothing.
func toAnchor(a hypervisor.Anchor) *linkv1.Anchor {
	if a == (hypervisor.Anchor{}) {
		return nil
	}
	return &linkv1.Anchor{Server: string(a.Server), Run: string(a.Run), Id: a.ID}
}

func fromStaging(m *linkv1.Staging) StagingPlace {
	return StagingPlace{
		Bucket: m.GetBucket(), Prefix: m.GetPrefix(), Region: m.GetRegion(), Endpoint: m.GetEndpoint(),
		PathStyle: m.GetPathStyle(), CAPEM: m.GetCaPem(), ConditionalWrites: m.GetConditionalWrites(),
	}
}

// fromCredentials reports false when there are none.
func fromCredentials(m *linkv1.Credentials) (Credentials, bool) {
	if m == nil {
		return Credentials{}, false
	}
	c := Credentials{AccessKeyID: m.AccessKeyId, SecretKey: secret.New(m.SecretAccessKey), SessionToken: secret.New(m.SessionToken)}
	if m.Expires != 0 {
		c.Expires = time.UnixMilli(m.Expires)
	}
	return c, true
}

func toServer(s *hypervisor.Server) *linkv1.Server {
	out := &linkv1.Server{
		Id: string(s.ID), Name: s.Name, Path: s.Path, ManagerId: s.ManagerID, PoweredOn: s.PoweredOn, GuestOs: s.GuestOS,
		Firmware: string(s.Firmware), SecureBoot: s.SecureBoot, Tpm: s.TPM, Cpus: int32(s.CPUs), MemoryMib: s.MemoryMiB, Host: s.Host,
	}
	for _, d := range s.Disks {
		out.Disks = append(out.Disks, &linkv1.ServerDisk{Id: string(d.ID), Name: d.Name, Size: d.Size, Skip: d.Skip})
	}
	for _, n := range s.NICs {
		out.Nics = append(out.Nics, &linkv1.NIC{Name: n.Name, Mac: n.MAC, Network: n.Network})
	}
	return out
}

func toReport(r hypervisor.Report) *linkv1.Report {
	out := &linkv1.Report{}
	for _, f := range r.Facts {
		out.Facts = append(out.Facts, &linkv1.Fact{Subject: f.Subject, Name: f.Name, Value: f.Value})
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, &linkv1.Finding{Code: f.Code, Blocks: f.Blocks, Subject: f.Subject, What: f.What, Hint: f.Hint})
	}
	return out
}
