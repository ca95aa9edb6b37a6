package vcenter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// places is where servers live.
type places struct {
	datacenter *simulator.Datacenter
	folder     *simulator.Folder // of VMs
	pool       *simulator.ResourcePool
	hosts      []*Host
	datastores map[string]*simulator.Datastore
	network    types.ManagedObjectReference
}

// createInventory has govmomi's simulator make a datacenter without servers,
// and gives everything the names of the configuration.
func (s *Server) createInventory() error {
	m := s.newModel()
	if err := create(m); err != nil {
		return fmt.Errorf("create inventory: %w", err)
	}
	s.model, s.service = m, m.Service
	if err := s.namePlaces(); err != nil {
		return err
	}
	registry := m.Map()
	// Sessions do not expire by the clock of govmomi's simulator.
	options := registry.OptionManager()
	options.Setting = slices.DeleteFunc(options.Setting, func(o types.BaseOptionValue) bool {
		return o.GetOptionValue().Key == "config.vmacore.soap.sessionTimeout"
	})
	s.service.Listen = s.login()
	s.service.RegisterSDK(registry)
	registry.Cookie = s.cookie
	registry.Handler = s.personal
	registry.AddHandler(s.revisions)
	return nil
}

// creating is held while a model is made: govmomi appends to a variable of its
// own (EvalLicense) then, which all simulators of the process share.
var creating sync.Mutex

func create(m *simulator.Model) error {
	creating.Lock()
	defer creating.Unlock()
	return m.Create()
}

// newModel describes a vCenter with one cluster, or a lone ESXi host.
func (s *Server) newModel() *simulator.Model {
	m := simulator.VPX()
	if s.cfg.Standalone {
		m = simulator.ESX()
	}
	m.Machine, m.Autostart, m.Datastore = 0, false, len(s.cfg.Datastores)
	if !s.cfg.Standalone {
		m.Datacenter, m.Cluster, m.Host, m.Portgroup = 1, 1, 0, 0
		m.ClusterHost = len(s.cfg.Hosts)
	}
	return m
}

func (s *Server) namePlaces() error {
	registry := s.model.Map()
	p := &s.places
	p.datastores = map[string]*simulator.Datastore{}
	p.datacenter = registry.Any("Datacenter").(*simulator.Datacenter)
	p.datacenter.Name = s.cfg.Datacenter
	p.folder = registry.Get(p.datacenter.VmFolder).(*simulator.Folder)
	var compute *mo.ComputeResource
	if s.cfg.Standalone {
		compute = registry.Any("ComputeResource").(*mo.ComputeResource)
	} else {
		cluster := registry.Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
		cluster.Name = "C0"
		compute = &cluster.ComputeResource
	}
	p.pool = registry.Get(*compute.ResourcePool).(*simulator.ResourcePool)
	for i, ref := range compute.Host {
		obj := registry.Get(ref).(*simulator.HostSystem)
		obj.Name, obj.Summary.Config.Name = s.cfg.Hosts[i], s.cfg.Hosts[i]
		// govmomi's hosts are the same machines in every simulator.
		id := newUUID("4c4c4544")
		hardware, summary := *obj.Hardware, *obj.Summary.Hardware
		hardware.SystemInfo.Uuid, summary.Uuid = id, id
		obj.Hardware, obj.Summary.Hardware = &hardware, &summary
		p.hosts = append(p.hosts, s.newHost(obj, i))
	}
	for _, e := range registry.All("Datastore") {
		ds := e.(*simulator.Datastore)
		i, err := strconv.Atoi(strings.TrimPrefix(ds.Name, "LocalDS_"))
		if err != nil || i >= len(s.cfg.Datastores) {
			return fmt.Errorf("govmomi's simulator has made a datastore %q", ds.Name)
		}
		describe(ds, s.cfg.Datastores[i])
		p.datastores[ds.Name] = ds
		if err := s.mount(ds, s.cfg.Datastores[i]); err != nil {
			return err
		}
	}
	if len(p.datacenter.Network) > 0 {
		p.network = p.datacenter.Network[0]
	}
	if s.cfg.FreeLicense {
		s.freeLicense()
	}
	return nil
}

func describe(ds *simulator.Datastore, spec Datastore) {
	ds.Name, ds.Summary.Name = spec.Name, spec.Name
	ds.Summary.Type, ds.Summary.Capacity, ds.Summary.FreeSpace = spec.Type, spec.Capacity, spec.Free
	ds.Summary.Accessible = true
	info := types.DatastoreInfo{Name: spec.Name, Url: ds.Summary.Url, FreeSpace: spec.Free, MaxFileSize: 64 << 40}
	if spec.Type == "NFS" {
		ds.Info = &types.NasDatastoreInfo{DatastoreInfo: info}
		return
	}
	ds.Info = &types.VmfsDatastoreInfo{DatastoreInfo: info, Vmfs: &types.HostVmfsVolume{
		HostFileSystemVolume: types.HostFileSystemVolume{Type: spec.Type, Name: spec.Name, Capacity: spec.Capacity},
		BlockSizeMb:          1, MajorVersion: 6, Version: "6.82",
	}}
}

// personal gives a session its own property collector, authorization manager
// and session manager, in place of those of govmomi's simulator.
func (s *Server) personal(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session == nil || ctx.Session.Registry.Get(m.This) != nil {
		return nil, nil
	}
	content, registry := s.model.ServiceContent, s.model.Map()
	// Those that embed an object of all sessions go past Session.Put, which
	// would write to that object.
	switch m.This {
	case content.PropertyCollector:
		ctx.Session.Put(s.newCollector(m.This))
	case *content.AuthorizationManager:
		ctx.Session.Registry.Put(&authorization{registry.Get(m.This).(*simulator.AuthorizationManager), s})
	case *content.SessionManager:
		if m.Name == "AcquireGenericServiceTicket" {
			ctx.Session.Registry.Put(&sessionManager{registry.SessionManager(), s})
		}
	}
	return nil, nil
}
