package vcenter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zlib"
)

// streamOptimized VMDK, the format of exports, as VMware's "Virtual Disk Format
// 5.0" describes it: written and read in one pass. Everything begins at whole
// sectors, places are in sectors:
//
//	header, descriptor, padding up to 64 KiB
//	for each 32 MiB of the disk that hold data: compressed grains of 64 KiB,
//	each after a marker that names its first sector, then their grain table
//	grain directory, footer: the header again with the directory's place
//	a sector of zeros
const (
	streamOverhead    = 128 // sectors
	streamDescriptor  = 20  // sectors
	streamGTEs        = 512 // entries of a grain table
	streamVersion     = 3
	streamFlags       = 1 | 1<<16 | 1<<17 // valid newlines, compressed grains, markers
	streamDeflate     = 1
	streamAtEnd       = math.MaxUint64 // place of the directory, in the header
	streamTableMarker = 1
	streamDirMarker   = 2
	streamEndMarker   = 3 // before the footer
)

var errLeaseEnded = errors.New("the lease has ended")

// stream writes the disk to w until stop is closed.
func (d *exportedDisk) stream(w io.Writer, stop <-chan struct{}) error {
	buffered := bufio.NewWriterSize(w, 256<<10)
	s := &streamWriter{w: buffered, capacity: uint64(d.view.size / sector), table: -1, stop: stop}
	if err := s.begin(d.descriptor); err != nil {
		return err
	}
	p := make([]byte, grain)
	for _, e := range d.allocated {
		for at := e.Offset / grain * grain; at < e.End(); at += grain {
			if at/grain < s.next { // in the extent before, too
				continue
			}
			n := int(min(grain, d.view.size-at))
			if _, err := d.view.ReadAt(p[:n], at); err != nil {
				return err
			}
			clear(p[n:]) // the last grain is a whole one
			if err := s.grain(at/grain, p); err != nil {
				return err
			}
		}
	}
	if err := s.finish(); err != nil {
		return err
	}
	return buffered.Flush()
}

type streamWriter struct {
	w          *bufio.Writer
	at         int64 // sectors written
	capacity   uint64
	table      int64 // number of the one that is being filled; -1: none
	entries    [streamGTEs]uint32
	directory  []uint32
	compressor *zlib.Writer
	compressed bytes.Buffer
	next       int64 // grain that was not looked at yet
	marker     [12]byte
	padding    [sector]byte // zeros
	stop       <-chan struct{}
}

func (s *streamWriter) begin(descriptor string) error {
	tables := (s.capacity + streamGTEs*grain/sector - 1) / (streamGTEs * grain / sector)
	s.directory = make([]uint32, tables)
	var err error
	if s.compressor, err = zlib.NewWriterLevel(&s.compressed, zlib.BestSpeed); err != nil {
		return err
	}
	if len(descriptor) > streamDescriptor*sector {
		return fmt.Errorf("the descriptor is %d bytes long", len(descriptor))
	}
	head := make([]byte, streamOverhead*sector)
	copy(head, s.header(streamAtEnd))
	copy(head[sector:], descriptor)
	return s.write(head)
}

func (s *streamWriter) header(directory uint64) []byte {
	p := append(make([]byte, 0, sector), "KDMV"...)
	p = binary.LittleEndian.AppendUint32(p, streamVersion)
	p = binary.LittleEndian.AppendUint32(p, streamFlags)
	p = binary.LittleEndian.AppendUint64(p, s.capacity)
	p = binary.LittleEndian.AppendUint64(p, grain/sector)
	p = binary.LittleEndian.AppendUint64(p, 1) // place of the descriptor
	p = binary.LittleEndian.AppendUint64(p, streamDescriptor)
	p = binary.LittleEndian.AppendUint32(p, streamGTEs)
	p = binary.LittleEndian.AppendUint64(p, 0) // place of the redundant directory: there is none
	p = binary.LittleEndian.AppendUint64(p, directory)
	p = binary.LittleEndian.AppendUint64(p, streamOverhead)
	p = append(p, 0)            // shut down cleanly
	p = append(p, "\n \r\n"...) // shows transfers that change line ends
	p = binary.LittleEndian.AppendUint16(p, streamDeflate)
	return p[:sector]
}

// grain writes a grain with its marker, unless it is zero.
func (s *streamWriter) grain(number int64, p []byte) error {
	select {
	case <-s.stop:
		return errLeaseEnded
	default:
	}
	s.next = number + 1
	if allZero(p) {
		return nil
	}
	if table := number / streamGTEs; table != s.table {
		if err := s.endTable(); err != nil {
			return err
		}
		s.table = table
	}
	s.compressed.Reset()
	s.compressor.Reset(&s.compressed)
	if _, err := s.compressor.Write(p); err != nil {
		return err
	}
	if err := s.compressor.Close(); err != nil {
		return err
	}
	s.entries[number%streamGTEs] = uint32(s.at)
	marker := binary.LittleEndian.AppendUint64(s.marker[:0], uint64(number*grain/sector))
	marker = binary.LittleEndian.AppendUint32(marker, uint32(s.compressed.Len()))
	return s.write(marker, s.compressed.Bytes())
}

// endTable writes the table of the grains before, if there were any.
func (s *streamWriter) endTable() error {
	if s.table < 0 {
		return nil
	}
	table := appendEntries(nil, s.entries[:])
	if err := s.metadata(streamTableMarker, len(table)); err != nil {
		return err
	}
	s.directory[s.table] = uint32(s.at)
	s.table = -1
	clear(s.entries[:])
	return s.write(table)
}

func (s *streamWriter) finish() error {
	if err := s.endTable(); err != nil {
		return err
	}
	directory := appendEntries(nil, s.directory)
	if err := s.metadata(streamDirMarker, len(directory)); err != nil {
		return err
	}
	at := uint64(s.at)
	if err := s.write(directory); err != nil {
		return err
	}
	if err := s.metadata(streamEndMarker, sector); err != nil {
		return err
	}
	return s.write(s.header(at), make([]byte, sector))
}

// metadata writes the marker of what is not a grain, and n bytes long.
func (s *streamWriter) metadata(kind uint32, n int) error {
	marker := binary.LittleEndian.AppendUint64(nil, uint64((n+sector-1)/sector))
	marker = binary.LittleEndian.AppendUint32(marker, 0) // the size, which only grains have
	return s.write(binary.LittleEndian.AppendUint32(marker, kind))
}

// write writes parts one after the other, filled up to a whole sector.
func (s *streamWriter) write(parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		if _, err := s.w.Write(p); err != nil {
			return err
		}
		n += len(p)
	}
	padded := (n + sector - 1) / sector * sector
	if _, err := s.w.Write(s.padding[:padded-n]); err != nil {
		return err
	}
	if s.at += int64(padded / sector); s.at > math.MaxUint32 {
		return errors.New("the stream is longer than its tables' numbers of 32 bits can tell")
	}
	return nil
}

func appendEntries(p []byte, entries []uint32) []byte {
	for _, e := range entries {
		p = binary.LittleEndian.AppendUint32(p, e)
	}
	return p
}
