package vdisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// delta is what a snapshot's delta file holds, by grain: bytes, zeros (nil),
// or nothing, which leaves the grain to the parent.
type delta struct {
	size   int64
	grain  int64
	grains map[int64][]byte
}

// randomDelta writes grains at random, in clusters as guests do.
func randomDelta(rng *rand.Rand, size, grain int64, zeros bool) delta {
	d := delta{size, grain, map[int64][]byte{}}
	count := (size + grain - 1) / grain
	random := rand.NewChaCha8([32]byte{byte(rng.Uint32())})
	for range 40 {
		at := rng.Int64N(count)
		for n := at; n < min(count, at+1+rng.Int64N(12)); n++ {
			if zeros && rng.IntN(3) == 0 {
				d.grains[n] = nil
				continue
			}
			p := make([]byte, grain)
			random.Read(p)
			d.grains[n] = p
		}
	}
	return d
}

// over is the disk that results from d on top of a parent.
func (d delta) over(parent []byte) []byte {
	p := make([]byte, d.size)
	copy(p, parent)
	for n, g := range d.grains {
		if at := p[n*d.grain : min(d.size, (n+1)*d.grain)]; g == nil {
			clear(at)
		} else {
			copy(at, g)
		}
	}
	return p
}

// shuffled is the order in which a guest wrote the grains.
func (d delta) shuffled(rng *rand.Rand) []int64 {
	var order []int64
	for n := int64(0); n*d.grain < d.size; n++ {
		if _, there := d.grains[n]; there {
			order = append(order, n)
		}
	}
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// deltaFile grows by whole sectors.
type deltaFile []byte

func (f *deltaFile) grow(n int64) (sector int64) {
	sector = int64(len(*f)) / SectorSize
	*f = append(*f, make([]byte, sectors(n)*SectorSize)...)
	return sector
}

func (f deltaFile) put32(at int64, v int64) { binary.LittleEndian.PutUint32(f[at:], uint32(v)) }
func (f deltaFile) put64(at int64, v uint64) {
	binary.LittleEndian.PutUint64(f[at:], v)
}

// cowd writes the delta as ESXi's COWD: tables where they are first needed,
// grains in the order they were written.
func (d delta) cowd(rng *rand.Rand) deltaFile {
	var f deltaFile
	f.grow(cowdHeader)
	tables := (d.size + d.grain*cowdEntries - 1) / (d.grain * cowdEntries)
	copy(f, "COWD")
	for at, v := range map[int64]int64{4: 1, 8: 3, 12: d.size / SectorSize, 16: d.grain / SectorSize, 20: 4, 24: tables} {
		f.put32(at, v)
	}
	directory := f.grow(tables*4) * SectorSize
	made := map[int64]int64{}
	for _, n := range d.shuffled(rng) {
		number := n / cowdEntries
		if made[number] == 0 {
			made[number] = f.grow(cowdEntries * 4)
			f.put32(directory+number*4, made[number])
		}
		entry := int64(1)
		if g := d.grains[n]; g != nil {
			entry = f.grow(d.grain)
			copy(f[entry*SectorSize:], g)
		}
		f.put32(made[number]*SectorSize+n%cowdEntries*4, entry)
	}
	return f
}

// sesparse writes the delta as ESXi's SEsparse, with its parts where the real
// file of TestARealFileOfESXiIsRead has them. As many grains as unused says
// come before the first.
func (d delta) sesparse(rng *rand.Rand, unused int64) deltaFile {
	const mib = 1 << 20
	tables := (d.size + d.grain*seEntries - 1) / (d.grain * seEntries)
	f := make(deltaFile, 0, 8*mib+unused*d.grain)
	f.grow(6 * mib)
	const directory, table, grains = 2 * mib, 3 * mib, 6 * mib
	for i, v := range map[int64]uint64{
		0: 0xcafebabe, 1: 0x200000001, 2: uint64(d.size / SectorSize), 3: 8, 4: 64,
		10: 1, 11: 1, 12: 2, 13: 2, 14: 2048, 15: 2048, 16: directory / SectorSize, 17: 2048, 18: table / SectorSize, 19: 2048,
		20: 8192, 21: 2048, 22: 10240, 23: 2048, 24: grains / SectorSize, 25: 1 << 20,
	} {
		f.put64(i*8, v)
	}
	f.put64(SectorSize, 0xcafecafe)
	f.put64(SectorSize+8, uint64(tables))
	made := map[int64]int64{}
	f.grow(unused * d.grain)
	for _, n := range d.shuffled(rng) {
		number := n / seEntries
		if _, there := made[number]; !there {
			made[number] = int64(len(made))
			f.put64(directory+number*8, 1<<60|uint64(made[number]))
		}
		entry := uint64(1+rng.IntN(2)) << 60 // unmapped, or zero
		if g := d.grains[n]; g != nil {
			at := f.grow(d.grain) * SectorSize
			copy(f[at:], g)
			i := uint64(at-grains) / uint64(d.grain)
			entry = 3<<60 | i&0xfff<<48 | i>>12
		}
		f.put64(table+made[number]*seTableSectors*SectorSize+n%seEntries*8, entry)
	}
	return f
}

// describe writes the descriptor of a layer of a chain, and its file.
func describe(t testing.TB, dir string, layer int, kind string, size int64, file []byte) {
	t.Helper()
	createType := map[string]string{"VMFS": "vmfs", "VMFSSPARSE": "vmfsSparse", "SESPARSE": "seSparse"}[kind]
	text := fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\ncreateType=%q\n", layer+1, max(0, layer), createType)
	if layer == 0 {
		text = strings.Replace(text, "parentCID=00000000", "parentCID=ffffffff", 1)
	} else {
		text += fmt.Sprintf("parentFileNameHint=\"layer-%d.vmdk\"\n", layer-1)
	}
	text += fmt.Sprintf("RW %d %s \"layer-%d-data.vmdk\"\n", size/SectorSize, kind, layer)
	d, err := ParseDescriptor([]byte(text))
	if err != nil || d.Size() != size {
		t.Fatalf("descriptor %+v: %v", d, err)
	}
	write(t, dir, fmt.Sprintf("layer-%d.vmdk", layer), []byte(text))
	write(t, dir, fmt.Sprintf("layer-%d-data.vmdk", layer), file)
}

func TestChainsReadAsQemuReadsThem(t *testing.T) {
	type layer struct {
		kind  string
		size  int64 // of the disk when it was written
		grain int64
		zeros bool
	}
	const size = 20<<20 + 3*SectorSize
	// qemu-img takes a COWD entry of 1 for the file's sector 1, which is zero:
	// so it can be asked about zero grains of one sector only.
	for name, layers := range map[string][]layer{
		"COWD with grains of one sector":      {{"VMFSSPARSE", size, 512, true}},
		"COWD with grains of 64 KiB":          {{"VMFSSPARSE", size, 64 << 10, false}},
		"SEsparse":                            {{"SESPARSE", size, 4096, true}},
		"several COWD":                        {{"VMFSSPARSE", size, 512, true}, {"VMFSSPARSE", size, 4096, false}, {"VMFSSPARSE", size, 512, true}},
		"several SEsparse":                    {{"SESPARSE", size, 4096, true}, {"SESPARSE", size, 4096, true}, {"SESPARSE", size, 4096, true}},
		"both kinds mixed":                    {{"VMFSSPARSE", size, 512, true}, {"SESPARSE", size, 4096, true}, {"VMFSSPARSE", size, 512, true}},
		"a disk that grew on top of its base": {{"SESPARSE", size + 10<<20, 4096, true}, {"VMFSSPARSE", size + 15<<20, 512, true}},
		"a disk whose base is larger":         {{"SESPARSE", size - 5<<20, 4096, true}, {"SESPARSE", size + 5<<20, 4096, true}},
	} {
		t.Run(name, func(t *testing.T) {
			rng := seeded(uint64(len(name)))
			dir := t.TempDir()
			disk := sparse(size, 21)
			describe(t, dir, 0, "VMFS", size, disk)
			links := []Link{flatLink(disk)}
			for i, l := range layers {
				d := randomDelta(rng, l.size, l.grain, l.zeros)
				var file []byte
				open := OpenCOWD
				if l.kind == "VMFSSPARSE" {
					file = d.cowd(rng)
				} else { // some grains' numbers need more than the low 12 bits
					file, open = d.sesparse(rng, 4090), OpenSESparse
				}
				describe(t, dir, i+1, l.kind, l.size, file)
				links = append([]Link{link(t, open, fileOf(file))}, links...)
				disk = d.over(disk)
			}
			qemu(t, dir, "convert", "-f", "vmdk", "-O", "raw", fmt.Sprintf("layer-%d.vmdk", len(layers)), "disk.raw")
			same(t, "qemu-img's disk", read(t, dir+"/disk.raw"), disk)
			same(t, "ours", whole(t, chainOf(t, int64(len(disk)), links...)), disk)
			for range 50 {
				off := rng.Int64N(int64(len(disk)))
				n := rng.Int64N(min(1<<20, int64(len(disk))-off))
				mustPieces(t, links[0].Layout, off, n)
			}
		})
	}
}

func TestADeltaSaysWhatItHolds(t *testing.T) {
	const grain = 4096
	page := func(b byte) []byte { return bytes.Repeat([]byte{b}, grain) }
	d := delta{64 << 20, grain, map[int64][]byte{3: page('a'), 4: page('b'), 5: nil, 6: nil, 9: page('c'), 10000: nil}}
	rng := seeded(1)
	for name, l := range map[string]Layout{
		"COWD":     link(t, OpenCOWD, fileOf(d.cowd(rng))).Layout,
		"SEsparse": link(t, OpenSESparse, fileOf(d.sesparse(rng, 0))).Layout,
	} {
		t.Run(name, func(t *testing.T) {
			type run struct {
				kind     Kind
				from, to int64
			}
			var got []run
			for _, p := range mustPieces(t, l, 0, l.Size()) {
				r := run{p.Kind, p.Offset, p.Offset + p.Length}
				if n := len(got); n > 0 && p.Kind == Data && got[n-1].kind == Data {
					got[n-1].to = r.to // its grains may lie in any order
					continue
				}
				got = append(got, r)
			}
			want := []run{
				{Parent, 0, 3 * grain}, {Data, 3 * grain, 5 * grain}, {Zero, 5 * grain, 7 * grain}, {Parent, 7 * grain, 9 * grain},
				{Data, 9 * grain, 10 * grain}, {Parent, 10 * grain, 10000 * grain}, {Zero, 10000 * grain, 10001 * grain}, {Parent, 10001 * grain, 64 << 20},
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			inside := mustPieces(t, l, 4*grain+100, 2*grain)
			if len(inside) != 2 || inside[0].Kind != Data || inside[0].Length != grain-100 || inside[0].At%grain != mustPieces(t, l, 4*grain, 1)[0].At%grain+100 || inside[1].Kind != Zero {
				t.Errorf("within grains: %+v", inside)
			}
			for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, 64<<20 + 1}, {64<<20 + 1, 0}, {64 << 20, 1}} {
				if _, err := pieces(l, r[0], r[1]); err == nil {
					t.Errorf("%d bytes at %d were found", r[1], r[0])
				}
			}
		})
	}
}
