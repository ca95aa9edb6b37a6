package vcenter

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ExportSnapshot gives a lease to download the snapshot's disks.
func (o *snapshotObject) ExportSnapshot(_ *simulator.Context, _ *types.ExportSnapshot) soap.HasFault {
	body := &methods.ExportSnapshotBody{}
	if err := o.vm.exportable(); err != nil {
		body.Fault_ = simulator.Fault(err.Message, err.Fault)
		return body
	}
	body.Res = &types.ExportSnapshotResponse{Returnval: o.vm.startLease("ExportSnapshot", o.snap).Self}
	return body
}

// ExportVm gives a lease to download the disks of a server that is off.
func (m *machine) ExportVm(_ *simulator.Context, _ *types.ExportVm) soap.HasFault {
	body := &methods.ExportVmBody{}
	err := m.vm.exportable()
	if err == nil && m.vm.spec.Power != types.VirtualMachinePowerStatePoweredOff {
		err = &SOAPFault{&types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: m.vm.spec.Power,
		}, "The operation cannot be performed while the server runs."}
	}
	if err != nil {
		body.Fault_ = simulator.Fault(err.Message, err.Fault)
		return body
	}
	body.Res = &types.ExportVmResponse{Returnval: m.vm.startLease("ExportVm", nil).Self}
	return body
}

func (vm *VM) exportable() *SOAPFault {
	switch {
	case vm.quirks.ExportFails:
		return &SOAPFault{&types.InvalidState{}, "The operation is not allowed in the current state."}
	case vm.quirks.ExportAlone && len(vm.leases) > 0:
		return &SOAPFault{&types.TaskInProgress{}, "Another export of the server is in progress."}
	case vm.spec.Encrypted:
		return &SOAPFault{&types.NotSupported{}, "An encrypted server cannot be exported."}
	}
	return nil
}

// exportedDisk is a disk of a lease.
type exportedDisk struct {
	name       string // of its file
	datastore  string
	key        string
	descriptor string
	allocated  []Extent
	view       *view
}

// pin opens the disks. The caller holds VM.op.
func (l *lease) pin() error {
	l.vm.s.world.RLock()
	defer l.vm.s.world.RUnlock()
	l.host = l.vm.host
	disks := l.vm.disks
	if l.snap != nil {
		disks = l.snap.disks
		if !slices.Contains(l.vm.snapshots, l.snap) {
			return SOAPFault{&types.ManagedObjectNotFound{Obj: l.snap.obj.Self}, "The snapshot is gone."}
		}
	}
	disks = slices.Clone(disks)
	if l.vm.quirks.ExportReversed {
		slices.Reverse(disks)
	}
	for i, d := range disks {
		if err := l.pinDisk(d, fmt.Sprintf("disk-%d.vmdk", i)); err != nil {
			return err
		}
	}
	return nil
}

func (l *lease) pinDisk(d *Disk, name string) error {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	state := diskState{top: d.v.live, size: d.v.size}
	if l.snap != nil {
		state = l.snap.states[d]
	}
	allocated, err := d.v.allocated(state.top, state.size)
	if err != nil {
		return fmt.Errorf("list what is allocated of %s: %w", state.top.file, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks = append(l.disks, &exportedDisk{
		name: name, datastore: d.spec.Datastore, key: d.exportKey(), descriptor: d.streamDescriptor(state), allocated: allocated,
		view: d.v.pin(state.top, state.size),
	})
	return nil
}

// exportKey is the end of the disk's key in a lease, as VirtualNVMEController0:0.
func (d *Disk) exportKey() string {
	kind := map[string]string{
		"": "ParaVirtualSCSIController", "pvscsi": "ParaVirtualSCSIController", "lsilogic": "VirtualLsiLogicController",
		"lsilogic-sas": "VirtualLsiLogicSASController", "sata": "VirtualAHCIController", "ide": "VirtualIDEController",
		"nvme": "VirtualNVMEController",
	}[d.spec.Controller]
	return fmt.Sprintf("%s%d:%d", kind, d.spec.Bus, d.unit)
}

// info is what the lease tells its client when it is ready. The caller holds world.
func (l *lease) info() *types.HttpNfcLeaseInfo {
	s := l.vm.s
	thumbprint := l.host.Thumbprint()
	if thumbprint == "" {
		thumbprint = s.thumbprint()
	}
	base := fmt.Sprintf("https://%s/nfc/%s/", s.leaseAddress(l.vm), l.ticket)
	info := &types.HttpNfcLeaseInfo{
		Lease: l.Self, Entity: l.vm.obj.Self,
		LeaseTimeout: int32((s.cfg.LeaseTimeout + time.Second - 1) / time.Second),
	}
	for _, d := range l.disks {
		info.TotalDiskCapacityInKB += d.view.size >> 10
		info.DeviceUrl = append(info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
			Key: "/" + l.vm.obj.Self.Value + "/" + d.key, ImportKey: "/" + l.vm.spec.Name + "/" + d.key,
			Url: base + d.name, SslThumbprint: thumbprint, Disk: types.NewBool(true),
			TargetId: d.name, DatastoreKey: base, FileSize: d.populated(),
		})
	}
	return info
}

// populated is what a disk takes on its datastore, which is neither its
// capacity nor the size of the download.
func (d *exportedDisk) populated() (bytes int64) {
	for _, e := range d.allocated {
		bytes += e.Length
	}
	return bytes
}

// leaseAddress is who a lease's URLs name: the host, or "*" where the client is
// connected to that already.
func (s *Server) leaseAddress(vm *VM) string {
	address := s.hostAddress(vm)
	if _, port, err := net.SplitHostPort(address); err == nil && s.cfg.Standalone {
		return "*:" + port
	}
	return address
}

// servedBy says whether a host, or vCenter where it is nil, has the lease's files.
func (l *lease) servedBy(h *Host) bool {
	return h == l.host || h == nil && (l.host.address == "" || l.vm.s.cfg.Standalone)
}

// thumbprint is the SHA-1 of vCenter's certificate, in the way of sslThumbprint.
func (s *Server) thumbprint() string {
	block, _ := pem.Decode(s.CertificatePEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	return soap.ThumbprintSHA1(cert)
}
