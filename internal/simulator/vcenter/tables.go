package vcenter

import "encoding/binary"

const tableChunk = 4 << 10

// tables is the part of a file that its format's headers and tables lie in,
// however far apart: chunks by their number, little-endian numbers in them.
type tables map[int64][]byte

func (t tables) at(off int64, n int) []byte {
	number, from := off/tableChunk, off%tableChunk
	chunk := t[number]
	if chunk == nil {
		chunk = make([]byte, tableChunk)
		t[number] = chunk
	}
	return chunk[from : from+int64(n)] // numbers are aligned
}

func (t tables) put64(off int64, values ...uint64) {
	for _, v := range values {
		binary.LittleEndian.PutUint64(t.at(off, 8), v)
		off += 8
	}
}

func (t tables) put32(off int64, values ...uint32) {
	for _, v := range values {
		binary.LittleEndian.PutUint32(t.at(off, 4), v)
		off += 4
	}
}

// readAt fills p, with zeros where there is nothing.
func (t tables) readAt(p []byte, off int64) {
	for len(p) > 0 {
		number, from := off/tableChunk, off%tableChunk
		n := min(int64(len(p)), tableChunk-from)
		if chunk := t[number]; chunk != nil {
			copy(p[:n], chunk[from:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}
