package vcenter

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vmware/govmomi/vim25/types"
)

// Config describes a vCenter. The zero Config is a usable one without servers.
type Config struct {
	Address string      // where to listen; default 127.0.0.1:0
	TLS     *tls.Config // with a certificate; default: a self-signed one made at start
	// User and Password are what Login and /folder accept; default
	// administrator@vsphere.local and "simulated".
	User, Password string

	Datacenter string      // default DC0
	Hosts      []string    // default esx-1.example.com and esx-2.example.com, in the cluster C0
	Datastores []Datastore // default one VMFS datastore, datastore1
	Servers    []ServerSpec

	// AreasPerPage is the most areas that one QueryChangedDiskAreas answers;
	// default 2000. EmptyPages has it answer a gap before the next area with
	// a page of its own that holds no area.
	AreasPerPage int
	EmptyPages   bool

	// Denied are the privileges that the user lacks: "VApp.Export" everywhere,
	// "VApp.Export@web" on the object of that name or reference (as vm-1001) and
	// on what is below it. The operations that need them fail as well.
	Denied []string

	// LeaseTimeout is how long an export's lease lives without a report of
	// progress; default 5 minutes. Clients see it rounded up to seconds.
	LeaseTimeout time.Duration

	// NoHostListeners leaves hosts without HTTPS of their own; their names then
	// lead nowhere, as where a firewall keeps clients from them.
	NoHostListeners bool
	// Tickets is how service tickets are treated, TicketTimeout how long one can
	// be used (default 30 s).
	Tickets       Tickets
	TicketTimeout time.Duration
	// HostTransfers is how many files one host serves at a time, directly or
	// through vCenter; more are answered 503. Default: no limit.
	HostTransfers int

	// Latency passes before every answer.
	Latency Latency

	// SessionTimeout ends sessions that have not been used for so long; default:
	// never. Sessions is how many there may be; Login answers 503 past it.
	SessionTimeout time.Duration
	Sessions       int

	// Standalone is an ESXi host without vCenter: one host, no cluster, the
	// datacenter ha-datacenter, the user root, no folders.
	Standalone bool
	// FreeLicense has all calls that change something fail with RestrictedVersion.
	FreeLicense bool

	// Now is the clock by which tickets and sessions expire; default time.Now.
	Now func() time.Time

	// OnSnapshot is told of every snapshot while it is taken: the disks are
	// frozen, the task is not finished, the guest may go on writing. It runs
	// on the task's goroutine and must not wait for an operation on the same
	// server.
	OnSnapshot func(SnapshotEvent)

	// Fault is asked before every call; see Call. It may block, and it is
	// asked from several goroutines: tasks run beside calls.
	Fault func(Call) error

	Log logrus.FieldLogger // default: none
}

// Datastore describes a datastore.
type Datastore struct {
	Name     string
	Type     string   // VMFS (default), NFS, vsan, VVOL
	Capacity int64    // bytes; default 100 TiB
	Free     int64    // bytes; default half of the capacity
	Hosts    []string // that have it mounted; default all
	// Deltas is the format of the delta files that snapshots start. Disks of 2
	// TiB and more have SEsparse ones everywhere: the other format ends there.
	Deltas string // DeltasSESparse (default, as VMFS 6) or DeltasVMFSSparse
}

// The formats of delta files.
const (
	DeltasSESparse   = "sesparse"
	DeltasVMFSSparse = "vmfsSparse" // COWD
)

// ServerSpec describes a VM. Only the name is required.
type ServerSpec struct {
	Name            string
	Folder          string // path below the datacenter's VM folder, made if missing
	Host            string // default: the hosts in turn
	Power           types.VirtualMachinePowerState
	Firmware        string // bios (default) or efi
	GuestID         string // default ubuntu64Guest
	GuestFullName   string // default: derived from GuestID
	HardwareVersion int    // default 19
	CPUs            int    // default 2
	MemoryMB        int    // default 4096
	UUID            string // config.uuid (BIOS); default: random
	InstanceUUID    string // config.instanceUuid; default: random
	Annotation      string
	ExtraConfig     map[string]string
	ChangeTracking  bool // config.changeTrackingEnabled, in effect from the start
	Encrypted       bool // config.keyId is set
	Template        bool // config.template
	Disks           []DiskSpec
	Devices         []types.BaseVirtualDevice // further devices, shown as they are
	Quirks          Quirks
}

// DiskSpec describes a virtual disk.
type DiskSpec struct {
	Size        int64   // bytes, a multiple of 512; default: the content's
	Content     Content // default: empty, in memory
	Datastore   string  // default: the first one
	Mode        string  // persistent (default), independent_persistent, independent_nonpersistent
	RDM         string  // physicalMode or virtualMode: a raw device mapping
	MultiWriter bool    // shared with other VMs
	Thick       bool    // default: thin
	Controller  string  // pvscsi (default), lsilogic, lsilogic-sas, sata, ide, nvme
	Bus         int
	Unit        int    // default 0: the next free one
	UUID        string // backing UUID; default: random
	CtkDisabled bool   // ExtraConfig has <node>.ctkEnabled FALSE: never tracked
}

// Quirks are what vSphere is known to do wrong, or differently.
type Quirks struct {
	// QuiesceFails fails snapshots that ask for a quiesced guest.
	QuiesceFails bool
	// SnapshotTakes is how long a snapshot's task runs before the disks are
	// frozen, ConsolidationTakes how long one runs that removes snapshots,
	// after they have left the tree and before their files are merged. See
	// VM.Hurry.
	SnapshotTakes, ConsolidationTakes time.Duration
	// ConsolidationNeeded has removed snapshots leave their delta files
	// behind and runtime.consolidationNeeded set, until ConsolidateVMDisks.
	ConsolidationNeeded bool
	// FlatLocked has /folder refuse even frozen files while the server runs,
	// as ESXi does where the file system's locks forbid it.
	FlatLocked bool
	// ExportFails has ExportSnapshot and ExportVm answer InvalidState.
	ExportFails bool
	// ExportAlone has them answer TaskInProgress while another lease on the
	// server is held.
	ExportAlone bool
	// ExportReversed lists the disks of a lease in reverse, and numbers their
	// files so: only the keys tell which is which.
	ExportReversed bool
	// SeSparseBackings shows disks with SEsparse deltas, and all that is below
	// these, as VirtualDiskSeSparseBackingInfo; otherwise every chain is made of
	// VirtualDiskFlatVer2BackingInfo, which tells of deltas by its format and
	// parent alone. vCenters do the one or the other.
	SeSparseBackings bool
	// Allocated is how "*" is answered.
	Allocated AllocatedAnswer
	// Resized is how changes since before a growth are answered.
	Resized ResizedAnswer
	// OmitChange makes tracking lie: areas for which it is true are left out
	// of every answer except to "*". It must not call the simulator.
	OmitChange func(deviceKey int32, area Extent) bool
}

// AllocatedAnswer is a way to answer QueryChangedDiskAreas for "*".
type AllocatedAnswer int

// How "*" is answered. By default a VMFS disk whose tracking began without
// snapshots lists its allocated areas, any other is one area.
const (
	AllocatedDefault AllocatedAnswer = iota
	AllocatedAreas
	AllocatedWhole // one area over the whole disk
	AllocatedFails // FileFault
)

// ResizedAnswer is a way to answer QueryChangedDiskAreas across a growth.
type ResizedAnswer int

// How changes across a growth are answered.
const (
	ResizedRight  ResizedAnswer = iota // as if nothing had happened
	ResizedFails                       // FileFault
	ResizedResets                      // growing resets tracking
	ResizedWrong                       // areas past the old end are missing
)

func (c Config) withDefaults() Config {
	def := func(p *string, s string) {
		if *p == "" {
			*p = s
		}
	}
	def(&c.Address, "127.0.0.1:0")
	if c.Standalone {
		def(&c.User, "root")
		c.Datacenter = "ha-datacenter"
		if len(c.Hosts) == 0 {
			c.Hosts = []string{"esx-1.example.com"}
		}
	}
	def(&c.User, "administrator@vsphere.local")
	def(&c.Password, "simulated")
	def(&c.Datacenter, "DC0")
	if c.TicketTimeout <= 0 {
		c.TicketTimeout = 30 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"esx-1.example.com", "esx-2.example.com"}
	}
	if len(c.Datastores) == 0 {
		c.Datastores = []Datastore{{Name: "datastore1"}}
	}
	stores := make([]Datastore, len(c.Datastores))
	for i, d := range c.Datastores {
		def(&d.Type, "VMFS")
		def(&d.Deltas, DeltasSESparse)
		if d.Capacity == 0 {
			d.Capacity = 100 << 40
		}
		if d.Free == 0 {
			d.Free = d.Capacity / 2
		}
		stores[i] = d
	}
	c.Datastores = stores
	if c.AreasPerPage <= 0 {
		c.AreasPerPage = 2000
	}
	if c.LeaseTimeout <= 0 {
		c.LeaseTimeout = 5 * time.Minute
	}
	if c.Log == nil {
		log := logrus.New()
		log.SetLevel(logrus.PanicLevel)
		c.Log = log
	}
	return c
}

func (s ServerSpec) withDefaults() ServerSpec {
	if s.Power == "" {
		s.Power = types.VirtualMachinePowerStatePoweredOn
	}
	if s.Firmware == "" {
		s.Firmware = "bios"
	}
	if s.GuestID == "" {
		s.GuestID = "ubuntu64Guest"
	}
	if s.GuestFullName == "" {
		s.GuestFullName = guestName(s.GuestID)
	}
	if s.HardwareVersion == 0 {
		s.HardwareVersion = 19
	}
	if s.CPUs == 0 {
		s.CPUs = 2
	}
	if s.MemoryMB == 0 {
		s.MemoryMB = 4096
	}
	if s.UUID == "" {
		s.UUID = newUUID("42")
	}
	if s.InstanceUUID == "" {
		s.InstanceUUID = newUUID("50")
	}
	return s
}

// check refuses what would be misunderstood.
func (c Config) check() error {
	for _, d := range c.Datastores {
		if d.Deltas != DeltasSESparse && d.Deltas != DeltasVMFSSparse {
			return fmt.Errorf("datastore %q: the format of deltas is %s or %s, not %q", d.Name, DeltasSESparse, DeltasVMFSSparse, d.Deltas)
		}
	}
	return nil
}

// guestName is what vSphere shows for a guest ID; the ID itself where it is not listed here.
func guestName(id string) string {
	switch id {
	case "ubuntu64Guest":
		return "Ubuntu Linux (64-bit)"
	case "rhel9_64Guest":
		return "Red Hat Enterprise Linux 9 (64-bit)"
	case "freebsd14_64Guest":
		return "FreeBSD 14 or later versions (64-bit)"
	case "windows2019srv_64Guest":
		return "Microsoft Windows Server 2019 (64-bit)"
	case "otherGuest64":
		return "Other (64-bit)"
	}
	return id
}
