package vcenter

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
)

// newUUID makes a random UUID with the first bytes that vSphere gives to a kind
// of thing: 42 for BIOS, 50 for instance, 6000C29 for disk UUIDs.
func newUUID(prefix string) string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	h := prefix + strings.ToLower(fmt.Sprintf("%x", b))[len(prefix):]
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// newCID makes a descriptor's content ID; the last two values are reserved.
func newCID() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:]) & 0x7fffffff
}

// deltaName is the n-th delta file over the base disk file.
func deltaName(file string, n int) string {
	return fmt.Sprintf("%s-%06d.vmdk", strings.TrimSuffix(file, ".vmdk"), n)
}

// flatName is the file with the bytes of the descriptor file.
func flatName(file string) string { return strings.TrimSuffix(file, ".vmdk") + "-flat.vmdk" }

// diskFile is the descriptor of the n-th disk of a server.
func diskFile(dir string, n int) string {
	if n == 0 {
		return path.Join(dir, dir+".vmdk")
	}
	return path.Join(dir, fmt.Sprintf("%s_%d.vmdk", dir, n))
}
