package staging

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
)

// Version is the format's version that this package writes and reads.
const Version = 1

// Sizes of the format. Blocks are the unit that is hashed, compressed, staged
// and put into EBS, whose block size this is.
const (
	BlockSize   = 512 << 10
	ShardBlocks = 1024
	ShardSize   = ShardBlocks * BlockSize // bytes of disk that a shard describes
	MaxDiskSize = 64 << 40
	MaxBlocks   = MaxDiskSize / BlockSize
	MaxShards   = MaxBlocks / ShardBlocks
)

// Hash is the SHA-256 of a block, zero-padded to BlockSize. The zero Hash
// stands for a block of zeros, and for a shard of such blocks.
type Hash [sha256.Size]byte

// HashBlock returns the block's hash. p is BlockSize long.
func HashBlock(p []byte) Hash {
	if IsZero(p) {
		return Hash{}
	}
	return sha256.Sum256(p)
}

// IsZero reports whether this is the hash of a zero block or shard.
func (h Hash) IsZero() bool { return h == Hash{} }

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText encodes the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText decodes exactly 64 lower-case hexadecimal digits.
func (h *Hash) UnmarshalText(b []byte) error {
	parsed, err := ParseHash(string(b))
	if err == nil {
		*h = parsed
	}
	return err
}

// ParseHash decodes exactly 64 lower-case hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if n, err := hex.Decode(h[:], []byte(s)); err != nil || n != len(h) || h.String() != s {
		return Hash{}, fmt.Errorf("%w: a hash is 64 lower-case hexadecimal digits", ErrMalformed)
	}
	return h, nil
}

// IsZero reports whether p holds zeros only.
func IsZero(p []byte) bool {
	for len(p) >= 64 {
		a := binary.NativeEndian.Uint64(p) | binary.NativeEndian.Uint64(p[8:]) |
			binary.NativeEndian.Uint64(p[16:]) | binary.NativeEndian.Uint64(p[24:]) |
			binary.NativeEndian.Uint64(p[32:]) | binary.NativeEndian.Uint64(p[40:]) |
			binary.NativeEndian.Uint64(p[48:]) | binary.NativeEndian.Uint64(p[56:])
		if a != 0 {
			return false
		}
		p = p[64:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Blocks returns how many blocks a disk of size bytes has; the last one may
// reach past its end and is padded with zeros.
func Blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// Shards returns how many shards the block map of a disk of size bytes has.
func Shards(size int64) int64 { return (Blocks(size) + ShardBlocks - 1) / ShardBlocks }

// Digester computes a disk's digest: SHA-256 over its size (64 bits, little
// endian) and the hashes of all its shards in order.
type Digester struct {
	sum  hash.Hash
	next int64
	all  int64
}

// NewDigester starts the digest of a disk of size bytes.
func NewDigester(size int64) *Digester {
	d := &Digester{sum: sha256.New(), all: Shards(size)}
	var head [8]byte
	binary.LittleEndian.PutUint64(head[:], uint64(size))
	d.sum.Write(head[:])
	return d
}

// Add takes the hash of shard n. Shards come in ascending order; those left
// out are zero.
func (d *Digester) Add(n int64, shard Hash) error {
	if n < d.next || n >= d.all {
		return fmt.Errorf("%w: shard %d after %d of %d", ErrOrder, n, d.next-1, d.all)
	}
	d.skip(n)
	d.sum.Write(shard[:])
	d.next = n + 1
	return nil
}

// Sum returns the digest; shards not added are zero.
func (d *Digester) Sum() Hash {
	d.skip(d.all)
	return Hash(d.sum.Sum(nil))
}

func (d *Digester) skip(to int64) {
	var zero Hash
	for ; d.next < to; d.next++ {
		d.sum.Write(zero[:])
	}
}
