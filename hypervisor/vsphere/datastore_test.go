package vsphere

import (
	"testing"

	"skylift/hypervisor/vdisk"
)

func TestADescriptorsFileIsReadWhereItIsAlone(t *testing.T) {
	flat := vdisk.DescriptorExtent{Access: "RW", Sectors: 10, Type: "VMFS", File: "web-flat.vmdk"}
	with := func(change func(*vdisk.Descriptor, *vdisk.DescriptorExtent)) *vdisk.Descriptor {
		d := &vdisk.Descriptor{ParentCID: vdisk.NoParent, CreateType: "vmfs", Extents: []vdisk.DescriptorExtent{flat}}
		if change != nil {
			change(d, &d.Extents[0])
		}
		return d
	}
	for _, c := range []struct {
		name       string
		descriptor *vdisk.Descriptor
		readable   bool
	}{
		{"one flat file", with(nil), true},
		{"one flat file of another product", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.Type = "FLAT" }), true},
		{"several files", with(func(d *vdisk.Descriptor, _ *vdisk.DescriptorExtent) { d.Extents = append(d.Extents, flat) }), false},
		{"a sparse file", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.Type = "SESPARSE" }), true},
		{"a part of a sparse file", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.Type, e.Offset = "SESPARSE", 63 }), false},
		{"a mapping of a raw device", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.Type = "VMFSRDM" }), false},
		{"an object of vSAN", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.File = "vsan://52ab" }), false},
		{"a file elsewhere", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.File = "../other/web-flat.vmdk" }), false},
		{"a part of a file", with(func(_ *vdisk.Descriptor, e *vdisk.DescriptorExtent) { e.Offset = 63 }), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			name, err := onlyExtent(c.descriptor)
			if (err == nil) != c.readable || c.readable && name.File != flat.File {
				t.Errorf("got %q, %v", name.File, err)
			}
		})
	}
}
