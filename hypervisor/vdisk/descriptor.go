package vdisk

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// SectorSize is the unit of a VMDK descriptor's lengths and offsets, in bytes.
const SectorSize = 512

// DescriptorLimit is the size in bytes above which a file is no VMDK descriptor.
const DescriptorLimit = 64 << 10

// Descriptor is a VMDK descriptor: the text file that names the files a
// virtual disk's bytes are in. The format is VMware's "Virtual Disk Format
// 5.0". Sizes in it may be out of date while a server runs: vSphere rewrites
// it at the next power cycle.
type Descriptor struct {
	CID, ParentCID uint32
	// CreateType names the kind of disk: "vmfs", "vmfsSparse", "monolithicFlat".
	CreateType string
	// ParentHint is the parent's descriptor file; empty for a disk without one.
	ParentHint string
	Extents    []DescriptorExtent
}

// NoParent is the ParentCID of a disk that has no parent.
const NoParent = 0xffffffff

// HasParent reports that the disk holds only what differs from another one.
func (d *Descriptor) HasParent() bool { return d.ParentCID != NoParent || d.ParentHint != "" }

// Size is the disk's size in bytes by the descriptor.
func (d *Descriptor) Size() (size int64) {
	for _, e := range d.Extents {
		size += e.Sectors * SectorSize
	}
	return size
}

// DescriptorExtent is a line of the extent description: a run of the disk's
// sectors and where they are.
type DescriptorExtent struct {
	Access  string // RW, RDONLY or NOACCESS
	Sectors int64
	Type    string // FLAT, VMFS, SPARSE, ZERO, VMFSSPARSE, VMFSRDM, SESPARSE ...
	File    string // empty for ZERO
	Offset  int64  // in sectors, into File
}

// maxSectors keeps sizes in bytes inside an int64, far above any disk.
const maxSectors = 1 << 50

// ParseDescriptor reads a VMDK descriptor. Entries it does not know (the disk
// data base, change tracking) are passed over.
func ParseDescriptor(text []byte) (*Descriptor, error) {
	if len(text) > DescriptorLimit {
		return nil, fmt.Errorf("VMDK descriptor: %d bytes are more than any descriptor has", len(text))
	}
	text = bytes.TrimRight(text, "\x00") // embedded descriptors are padded
	if !utf8.Valid(text) && bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("VMDK descriptor: not a text")
	}
	d := &Descriptor{ParentCID: NoParent}
	known, total := false, int64(0)
	for number, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if strings.EqualFold(line, "# Disk DescriptorFile") {
			known = true
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if isExtent(line) {
			e, err := parseExtent(line)
			if err != nil {
				return nil, fmt.Errorf("VMDK descriptor, line %d: %w", number+1, err)
			}
			if total += e.Sectors; total > maxSectors {
				return nil, fmt.Errorf("VMDK descriptor, line %d: the disk has more than %d sectors", number+1, int64(maxSectors))
			}
			d.Extents = append(d.Extents, e)
			continue
		}
		if err := d.set(line); err != nil {
			return nil, fmt.Errorf("VMDK descriptor, line %d: %w", number+1, err)
		}
	}
	switch {
	case !known:
		return nil, errors.New("VMDK descriptor: its first line, \"# Disk DescriptorFile\", is missing")
	case len(d.Extents) == 0:
		return nil, errors.New("VMDK descriptor: no extents")
	}
	return d, nil
}

// set takes a line of the form name=value.
func (d *Descriptor) set(line string) (err error) {
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		return nil
	}
	value = strings.Trim(strings.TrimSpace(value), `"`)
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "cid":
		d.CID, err = parseCID(value)
	case "parentcid":
		d.ParentCID, err = parseCID(value)
	case "createtype":
		d.CreateType = value
	case "parentfilenamehint":
		d.ParentHint = value
	}
	return err
}

func parseCID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("content ID %q is not 32 bits in hex", s)
	}
	return uint32(n), nil
}

func isExtent(line string) bool {
	access, _, _ := strings.Cut(line, " ")
	return access == "RW" || access == "RDONLY" || access == "NOACCESS"
}

// parseExtent reads `RW 16777216 VMFS "web-flat.vmdk" 0`.
func parseExtent(line string) (e DescriptorExtent, err error) {
	head, quoted, named := strings.Cut(line, `"`)
	fields := strings.Fields(head)
	if len(fields) != 3 {
		return e, fmt.Errorf("extent %q: want access, sectors and type", line)
	}
	e.Access, e.Type = fields[0], strings.ToUpper(fields[2])
	if e.Sectors, err = parseSectors(fields[1]); err != nil {
		return e, fmt.Errorf("extent %q: %w", line, err)
	}
	if !named {
		if e.Type != "ZERO" {
			return e, fmt.Errorf("extent %q: no file", line)
		}
		return e, nil
	}
	file, rest, closed := strings.Cut(quoted, `"`)
	if !closed || file == "" {
		return e, fmt.Errorf("extent %q: no file", line)
	}
	e.File = file
	if tail := strings.Fields(rest); len(tail) > 0 {
		if e.Offset, err = parseSectors(tail[0]); err != nil {
			return e, fmt.Errorf("extent %q: %w", line, err)
		}
	}
	return e, nil
}

func parseSectors(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > maxSectors {
		return 0, fmt.Errorf("%q is no number of sectors", s)
	}
	return n, nil
}
