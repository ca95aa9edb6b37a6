package vdisk

import (
	"strings"
	"testing"
)

const flatDescriptor = `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 16777216 VMFS "web server-flat.vmdk"

# Change Tracking File
changeTrackPath="web-ctk.vmdk"

# The Disk Data Base
#DDB
ddb.adapterType = "lsilogic"
ddb.uuid = "60 00 C2 91 aa bb cc dd-ee ff 00 11 22 33 44 55"
`

const deltaDescriptor = "# Disk DescriptorFile\r\nversion=1\r\nCID=12345678\r\nparentCID=fffffffe\r\ncreateType=\"vmfsSparse\"\r\n" +
	"parentFileNameHint=\"web.vmdk\"\r\nRW 2048 VMFSSPARSE \"web-000001-delta.vmdk\"\r\n"

func TestDescriptorsAreRead(t *testing.T) {
	flat, err := ParseDescriptor([]byte(flatDescriptor))
	if err != nil {
		t.Fatal(err)
	}
	if flat.HasParent() || flat.CreateType != "vmfs" || flat.CID != 0xfffffffe || flat.Size() != 8<<30 || len(flat.Extents) != 1 {
		t.Errorf("flat: %+v", flat)
	}
	if e := flat.Extents[0]; e != (DescriptorExtent{Access: "RW", Sectors: 16777216, Type: "VMFS", File: "web server-flat.vmdk"}) {
		t.Errorf("flat's extent: %+v", e)
	}
	delta, err := ParseDescriptor([]byte(deltaDescriptor))
	if err != nil {
		t.Fatal(err)
	}
	if !delta.HasParent() || delta.ParentHint != "web.vmdk" || delta.ParentCID != 0xfffffffe || delta.Extents[0].Type != "VMFSSPARSE" {
		t.Errorf("delta: %+v", delta)
	}
	several, err := ParseDescriptor([]byte("# Disk DescriptorFile\nRW 10 FLAT \"a\" 63\nRW 5 ZERO\nRDONLY 1 FLAT \"b\" 0\n\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	if several.Size() != 16*SectorSize || several.Extents[0].Offset != 63 || several.Extents[1].File != "" || several.Extents[2].Access != "RDONLY" {
		t.Errorf("several: %+v", several)
	}
}

func TestBrokenDescriptorsAreRefused(t *testing.T) {
	const head = "# Disk DescriptorFile\n"
	for name, text := range map[string]string{
		"an empty file":                  "",
		"no first line":                  "RW 1 FLAT \"a\"\n",
		"no extents":                     head + "CID=1\n",
		"an extent without a file":       head + "RW 1 FLAT\n",
		"an empty file name":             head + "RW 1 FLAT \"\"\n",
		"an open quote":                  head + "RW 1 FLAT \"a\n",
		"no number of sectors":           head + "RW x FLAT \"a\"\n",
		"a negative number of sectors":   head + "RW -1 FLAT \"a\"\n",
		"more sectors than fit":          head + "RW 99999999999999999999 FLAT \"a\"\n",
		"sizes that overflow together":   head + strings.Repeat("RW 1125899906842624 FLAT \"a\"\n", 2),
		"a bad offset":                   head + "RW 1 FLAT \"a\" -5\n",
		"a content ID that is not hex":   head + "CID=zz\nRW 1 FLAT \"a\"\n",
		"a content ID of over 32 bits":   head + "CID=123456789\nRW 1 FLAT \"a\"\n",
		"more bytes than a descriptor's": head + strings.Repeat("#\n", DescriptorLimit),
		"a sparse disk's binary":         "KDMV\x01\x00\x00\x00\xff\xfe",
	} {
		t.Run(name, func(t *testing.T) {
			if d, err := ParseDescriptor([]byte(text)); err == nil {
				t.Errorf("read as %+v", d)
			}
		})
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(flatDescriptor))
	f.Add([]byte(deltaDescriptor))
	f.Add([]byte("# Disk DescriptorFile\nRW 10 FLAT \"a\" 63\nRW 5 ZERO\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDescriptor(text)
		if err != nil {
			return
		}
		if len(d.Extents) == 0 || d.Size() < 0 {
			t.Fatalf("accepted %+v", d)
		}
		for _, e := range d.Extents {
			if e.Sectors < 0 || e.Offset < 0 || e.File == "" && e.Type != "ZERO" {
				t.Fatalf("accepted the extent %+v", e)
			}
		}
	})
}
