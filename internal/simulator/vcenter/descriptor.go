package vcenter

import (
	"fmt"
	"path"
	"strings"
)

// dataFile is the file with the bytes of a layer.
func (d *Disk) dataFile(l *layer) string {
	stem := strings.TrimSuffix(l.file, ".vmdk")
	switch {
	case l.parent == nil:
		return flatName(l.file)
	case d.deltas() == DeltasVMFSSparse:
		return stem + "-delta.vmdk"
	}
	return stem + "-sesparse.vmdk"
}

// descriptor is the text of a layer's .vmdk file, in the format that VMware's
// "Virtual Disk Format 5.0" describes. The caller holds the volume's lock.
func (d *Disk) descriptor(l *layer) string {
	kind, extent, parent, hint := "vmfs", "VMFS", uint32(0xffffffff), ""
	if l.parent != nil {
		kind, extent, parent = "seSparse", "SESPARSE", l.parent.cid
		if d.deltas() == DeltasVMFSSparse {
			kind, extent = "vmfsSparse", "VMFSSPARSE"
		}
		hint = fmt.Sprintf("parentFileNameHint=%q\n", path.Base(l.parent.file))
	}
	track := ""
	if d.v.tracking.active {
		track = fmt.Sprintf("\n# Change Tracking File\nchangeTrackPath=%q\n", path.Base(strings.TrimSuffix(l.file, ".vmdk"))+"-ctk.vmdk")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%08x\nparentCID=%08x\nisNativeSnapshot=\"no\"\ncreateType=%q\n%s\n", l.cid, parent, kind, hint)
	fmt.Fprintf(&b, "# Extent description\nRW %d %s %q\n%s\n", d.v.size/sector, extent, path.Base(d.dataFile(l)), track)
	d.database(&b, l, d.v.size)
	return b.String()
}

// streamDescriptor is the text inside of an exported disk.
func (d *Disk) streamDescriptor(state diskState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n", state.top.cid)
	fmt.Fprintf(&b, "# Extent description\nRDONLY %d SPARSE \"generated-stream.vmdk\"\n\n", state.size/sector)
	d.database(&b, state.top, state.size)
	return b.String()
}

// database is the end of all descriptors. The caller holds the volume's lock.
func (d *Disk) database(b *strings.Builder, l *layer, size int64) {
	adapter := "lsilogic"
	if d.controller < 1000 {
		adapter = "ide"
	}
	const heads, perTrack = 255, 63
	uuid := strings.ReplaceAll(d.uuid, "-", "")
	if len(uuid) == 32 {
		var pairs []string
		for i := 0; i < 32; i += 2 {
			pairs = append(pairs, uuid[i:i+2])
		}
		uuid = strings.Join(pairs[:8], " ") + "-" + strings.Join(pairs[8:], " ")
	}
	sectors := size / sector
	fmt.Fprintf(b, "# The Disk Data Base\n#DDB\n\nddb.adapterType = %q\n", adapter)
	fmt.Fprintf(b, "ddb.geometry.cylinders = \"%d\"\nddb.geometry.heads = \"%d\"\nddb.geometry.sectors = \"%d\"\n", sectors/(heads*perTrack), heads, perTrack)
	fmt.Fprintf(b, "ddb.longContentID = \"%032x\"\n", l.cid)
	if !d.spec.Thick {
		fmt.Fprintf(b, "ddb.thinProvisioned = \"1\"\n")
	}
	fmt.Fprintf(b, "ddb.uuid = %q\nddb.virtualHWVersion = \"%d\"\n", uuid, d.vm.spec.HardwareVersion)
}
