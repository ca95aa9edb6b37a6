package vcenter

import (
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// filter is a property filter: objects, named one by one or by a container
// view, and the paths of the properties to watch.
//
// It remembers what the client has. That works because the simulator never
// changes a value that it published: it puts a new one in its place.
type filter struct {
	mo.PropertyFilter

	c     *collector
	sent  map[types.ManagedObjectReference]map[string]any
	order []types.ManagedObjectReference // of sent
	seen  uint64                         // revision that the client knows
}

func newFilter(c *collector, req *types.CreateFilter) *filter {
	f := &filter{c: c}
	f.Self.Type = "PropertyFilter"
	f.Spec, f.PartialUpdates = req.Spec, req.PartialUpdates
	f.restart()
	return f
}

// Lock and Unlock do nothing: the collector's turn is what counts.
func (f *filter) Lock()   {}
func (f *filter) Unlock() {}

func (f *filter) restart() {
	f.sent, f.order, f.seen = map[types.ManagedObjectReference]map[string]any{}, nil, 0
}

// DestroyPropertyFilter ends the filter.
func (f *filter) DestroyPropertyFilter(ctx *simulator.Context, _ *types.DestroyPropertyFilter) soap.HasFault {
	f.c.s.outside(func() { <-f.c.turn })
	defer f.c.giveTurn()
	f.c.remove(f)
	ctx.Session.Remove(ctx, f.Self)
	return &methods.DestroyPropertyFilterBody{Res: &types.DestroyPropertyFilterResponse{}}
}

// check refuses what the filter would get wrong.
func (f *filter) check() error {
	for _, o := range f.Spec.ObjectSet {
		for _, sel := range o.SelectSet {
			t, ok := sel.(*types.TraversalSpec)
			if !ok || t.Type != "ContainerView" || t.Path != "view" || len(t.SelectSet) > 0 {
				return fmt.Errorf("of the traversals only the one over a ContainerView's view is modeled")
			}
		}
	}
	return nil
}

// objects lists what the filter selects now.
func (f *filter) objects(ctx *simulator.Context) []types.ManagedObjectReference {
	var list []types.ManagedObjectReference
	for _, o := range f.Spec.ObjectSet {
		if len(o.SelectSet) == 0 || o.Skip == nil || !*o.Skip {
			list = append(list, o.Obj)
		}
		if view, ok := ctx.Session.Get(o.Obj).(*simulator.ContainerView); ok && len(o.SelectSet) > 0 {
			ctx.WithLock(view, func() { list = append(list, view.View...) })
		}
	}
	return list
}

// updates lists what entered, changed and left since the last call.
func (f *filter) updates(ctx *simulator.Context) []types.ObjectUpdate {
	revision, _ := f.c.s.revisions.now()
	if revision == f.seen {
		return nil
	}
	var list []types.ObjectUpdate
	here := map[types.ManagedObjectReference]bool{}
	var order []types.ManagedObjectReference
	for _, ref := range f.objects(ctx) {
		obj := ctx.Session.Get(ref)
		if here[ref] || obj == nil {
			continue
		}
		old, known := f.sent[ref]
		if known && f.c.s.revisions.of(ref) <= f.seen {
			here[ref], order = true, append(order, ref)
			continue
		}
		values, missing, selected := f.read(ctx, ref, obj)
		if !selected {
			continue
		}
		here[ref], order = true, append(order, ref)
		f.sent[ref] = values
		u := types.ObjectUpdate{Obj: ref, Kind: types.ObjectUpdateKindEnter}
		if known {
			u.Kind = types.ObjectUpdateKindModify
		} else {
			u.MissingSet = missing
		}
		u.ChangeSet = f.changes(old, values)
		if !known || len(u.ChangeSet) > 0 {
			list = append(list, u)
		}
	}
	for _, ref := range f.order {
		if !here[ref] {
			delete(f.sent, ref)
			list = append(list, types.ObjectUpdate{Obj: ref, Kind: types.ObjectUpdateKindLeave})
		}
	}
	f.order, f.seen = order, revision
	return list
}

// changes lists the differences in the order in which the client asked.
func (f *filter) changes(old, values map[string]any) []types.PropertyChange {
	var list []types.PropertyChange
	done := map[string]bool{}
	add := func(name string) {
		value, has := values[name]
		before, had := old[name]
		if done[name] || !has && !had || has && had && reflect.DeepEqual(before, value) {
			return
		}
		done[name] = true
		// A property that became unset is assigned nothing.
		list = append(list, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: value})
	}
	for _, p := range f.Spec.PropSet {
		for _, name := range p.PathSet {
			add(name)
		}
	}
	for name := range maps.All(values) {
		add(name)
	}
	for name := range maps.All(old) {
		add(name)
	}
	return list
}

// read takes the values of the wanted properties that are set.
func (f *filter) read(ctx *simulator.Context, ref types.ManagedObjectReference, obj mo.Reference) (
	values map[string]any, missing []types.MissingProperty, selected bool,
) {
	values = map[string]any{}
	ctx.WithLock(ref, func() {
		object := managed(obj)
		for _, p := range f.Spec.PropSet {
			if embedded, ok := object.Type().FieldByName(p.Type); p.Type != ref.Type && (!ok || !embedded.Anonymous) {
				continue
			}
			selected = true
			paths := p.PathSet
			if p.All != nil && *p.All {
				paths = allPaths(object.Type())
			}
			for _, path := range paths {
				value, err := readPath(object, path)
				switch {
				case err != nil:
					missing = append(missing, types.MissingProperty{Path: path, Fault: types.LocalizedMethodFault{
						Fault: &types.InvalidProperty{Name: path}, LocalizedMessage: err.Error(),
					}})
				case value != nil:
					values[path] = value
				}
			}
		}
	})
	return values, missing, selected
}

// managed digs the govmomi mo struct out of the simulators' types, which embed
// it as their first field.
func managed(obj mo.Reference) reflect.Value {
	v := reflect.Indirect(reflect.ValueOf(obj))
	for !strings.HasSuffix(v.Type().PkgPath(), "/vim25/mo") {
		v = reflect.Indirect(v.Field(0))
	}
	return v
}

func allPaths(t reflect.Type) []string {
	var list []string
	for i := range t.NumField() {
		switch field := t.Field(i); {
		case field.Anonymous:
			list = append(list, allPaths(field.Type)...)
		case field.Name != "Self":
			list = append(list, strings.ToLower(field.Name[:1])+field.Name[1:])
		}
	}
	return list
}

// readPath reads a value by its path, as "config.hardware.device"; nil where it
// or something above it is not set.
func readPath(v reflect.Value, path string) (any, error) {
	for name := range strings.SplitSeq(path, ".") {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
			if v.IsNil() {
				return nil, nil
			}
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct || name == "" {
			return nil, fmt.Errorf("there is no property %q", path)
		}
		v = v.FieldByName(strings.ToUpper(name[:1]) + name[1:])
		if !v.IsValid() {
			return nil, fmt.Errorf("there is no property %q", path)
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Slice:
		if v.IsNil() {
			return nil, nil
		}
	case reflect.String:
		if v.Len() == 0 {
			return nil, nil
		}
	}
	if v.Kind() == reflect.Slice {
		return arrayOf(v), nil
	}
	return reflect.Indirect(v).Interface(), nil
}

// arrayOf wraps a slice into the ArrayOf type that SOAP wants for it. Their
// names follow the element's: ArrayOfVirtualDevice for []BaseVirtualDevice.
func arrayOf(v reflect.Value) any {
	name := strings.TrimPrefix(v.Type().Elem().Name(), "Base")
	switch v.Interface().(type) {
	case []int16:
		name = "Short"
	case []int32:
		name = "Int"
	case []int64:
		name = "Long"
	case []byte, types.ByteSlice:
		name = "Byte"
	}
	name = strings.ToUpper(name[:1]) + name[1:]
	kind, ok := types.TypeFunc()("ArrayOf" + name)
	if !ok {
		return v.Interface()
	}
	array := reflect.New(kind)
	array.Elem().FieldByName(name).Set(v)
	return array.Interface()
}
