package vsphere

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"skylift/hypervisor/vdisk"
	"skylift/internal/problem"
)

// shelf is a few files of two datastores and what finds chains among them.
func shelf(t *testing.T, files map[string]string) *finder {
	f := &folder{files: map[string][]byte{}}
	for name, text := range files {
		f.files["/folder/"+name] = []byte(text)
	}
	s := frozenDisk(t, f, Limits{}).snapshot.source
	return &finder{source: s, stores: &datastores{
		refs:       map[string]ref{"ds": {Type: "Datastore", Value: "datastore-1"}, "gold": {Type: "Datastore", Value: "datastore-2"}},
		volumes:    map[string]string{"/vmfs/volumes/5c3e-aa": "ds", "/vmfs/volumes/5c3e-bb": "gold"},
		datacenter: map[string]string{"ds": "/DC0", "gold": "/DC0"},
	}}
}

// descriptorOf writes one; a parent of NoParent is none.
func descriptorOf(cid, parent uint32, hint, file string) string {
	text := fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\ncreateType=\"vmfs\"\n", cid, parent)
	if hint != "" {
		text += fmt.Sprintf("parentFileNameHint=%q\n", hint)
	}
	return text + fmt.Sprintf("RW 8 VMFS %q\n", file)
}

func TestChainsAreFollowedToTheirBase(t *testing.T) {
	content := strings.Repeat("x", 4096)
	base := descriptorOf(1, vdisk.NoParent, "", "base-flat.vmdk")
	for _, c := range []struct {
		name    string
		files   map[string]string
		parents []string
		want    string // the files found, or
		problem string // a part of what is wrong
	}{
		{"one file", map[string]string{"web/web.vmdk": descriptorOf(1, vdisk.NoParent, "", "web-flat.vmdk")}, nil, "[ds] web/web-flat.vmdk", ""},
		{"a parent that vSphere names", map[string]string{
			"web/web.vmdk": descriptorOf(2, 1, "stale.vmdk", "web-flat.vmdk"), "gold/base.vmdk": base,
		}, []string{"[gold] gold/base.vmdk"}, "[ds] web/web-flat.vmdk, [gold] gold/base-flat.vmdk", ""},
		{"a parent that only the descriptor names", map[string]string{
			"web/web.vmdk": descriptorOf(2, 1, "base.vmdk", "web-flat.vmdk"), "web/base.vmdk": base,
		}, nil, "[ds] web/web-flat.vmdk, [ds] web/base-flat.vmdk", ""},
		{"a linked clone's parent on another volume", map[string]string{
			"web/web.vmdk": descriptorOf(2, 1, "/vmfs/volumes/5c3e-bb/gold/base.vmdk", "web-flat.vmdk"), "gold/base.vmdk": base,
		}, nil, "[ds] web/web-flat.vmdk, [gold] gold/base-flat.vmdk", ""},
		{"a parent that was changed since", map[string]string{
			"web/web.vmdk": descriptorOf(2, 7, "base.vmdk", "web-flat.vmdk"), "web/base.vmdk": base,
		}, nil, "", "made for content 00000007 of its parent, and [ds] web/base.vmdk has 00000001"},
		{"vSphere and the descriptor disagree", map[string]string{
			"web/web.vmdk": base, "gold/base.vmdk": base,
		}, []string{"[gold] gold/base.vmdk"}, "", "its descriptor knows of no parent"},
		{"a circle", map[string]string{"web/web.vmdk": descriptorOf(1, 1, "web.vmdk", "web-flat.vmdk")}, nil, "", "more than 66 files"},
		{"a parent on a volume of nobody's", map[string]string{
			"web/web.vmdk": descriptorOf(2, 1, "/vmfs/volumes/5c3e-cc/gold/base.vmdk", "web-flat.vmdk"),
		}, nil, "", `volume "5c3e-cc" is not among the datastores`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, flat := range []string{"web/web", "web/base", "gold/base"} {
					c.files[flat+"-flat.vmdk"] = content
				}
				found, err := shelf(t, c.files).chain(t.Context(), virtualDisk{size: 4096, file: "[ds] web/web.vmdk", parents: c.parents})
				if c.problem != "" {
					if !problem.Has(err, DiskUnreadable) || !strings.Contains(err.Error(), c.problem) {
						t.Errorf("got %v, want %q in it", err, c.problem)
					}
					return
				}
				must(t, err)
				var names []string
				for _, f := range found.files {
					names = append(names, f.name)
				}
				if got := strings.Join(names, ", "); got != c.want || found.whole != (len(names) == 1) {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

func TestHintsStayInsideDatastores(t *testing.T) {
	d := &datastores{refs: map[string]ref{"ds": {}, "gold": {}}, volumes: map[string]string{"/vmfs/volumes/5c3e": "gold"}}
	for hint, want := range map[string]string{
		"base.vmdk":                         "[ds] web/base.vmdk",
		"../gold/base.vmdk":                 "[ds] gold/base.vmdk",
		"../../base.vmdk":                   "",
		"/vmfs/volumes/5c3e/a/base.vmdk":    "[gold] a/base.vmdk",
		"/vmfs/volumes/gold/base.vmdk":      "[gold] base.vmdk",
		"/vmfs/volumes/gold/../x/base.vmdk": "",
		"/vmfs/volumes/gold":                "",
		"/etc/passwd":                       "",
		"":                                  "",
	} {
		got, err := d.hinted(object.DatastorePath{Datastore: "ds", Path: "web/web.vmdk"}, hint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q leads to %q, %v; want %q", hint, got, err, want)
		}
	}
}

func TestParentsAreListedFromEveryKindOfBacking(t *testing.T) {
	file := func(name string) types.VirtualDeviceFileBackingInfo {
		return types.VirtualDeviceFileBackingInfo{FileName: name}
	}
	for _, backing := range []types.BaseVirtualDeviceBackingInfo{
		&types.VirtualDiskFlatVer2BackingInfo{Parent: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file("b"), Parent: &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: file("a")}}},
		&types.VirtualDiskSeSparseBackingInfo{Parent: &types.VirtualDiskSeSparseBackingInfo{
			VirtualDeviceFileBackingInfo: file("b"), Parent: &types.VirtualDiskSeSparseBackingInfo{VirtualDeviceFileBackingInfo: file("a")}}},
		&types.VirtualDiskSparseVer2BackingInfo{Parent: &types.VirtualDiskSparseVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file("b"), Parent: &types.VirtualDiskSparseVer2BackingInfo{VirtualDeviceFileBackingInfo: file("a")}}},
		&types.VirtualDiskRawDiskMappingVer1BackingInfo{Parent: &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: file("b"), Parent: &types.VirtualDiskRawDiskMappingVer1BackingInfo{VirtualDeviceFileBackingInfo: file("a")}}},
	} {
		if got := parentsOf(backing); strings.Join(got, " ") != "b a" {
			t.Errorf("%T: got %q", backing, got)
		}
	}
}
