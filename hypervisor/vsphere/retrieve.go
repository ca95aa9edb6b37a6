package vsphere

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// pageSize is how many objects one answer may hold.
const pageSize = 200

// retrieve reads properties of objects that are all of one type. Properties
// that an object does not have now (those of an inaccessible virtual machine)
// stay unset; one that we may not read is an error.
func (s *session) retrieve(ctx context.Context, refs []types.ManagedObjectReference, paths []string, dst any) error {
	if len(refs) == 0 {
		return nil
	}
	spec := types.PropertyFilterSpec{PropSet: []types.PropertySpec{{Type: refs[0].Type, PathSet: paths}}}
	for _, ref := range refs {
		spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: ref})
	}
	var objects []types.ObjectContent
	err := s.steadily(func() (err error) {
		objects, err = s.retrieveSpec(ctx, spec)
		return err
	})
	if err != nil {
		return err
	}
	return mo.LoadObjectContent(objects, dst)
}

// retrieveSpec reads all pages of what the specification selects.
func (s *session) retrieveSpec(ctx context.Context, spec types.PropertyFilterSpec) ([]types.ObjectContent, error) {
	services, err := s.services(ctx)
	if err != nil {
		return nil, err
	}
	collector := services.PropertyCollector
	first, err := methods.RetrievePropertiesEx(ctx, s, &types.RetrievePropertiesEx{
		This: collector, SpecSet: []types.PropertyFilterSpec{spec}, Options: types.RetrieveOptions{MaxObjects: pageSize},
	})
	if err != nil || first.Returnval == nil {
		return nil, err
	}
	objects, token := first.Returnval.Objects, first.Returnval.Token
	for token != "" {
		page, err := methods.ContinueRetrievePropertiesEx(ctx, s, &types.ContinueRetrievePropertiesEx{This: collector, Token: token})
		if err != nil {
			return nil, err
		}
		if len(page.Returnval.Objects) == 0 && page.Returnval.Token != "" {
			return nil, fmt.Errorf("vSphere pages its answer without end: an empty page after %d objects", len(objects))
		}
		objects, token = append(objects, page.Returnval.Objects...), page.Returnval.Token
	}
	for i := range objects {
		for _, missing := range objects[i].MissingSet {
			if denied, ok := missing.Fault.Fault.(*types.NoPermission); ok {
				return nil, PermissionDenied.New(nil, "reading %s of %s needs the privilege %s", missing.Path, objects[i].Obj.Value, denied.PrivilegeId)
			}
		}
		objects[i].MissingSet = nil
	}
	return objects, nil
}

// view makes a container view over the whole inventory and a call that destroys it.
func (s *session) view(ctx context.Context, kinds ...string) (types.ManagedObjectReference, func(context.Context) error, error) {
	services, err := s.services(ctx)
	if err != nil {
		return types.ManagedObjectReference{}, nil, err
	}
	res, err := methods.CreateContainerView(ctx, s, &types.CreateContainerView{
		This: *services.ViewManager, Container: services.RootFolder, Type: kinds, Recursive: true,
	})
	if err != nil {
		return types.ManagedObjectReference{}, nil, fmt.Errorf("create a view of the inventory: %w", err)
	}
	view := res.Returnval
	destroy := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
		defer cancel()
		_, err := methods.DestroyView(ctx, s, &types.DestroyView{This: view})
		if isGone(err) { // with the session that it belonged to
			return nil
		}
		return err
	}
	return view, destroy, nil
}

// viewed selects the objects of a view.
func viewed(view types.ManagedObjectReference) types.ObjectSpec {
	return types.ObjectSpec{
		Obj:  view,
		Skip: types.NewBool(true),
		SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{
			SelectionSpec: types.SelectionSpec{Name: "viewed"},
			Type:          view.Type,
			Path:          "view",
		}},
	}
}
