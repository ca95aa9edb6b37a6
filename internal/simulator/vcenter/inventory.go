package vcenter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

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
		names[vm.spec.Name] = true
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
		for n := 1; dirs[dir] || s.dirs[dir] != nil; n++ { // of a server that was renamed
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
		s.dirs[vm.dir] = vm
		vm.host.obj.Vm = append(vm.host.obj.Vm, vm.obj.Self)
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
	delete(s.dirs, vm.dir)
	without := func(list []types.ManagedObjectReference) []types.ManagedObjectReference {
		return slices.DeleteFunc(slices.Clone(list), func(r types.ManagedObjectReference) bool { return r == ref })
	}
	if folder, ok := s.model.Map().Get(*vm.obj.Parent).(*simulator.Folder); ok {
		folder.ChildEntity = without(folder.ChildEntity)
		s.revisions.touch(folder.Self)
	}
	vm.host.obj.Vm, s.places.pool.Vm = without(vm.host.obj.Vm), without(s.places.pool.Vm)
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
