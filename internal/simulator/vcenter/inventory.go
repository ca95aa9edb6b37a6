package vcenter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// places is where servers live.
type places struct {
	datacenter *simulator.Datacenter
	folder     *simulator.Folder // of VMs
	pool       *simulator.ResourcePool
	hosts      []*simulator.HostSystem
	datastores map[string]*simulator.Datastore
	network    types.ManagedObjectReference
}

// createInventory has govmomi's simulator make an empty datacenter with one
// cluster, and gives everything the names of the configuration.
func (s *Server) createInventory() error {
	m := simulator.VPX()
	m.Datacenter, m.Cluster, m.Host, m.Machine, m.Portgroup, m.Autostart = 1, 1, 0, 0, 0, false
	m.ClusterHost, m.Datastore = len(s.cfg.Hosts), len(s.cfg.Datastores)
	if err := m.Create(); err != nil {
		return fmt.Errorf("create inventory: %w", err)
	}
	s.model, s.service = m, m.Service
	registry := m.Map()
	p := places{datastores: map[string]*simulator.Datastore{}}
	p.datacenter = registry.Any("Datacenter").(*simulator.Datacenter)
	p.datacenter.Name = s.cfg.Datacenter
	p.folder = registry.Get(p.datacenter.VmFolder).(*simulator.Folder)
	cluster := registry.Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
	cluster.Name = "C0"
	p.pool = registry.Get(*cluster.ResourcePool).(*simulator.ResourcePool)
	for i, ref := range cluster.Host {
		h := registry.Get(ref).(*simulator.HostSystem)
		h.Name, h.Summary.Config.Name = s.cfg.Hosts[i], s.cfg.Hosts[i]
		p.hosts = append(p.hosts, h)
	}
	stores := registry.All("Datastore")
	sort.Slice(stores, func(i, j int) bool { return stores[i].Entity().Name < stores[j].Entity().Name })
	for i, e := range stores {
		ds := e.(*simulator.Datastore)
		describe(ds, s.cfg.Datastores[i])
		p.datastores[ds.Name] = ds
	}
	if len(p.datacenter.Network) > 0 {
		p.network = p.datacenter.Network[0]
	}
	s.places = p
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

// personal gives a session its own property collector and authorization
// manager, in place of those of govmomi's simulator.
func (s *Server) personal(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session == nil || ctx.Session.Registry.Get(m.This) != nil {
		return nil, nil
	}
	content := s.model.ServiceContent
	switch m.This {
	case content.PropertyCollector:
		ctx.Session.Put(s.newCollector(m.This))
	case *content.AuthorizationManager:
		ctx.Session.Put(&authorization{
			AuthorizationManager: s.model.Map().Get(m.This).(*simulator.AuthorizationManager),
			denied:               s.cfg.Denied,
		})
	}
	return nil, nil
}

// authorization knows which privileges the user lacks.
type authorization struct {
	*simulator.AuthorizationManager
	denied []string
}

// HasPrivilegeOnEntities answers for every entity alike.
func (a *authorization) HasPrivilegeOnEntities(req *types.HasPrivilegeOnEntities) soap.HasFault {
	res := &types.HasPrivilegeOnEntitiesResponse{}
	for _, entity := range req.Entity {
		p := types.EntityPrivilege{Entity: entity}
		for _, id := range req.PrivId {
			p.PrivAvailability = append(p.PrivAvailability, types.PrivilegeAvailability{
				PrivId: id, IsGranted: !slices.Contains(a.denied, id),
			})
		}
		res.Returnval = append(res.Returnval, p)
	}
	return &methods.HasPrivilegeOnEntitiesBody{Res: res}
}

// SetDatastoreFree changes a datastore's free space, in bytes.
func (s *Server) SetDatastoreFree(name string, free int64) error {
	s.world.Lock()
	defer s.world.Unlock()
	ds, ok := s.places.datastores[name]
	if !ok {
		return fmt.Errorf("there is no datastore %q", name)
	}
	ds.Summary.FreeSpace = free
	s.revisions.touch(ds.Self)
	return nil
}

// AddServer adds a VM while the simulator runs.
func (s *Server) AddServer(spec ServerSpec) (*VM, error) {
	list, err := s.add([]ServerSpec{spec})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// AddServers adds n VMs like spec, named <name>-00001 and so on: cheap enough
// for tens of thousands. UUIDs are made anew for each; disks with contents of
// memory cost nothing until they are written.
func (s *Server) AddServers(n int, spec ServerSpec) error {
	specs := make([]ServerSpec, n)
	for i := range specs {
		specs[i] = spec
		specs[i].Name = fmt.Sprintf("%s-%05d", spec.Name, i+1)
		specs[i].UUID, specs[i].InstanceUUID = "", ""
	}
	_, err := s.add(specs)
	return err
}

func (s *Server) add(specs []ServerSpec) (made []*VM, err error) {
	s.world.Lock()
	defer s.world.Unlock()
	defer func() {
		if err != nil {
			for _, vm := range made {
				err = errors.Join(err, vm.retire(true))
			}
			made = nil
		}
	}()
	names, dirs := map[string]bool{}, map[string]bool{}
	for _, vm := range s.vms {
		names[vm.spec.Name], dirs[vm.dir] = true, true
	}
	ctx := s.context()
	children := map[*simulator.Folder][]types.ManagedObjectReference{}
	for _, spec := range specs {
		if spec.Name == "" || names[spec.Name] {
			return made, fmt.Errorf("server %q: the name is empty or taken", spec.Name)
		}
		names[spec.Name] = true
		folder, err := s.folder(ctx, spec.Folder)
		if err != nil {
			return made, fmt.Errorf("server %q: folder %q: %w", spec.Name, spec.Folder, err)
		}
		dir := spec.Name
		for n := 1; dirs[dir]; n++ { // of a server that was renamed
			dir = fmt.Sprintf("%s_%d", spec.Name, n)
		}
		dirs[dir] = true
		vm, err := s.newVM(spec.withDefaults(), dir, folder)
		if err != nil {
			return made, fmt.Errorf("server %q: %w", spec.Name, err)
		}
		made = append(made, vm)
		children[folder] = append(children[folder], vm.obj.Self)
	}
	// Views look for a new object from the top down, so it must have its
	// place before it is registered.
	for folder, refs := range children {
		folder.ChildEntity = append(slices.Clone(folder.ChildEntity), refs...)
		s.revisions.touch(folder.Self)
	}
	for _, vm := range made {
		s.vms[vm.obj.Self] = vm
		vm.host.Vm = append(vm.host.Vm, vm.obj.Self)
		s.places.pool.Vm = append(s.places.pool.Vm, vm.obj.Self)
		s.model.Map().Put(vm.obj)
	}
	return made, nil
}

// folder finds or makes a folder below the datacenter's VM folder.
func (s *Server) folder(ctx *simulator.Context, path string) (*simulator.Folder, error) {
	registry := s.model.Map()
	f := s.places.folder
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if child, ok := registry.FindByName(name, f.ChildEntity).(*simulator.Folder); ok {
			f = child
			continue
		}
		body := f.CreateFolder(ctx, &types.CreateFolder{This: f.Self, Name: name}).(*methods.CreateFolderBody)
		if body.Fault_ != nil {
			return nil, fmt.Errorf("%s", body.Fault_.String)
		}
		f = registry.Get(body.Res.Returnval).(*simulator.Folder)
	}
	return f, nil
}

// RemoveServer takes a VM and its disks away, whatever its power state.
func (s *Server) RemoveServer(name string) error {
	vm := s.VM(name)
	if vm == nil {
		return fmt.Errorf("there is no server %q", name)
	}
	vm.op.Lock()
	defer vm.op.Unlock()
	s.world.Lock()
	defer s.world.Unlock()
	vm.breakLeases(func(*lease) bool { return true }, "The server that is exported was removed.")
	ref := vm.obj.Self
	delete(s.vms, ref)
	without := func(list []types.ManagedObjectReference) []types.ManagedObjectReference {
		return slices.DeleteFunc(slices.Clone(list), func(r types.ManagedObjectReference) bool { return r == ref })
	}
	if folder, ok := s.model.Map().Get(*vm.obj.Parent).(*simulator.Folder); ok {
		folder.ChildEntity = without(folder.ChildEntity)
		s.revisions.touch(folder.Self)
	}
	vm.host.Vm, s.places.pool.Vm = without(vm.host.Vm), without(s.places.pool.Vm)
	for _, snap := range vm.snapshots {
		s.model.Map().Remove(s.context(), snap.obj.Self)
	}
	s.model.Map().Remove(s.context(), ref)
	return vm.retire(false)
}

// VM returns a server by its name, nil where there is none.
func (s *Server) VM(name string) *VM {
	s.world.RLock()
	defer s.world.RUnlock()
	for _, vm := range s.vms {
		if vm.spec.Name == name {
			return vm
		}
	}
	return nil
}

// OpenSnapshots lists all snapshots as "server/snapshot", sorted: what a test
// that looks for leaks compares.
func (s *Server) OpenSnapshots() []string {
	s.world.RLock()
	defer s.world.RUnlock()
	var list []string
	for _, vm := range s.vms {
		for _, snap := range vm.snapshots {
			list = append(list, vm.spec.Name+"/"+snap.name)
		}
	}
	slices.Sort(list)
	return list
}

// reference makes a reference that was never used before, as "vm-1001".
func (s *Server) reference(kind, prefix string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: fmt.Sprintf("%s-%d", prefix, 1000+s.next.Add(1))}
}

func now() *time.Time {
	t := time.Now().UTC()
	return &t
}

// login is how govmomi's simulator is told of the one user.
func (s *Server) login() *url.URL { return &url.URL{User: url.UserPassword(s.User, s.Password)} }
