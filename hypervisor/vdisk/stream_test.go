package vdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zlib"
)

// streamWriter writes a stream as vSphere does: tables among the grains, the
// directory and a footer behind them. What a test wants wrong it changes by
// the fields.
type streamWriter struct {
	bytes.Buffer
	size   int64
	table  [hostedEntries]uint32 // of the grains since the last table
	filled int64                 // the table's number
	tables map[int64]uint32

	grainSize  int64 // of the disk, 64 KiB unless set
	overhead   int64 // sectors before the first grain, 128 unless set
	descriptor string
	keep       func(grain int64) bool // drops grains from the stream but not from the tables
	pad        bool                   // the last grain to a whole one
	silent     bool                   // markers without a number of sectors
}

const streamDescriptor = "# Disk DescriptorFile\nversion=1\nCID=1f2e3d4c\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\nRDONLY 8 SPARSE \"generated-stream.vmdk\"\n"

func hostedHeader(version, flags uint32, sectors, grain, descriptor, length, directory, overhead uint64, compression uint16) []byte {
	p := make([]byte, SectorSize)
	copy(p, "KDMV")
	le := binary.LittleEndian
	le.PutUint32(p[4:], version)
	le.PutUint32(p[8:], flags)
	le.PutUint64(p[12:], sectors)
	le.PutUint64(p[20:], grain)
	le.PutUint64(p[28:], descriptor)
	le.PutUint64(p[36:], length)
	le.PutUint32(p[44:], hostedEntries)
	le.PutUint64(p[56:], directory)
	le.PutUint64(p[64:], overhead)
	copy(p[73:], "\n \r\n")
	le.PutUint16(p[77:], compression)
	return p
}

func (w *streamWriter) head(directory uint64) []byte {
	return hostedHeader(3, flagNewlines|flagCompressed|flagMarkers, uint64(w.size/SectorSize), uint64(w.grainSize/SectorSize), 1, uint64(min(20, w.overhead-1)), directory, uint64(w.overhead), 1)
}

func (w *streamWriter) sector() uint32 { return uint32(w.Len() / SectorSize) }

func (w *streamWriter) align() {
	w.Write(make([]byte, (SectorSize-w.Len()%SectorSize)%SectorSize))
}

func (w *streamWriter) marker(kind uint32, sectors uint64, payload []byte) {
	if w.silent {
		sectors = 0
	}
	p := make([]byte, SectorSize)
	binary.LittleEndian.PutUint64(p, sectors)
	binary.LittleEndian.PutUint32(p[12:], kind)
	w.Write(p)
	w.Write(payload)
	w.align()
}

func (w *streamWriter) grain(lba uint64, packed []byte) {
	p := make([]byte, grainHeader)
	binary.LittleEndian.PutUint64(p, lba)
	binary.LittleEndian.PutUint32(p[8:], uint32(len(packed)))
	w.Write(p)
	w.Write(packed)
	w.align()
}

func (w *streamWriter) flushTable() {
	payload, any := make([]byte, hostedEntries*4), false
	for i, sector := range w.table {
		binary.LittleEndian.PutUint32(payload[i*4:], sector)
		any = any || sector != 0
	}
	if any {
		w.tables[w.filled] = w.sector() + 1
		w.marker(markerTable, uint64(len(payload)/SectorSize), payload)
	}
	w.table = [hostedEntries]uint32{}
}

// disk writes the whole stream of a disk.
func (w *streamWriter) disk(disk []byte) []byte {
	w.size, w.tables = int64(len(disk)), map[int64]uint32{}
	if w.grainSize == 0 {
		w.grainSize, w.overhead = testGrain, 128
	}
	w.Write(w.head(gdAtEnd))
	if w.descriptor == "" {
		w.descriptor = streamDescriptor
	}
	w.WriteString(w.descriptor)
	w.Write(make([]byte, int(w.overhead)*SectorSize-w.Len()))
	hole := make([]byte, w.grainSize)
	for off := int64(0); off < w.size; off += w.grainSize {
		p := disk[off:min(w.size, off+w.grainSize)]
		number := off / w.grainSize
		if number/hostedEntries != w.filled {
			w.flushTable()
			w.filled = number / hostedEntries
		}
		if bytes.Equal(p, hole[:len(p)]) {
			continue
		}
		if w.pad {
			p = append(bytes.Clone(p), make([]byte, int(w.grainSize)-len(p))...)
		}
		w.table[number%hostedEntries] = w.sector()
		if w.keep == nil || w.keep(number) {
			w.grain(uint64(off/SectorSize), deflate(p))
		}
	}
	w.flushTable()
	tables := (w.size + w.grainSize*hostedEntries - 1) / (w.grainSize * hostedEntries)
	directory := make([]byte, tables*4)
	for number, sector := range w.tables {
		binary.LittleEndian.PutUint32(directory[number*4:], sector)
	}
	gd := uint64(w.sector()) + 1
	w.marker(markerDirectory, uint64(sectors(int64(len(directory)))), directory)
	w.marker(markerFooter, 1, w.head(gd))
	w.marker(markerEnd, 0, nil)
	return w.Bytes()
}

func deflate(p []byte) []byte {
	var out bytes.Buffer
	z, err := zlib.NewWriterLevel(&out, 1)
	if err != nil {
		panic(err)
	}
	z.Write(p)
	z.Close()
	return out.Bytes()
}

func TestStreamsOfQemuAreReadByteForByte(t *testing.T) {
	random := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	for name, disk := range map[string][]byte{
		"of one sector":                        content(512, 1),
		"of one grain":                         content(testGrain, 2),
		"of a grain and a sector":              content(testGrain+512, 3),
		"that is all zeros":                    make([]byte, 5<<20),
		"that nothing compresses":              random,
		"with holes and an odd end":            content(10<<20+3*512, 4),
		"with two tables and zeros at the end": append(sparse(33<<20, 5), make([]byte, 20<<20)...),
	} {
		t.Run(name, func(t *testing.T) {
			stream := read(t, vmdk(t, disk, "streamOptimized"))
			got, _, err := drain(bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			same(t, "disk", got, disk)
			for _, cut := range grainStarts(t, stream) {
				for _, at := range []int64{cut, cut + 1} {
					if _, _, err := drain(bytes.NewReader(stream[:at])); !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("cut to %d of %d bytes: %v", at, len(stream), err)
					}
				}
			}
		})
	}
}

// grainStarts is where in a stream its first, fifth and last grains start.
func grainStarts(t *testing.T, stream []byte) (starts []int64) {
	t.Helper()
	s, err := NewStream(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for n := 0; ; n++ {
		_, _, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if last = s.at; n == 0 || n == 4 {
			starts = append(starts, last)
		}
	}
	if last > 0 {
		starts = append(starts, last)
	}
	return starts
}

func TestAStreamOfADiskOfManyTablesIsReadWithoutItsHoles(t *testing.T) {
	dir := t.TempDir()
	const size = 6<<30 + 512
	parts := map[int64]string{0: "first", 4<<30 - 3: "across 4 GiB", 5 << 30: "behind", size - 4: "last"}
	f, err := os.Create(dir + "/disk.raw")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, s := range parts {
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	qemu(t, dir, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "disk.raw", "disk.vmdk")
	in, err := os.Open(dir + "/disk.vmdk")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s, err := NewStream(in)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != size || s.GrainSize() != testGrain || s.Descriptor().CreateType != "streamOptimized" {
		t.Fatalf("size %d, grain %d, descriptor %+v", s.Size(), s.GrainSize(), s.Descriptor())
	}
	grains := map[int64][]byte{}
	for {
		off, n, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Grain()
		if err != nil {
			t.Fatal(err)
		}
		if want := min(testGrain, size-off); n != want || int64(len(p)) != want {
			t.Fatalf("the grain at %d has %d bytes, Next said %d, expected %d", off, len(p), n, want)
		}
		grains[off] = bytes.Clone(p)
	}
	if len(grains) != 5 {
		t.Errorf("%d grains, expected 5", len(grains))
	}
	for off, s := range parts {
		for i := range s {
			at := off + int64(i)
			if g := grains[at/testGrain*testGrain]; g == nil || g[at%testGrain] != s[i] {
				t.Fatalf("byte %d is not there", at)
			}
		}
	}
}

func TestStreamsWithTheirTablesBehindAreRead(t *testing.T) {
	disk := sparse(33<<20+5*512, 7)
	for name, w := range map[string]*streamWriter{
		"as they come": {}, "with a padded last grain": {pad: true}, "with markers that do not count": {silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			stream := w.disk(disk)
			got, _, err := drain(iotest.OneByteReader(bytes.NewReader(stream[:len(stream)/2])))
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("its first half: %v after %d bytes", err, len(got))
			}
			got, _, err = drain(bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			same(t, "disk", got, disk)
		})
	}
	t.Run("by qemu-img too", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "disk.vmdk", new(streamWriter).disk(disk))
		qemu(t, dir, "convert", "-f", "vmdk", "-O", "raw", "disk.vmdk", "disk.raw")
		same(t, "disk", read(t, dir+"/disk.raw"), disk)
	})
}

func TestGrainsThatNobodyAsksForAreNotInflated(t *testing.T) {
	disk := content(4<<20, 11)
	stream := new(streamWriter).disk(disk)
	for i := 128*SectorSize + grainHeader; i < 128*SectorSize+200; i++ {
		stream[i] ^= 0xff // the first grain's compressed bytes
	}
	s, err := NewStream(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	var wrong int
	for n := 0; ; n++ {
		off, _, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n%2 == 1 {
			p, err := s.Grain()
			if err != nil {
				t.Fatal(err)
			}
			same(t, "grain", p, disk[off:off+int64(len(p))])
		}
		if n == 0 && off != 0 {
			t.Fatalf("the first grain is at %d", off)
		}
		wrong++
	}
	if wrong == 0 {
		t.Fatal("no grains")
	}
	if _, err := s.Raw(); err == nil {
		t.Error("a grain behind the end")
	}
	if _, _, err := drain(bytes.NewReader(stream)); !isFormatError(err) {
		t.Errorf("the damaged grain was read: %v", err)
	}
}

func TestGrainsCanBeInflatedElsewhere(t *testing.T) {
	disk := content(3<<20+512, 12)
	s, err := NewStream(bytes.NewReader(new(streamWriter).disk(disk)))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(disk))
	type job struct {
		raw []byte
		dst []byte
	}
	jobs, done := make(chan job), make(chan error, 3)
	for range cap(done) {
		go func() {
			in := s.NewInflater()
			var failed error
			for j := range jobs {
				failed = errors.Join(failed, in.Inflate(j.dst, j.raw))
			}
			done <- failed
		}()
	}
	for {
		off, n, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.Raw()
		if err != nil {
			t.Fatal(err)
		}
		jobs <- job{bytes.Clone(raw), got[off : off+n]}
	}
	close(jobs)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	same(t, "disk", got, disk)
}

func TestBrokenStreamsAreRefused(t *testing.T) {
	disk := content(2<<20, 13)
	good := new(streamWriter).disk(disk)
	change := func(at int, p ...byte) func([]byte) []byte {
		return func(s []byte) []byte { copy(s[at:], p); return s }
	}
	le32 := func(at int, v uint32) func([]byte) []byte {
		return change(at, binary.LittleEndian.AppendUint32(nil, v)...)
	}
	le64 := func(at int, v uint64) func([]byte) []byte {
		return change(at, binary.LittleEndian.AppendUint64(nil, v)...)
	}
	const first = 128 * SectorSize // the first grain
	second := first + int(sectors(grainHeader+int64(binary.LittleEndian.Uint32(good[first+8:]))))*SectorSize
	gd := int(binary.LittleEndian.Uint64(good[len(good)-2*SectorSize+56:])) * SectorSize
	gt := int(binary.LittleEndian.Uint32(good[gd:])) * SectorSize
	short := deflate(make([]byte, testGrain-512))
	for name, broken := range map[string]func([]byte) []byte{
		"no magic number":                            change(0, 'X'),
		"version 0":                                  le32(4, 0),
		"version 4":                                  le32(4, 4),
		"newlines changed by a copy as text":         change(73, '\n', ' ', '\n', '\n'),
		"no compression flag":                        le32(8, 0x20001),
		"no markers flag":                            le32(8, 0x10001),
		"another compression":                        change(77, 2),
		"no size":                                    le64(12, 0),
		"a size larger than any":                     le64(12, 1<<60),
		"a size that needs too many tables":          le64(12, 1<<50),
		"no grain size":                              le64(20, 0),
		"a grain size that is no power of two":       le64(20, 100),
		"grains too large to hold":                   le64(20, maxStreamGrain*2),
		"tables of another size":                     le32(44, 1024),
		"a descriptor longer than any":               le64(36, 1<<40),
		"a descriptor beyond the head":               le64(28, 1<<62),
		"a descriptor over the header":               le64(28, 1<<63),
		"no descriptor where one should be":          change(SectorSize, 0, 0, 0),
		"a head longer than the stream":              le64(64, 1<<50),
		"a head that ends within the descriptor":     le64(64, 3),
		"a grain beyond the disk":                    le64(first, uint64(len(disk)/SectorSize)),
		"a grain at a sector far away":               le64(first, 1<<63),
		"a grain that does not start at one's start": le64(first, 1),
		"a grain of too many bytes":                  le32(first+8, 2*testGrain+1),
		"a grain of bytes beyond the address space":  le32(first+8, 1<<32-1),
		"a grain twice":                              le64(second, 0),
		"grains that descend":                        le64(first, 128*30),
		"a grain that does not inflate":              change(first+grainHeader, 0xff, 0xff),
		"a grain whose checksum is wrong":            change(first+grainHeader+int(binary.LittleEndian.Uint32(good[first+8:]))-1, good[first+grainHeader+int(binary.LittleEndian.Uint32(good[first+8:]))-1]^1),
		"a grain too short": func(s []byte) []byte {
			le32(first+8, uint32(len(short)))(s)
			end := bytes.Clone(s[second:])
			s = append(s[:first+grainHeader], short...)
			s = append(s, make([]byte, second-len(s))...)
			return append(s, end...)
		},
		"a grain less":                         func(s []byte) []byte { return append(s[:first:first], s[second:]...) },
		"an end in the middle":                 func(s []byte) []byte { return append(s[:second:second], make([]byte, SectorSize)...) },
		"a marker of an unknown type":          le32(gt-SectorSize+12, 7),
		"a table marker that counts otherwise": le64(gt-SectorSize, 3),
		"a table entry less":                   le32(gt, 0),
		"a table entry for another sector":     le32(gt, 129),
		"a directory entry less":               le32(gd, 0),
		"a directory entry elsewhere":          le32(gd, 4),
		"a directory marker that counts fewer": le64(gd-SectorSize, 1<<40),
		"a footer of another disk":             le64(len(good)-2*SectorSize+12, 8),
		"a footer that is none":                change(len(good)-2*SectorSize, 0),
		"a footer with another directory":      le64(len(good)-2*SectorSize+56, uint64(gd/SectorSize)+1),
		"an end that counts":                   le64(len(good)-SectorSize, 9),
		"no footer":                            func(s []byte) []byte { return append(s[:len(s)-3*SectorSize], s[len(s)-SectorSize:]...) },
		"no directory": func(s []byte) []byte {
			return append(s[:gd-SectorSize], s[gd+SectorSize:]...)
		},
		"a grain behind the footer": func(s []byte) []byte {
			return append(s[:len(s)-SectorSize], good[first:second]...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := drain(bytes.NewReader(broken(bytes.Clone(good))))
			if !isFormatError(err) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("a child of another disk", func(t *testing.T) {
		w := &streamWriter{descriptor: "# Disk DescriptorFile\nparentCID=12345678\nparentFileNameHint=\"base.vmdk\"\nRW 8 SPARSE \"a\"\n"}
		if _, _, err := drain(bytes.NewReader(w.disk(disk))); !isFormatError(err) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a grain that the tables list is missing", func(t *testing.T) {
		w := &streamWriter{keep: func(n int64) bool { return n != 3 }}
		disk := content(2<<20, 14)
		disk[3*testGrain] = 1
		if _, _, err := drain(bytes.NewReader(w.disk(disk))); !isFormatError(err) {
			t.Errorf("error %v", err)
		}
	})
}

func TestZeroGrainsThatTheTablesListNeedNotCome(t *testing.T) {
	disk := content(2<<20, 13)
	clear(disk[5*testGrain : 6*testGrain])
	stream := new(streamWriter).disk(disk)
	gd := int(binary.LittleEndian.Uint64(stream[len(stream)-2*SectorSize+56:])) * SectorSize
	gt := int(binary.LittleEndian.Uint32(stream[gd:])) * SectorSize
	binary.LittleEndian.PutUint32(stream[gt+5*4:], 1)
	if _, _, err := drain(bytes.NewReader(stream)); !isFormatError(err) {
		t.Errorf("without the flag: %v", err)
	}
	stream[8] |= flagZeroGrains
	got, _, err := drain(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "disk", got, disk)
}

func TestOnlyTheLastGrainMayBePadded(t *testing.T) {
	const grain = 4096
	for _, test := range []struct {
		name      string
		want, has int
		ok        bool
	}{
		{"a whole grain", grain, grain, true},
		{"a byte less", grain, grain - 1, false},
		{"a byte more", grain, grain + 1, false},
		{"twice the bytes", grain, 2 * grain, false},
		{"a short last grain", 1024, 1024, true},
		{"a padded last grain", 1024, grain, true},
		{"a last grain padded in part", 1024, grain - 1, false},
		{"a last grain padded beyond a grain", 1024, grain + 1, false},
		{"a last grain with too little", 1024, 1023, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := content(int64(test.has), 1)
			in, dst := &Inflater{grain: grain}, make([]byte, test.want)
			for range 2 {
				err := in.Inflate(dst, deflate(p))
				if (err == nil) != test.ok || err != nil && !isFormatError(err) {
					t.Fatalf("error %v", err)
				}
				if test.ok {
					same(t, "grain", dst, p[:test.want])
				}
			}
		})
	}
}

func TestAStreamThatIsCutAnywhereFails(t *testing.T) {
	disk := content(300<<10, 15)
	stream := new(streamWriter).disk(disk)
	for cut := 0; cut < len(stream); cut += 173 {
		_, _, err := drain(bytes.NewReader(stream[:cut]))
		if !errors.Is(err, io.ErrUnexpectedEOF) || isFormatError(err) {
			t.Fatalf("cut to %d of %d bytes: %v", cut, len(stream), err)
		}
	}
	broken := fmt.Errorf("connection reset")
	r := io.MultiReader(bytes.NewReader(stream[:len(stream)/2]), iotest.ErrReader(broken))
	if _, _, err := drain(r); !errors.Is(err, broken) {
		t.Errorf("a reader's error became %v", err)
	}
}

func TestAStreamKeepsItsError(t *testing.T) {
	stream := new(streamWriter).disk(content(1<<20, 16))
	s, err := NewStream(bytes.NewReader(stream[:len(stream)-SectorSize-1]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Raw(); err == nil {
		t.Error("a grain before the first Next")
	}
	for err == nil {
		_, _, err = s.Next()
	}
	_, _, again := s.Next()
	if !errors.Is(err, io.ErrUnexpectedEOF) || again != err {
		t.Errorf("first %v, then %v", err, again)
	}
}
