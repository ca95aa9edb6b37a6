package vsphere

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor"
)

// watched are the properties that the inventory follows: no more than a
// hypervisor.Server needs, because devices of thousands of machines are many
// megabytes already.
var watched = map[string][]string{
	"VirtualMachine": {
		"name", "parent", "parentVApp",
		"runtime.powerState", "runtime.host",
		"config.uuid", "config.instanceUuid", "config.template",
		"config.guestFullName", "config.firmware", "config.bootOptions",
		"config.hardware.numCPU", "config.hardware.memoryMB", "config.hardware.device",
	},
	"Folder":                      {"name", "parent"},
	"Datacenter":                  {"name", "parent"},
	"VirtualApp":                  {"name", "parentFolder", "parentVApp"},
	"HostSystem":                  {"name"},
	"DistributedVirtualPortgroup": {"name"},
}

type ref = types.ManagedObjectReference

// place is an object that is only there to name others: folder, host, network.
type place struct {
	name   string
	parent ref
}

// apply merges one property update; false asks for the whole object instead.
func (p *place) apply(name string, value any) bool {
	switch name {
	case "name":
		p.name, _ = value.(string)
	case "parent", "parentFolder", "parentVApp":
		parent, ok := value.(ref)
		if ok || name == "parent" { // a vApp has either of the two
			p.parent = parent
		}
	default:
		return false
	}
	return true
}

// machine is what is known of a virtual machine: its properties as merged from
// updates, and what was told of it.
type machine struct {
	name               string
	parent, vapp, host ref
	power              types.VirtualMachinePowerState
	uuid, instance     string
	template           bool
	guest, firmware    string
	secureBoot         bool
	boot               []int32 // keys of disks to start from
	cpus               int32
	memory             int32
	devices            []types.BaseVirtualDevice // only disks, controllers and network cards
	tpm                bool

	id   hypervisor.ServerID // given once
	told *hypervisor.Server  // as emitted last
}

// apply merges one property update, a nil value being a property that went
// away; false asks for the whole object instead.
func (m *machine) apply(name string, value any) bool {
	switch name {
	case "name":
		m.name, _ = value.(string)
	case "parent":
		m.parent, _ = value.(ref)
	case "parentVApp":
		m.vapp, _ = value.(ref)
	case "runtime.host":
		m.host, _ = value.(ref)
	case "runtime.powerState":
		m.power, _ = value.(types.VirtualMachinePowerState)
	case "config.uuid":
		m.uuid, _ = value.(string)
	case "config.instanceUuid":
		m.instance, _ = value.(string)
	case "config.template":
		m.template, _ = value.(bool)
	case "config.guestFullName":
		m.guest, _ = value.(string)
	case "config.firmware":
		m.firmware, _ = value.(string)
	case "config.bootOptions":
		options, _ := value.(types.VirtualMachineBootOptions)
		m.secureBoot = options.EfiSecureBootEnabled != nil && *options.EfiSecureBootEnabled
		m.boot = bootDisks(&options)
	case "config.hardware.numCPU":
		m.cpus, _ = value.(int32)
	case "config.hardware.memoryMB":
		m.memory, _ = value.(int32)
	case "config.hardware.device":
		list, _ := value.(types.ArrayOfVirtualDevice)
		m.keep(list.VirtualDevice)
	default:
		return false
	}
	return true
}

// bootDisks are the keys of the disks that the firmware was told to start from.
func bootDisks(options *types.VirtualMachineBootOptions) (keys []int32) {
	if options == nil {
		return nil
	}
	for _, o := range options.BootOrder {
		if d, ok := o.(*types.VirtualMachineBootOptionsBootableDiskDevice); ok {
			keys = append(keys, d.DeviceKey)
		}
	}
	return keys
}

// keep stores the devices that a server is described by.
func (m *machine) keep(devices []types.BaseVirtualDevice) {
	m.devices, m.tpm = nil, false
	for _, d := range devices {
		switch d.(type) {
		case *types.VirtualDisk, types.BaseVirtualController, types.BaseVirtualEthernetCard:
			m.devices = append(m.devices, d)
		case *types.VirtualTPM:
			m.tpm = true
		}
	}
}

// identity is the UUID that the machine is known by; empty while vSphere
// cannot read its configuration.
func (m *machine) identity() string { return identity(m.instance, m.uuid) }

func identity(instance, bios string) string {
	return strings.ToLower(cmp.Or(instance, bios))
}

// qualified is the ID of a machine whose UUID belongs to an older one.
func qualified(uuid string, r ref) hypervisor.ServerID {
	return hypervisor.ServerID(uuid + "@" + r.Value)
}

// older orders references by age: vSphere numbers its objects as they come.
func older(a, b ref) int {
	number := func(r ref) int {
		n, err := strconv.Atoi(r.Value[strings.LastIndexByte(r.Value, '-')+1:])
		if err != nil {
			return 0
		}
		return n
	}
	return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a.Value, b.Value))
}

// server describes the machine; the inventory names its surroundings.
func (m *machine) server(r ref, inv *inventory) *hypervisor.Server {
	s := &hypervisor.Server{
		ID:         m.id,
		Name:       m.name,
		Path:       inv.path(m),
		ManagerID:  r.Value,
		PoweredOn:  m.power == types.VirtualMachinePowerStatePoweredOn,
		GuestOS:    m.guest,
		Firmware:   hypervisor.BIOS,
		SecureBoot: m.secureBoot,
		TPM:        m.tpm,
		CPUs:       int(m.cpus),
		MemoryMiB:  int64(m.memory),
	}
	if m.firmware == string(types.GuestOsDescriptorFirmwareTypeEfi) {
		s.Firmware = hypervisor.UEFI
	}
	if host := inv.places[m.host]; host != nil {
		s.Host = host.name
	}
	for _, d := range disksOf(m.devices, m.boot) {
		s.Disks = append(s.Disks, hypervisor.ServerDisk{ID: d.id, Name: d.label, Size: d.size, Skip: d.skip})
	}
	for _, d := range m.devices {
		if card, ok := d.(types.BaseVirtualEthernetCard); ok {
			s.NICs = append(s.NICs, nic(card.GetVirtualEthernetCard(), inv))
		}
	}
	slices.SortStableFunc(s.NICs, func(a, b hypervisor.NIC) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

func nic(card *types.VirtualEthernetCard, inv *inventory) hypervisor.NIC {
	n := hypervisor.NIC{MAC: card.MacAddress}
	if card.DeviceInfo != nil {
		n.Name = card.DeviceInfo.GetDescription().Label
	}
	switch b := card.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		n.Network = b.DeviceName
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		if group := inv.places[ref{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}]; group != nil {
			n.Network = group.name
		}
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		n.Network = b.OpaqueNetworkId
	}
	return n
}
