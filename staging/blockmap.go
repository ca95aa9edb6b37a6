package staging

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Shard is the part of a block map that describes ShardBlocks blocks: the
// hash of each. Blocks behind the disk's end are zero.
type Shard [ShardBlocks]Hash

const (
	mapMagic      = "SKYLMAP\n"
	mapHeaderSize = 16
	// MapObjectSize is the length of a stored shard in bytes.
	MapObjectSize = mapHeaderSize + ShardBlocks*sha256.Size
)

// Sum returns the shard's hash: SHA-256 over its blocks' hashes in order; the
// zero Hash for a shard of zero blocks, which is not stored.
func (s *Shard) Sum() Hash {
	sum, zero := sha256.New(), true
	for i := range s {
		zero = zero && s[i].IsZero()
		sum.Write(s[i][:])
	}
	if zero {
		return Hash{}
	}
	return Hash(sum.Sum(nil))
}

// Encode returns shard n as it is stored.
func (s *Shard) Encode(n int64) []byte {
	p := make([]byte, mapHeaderSize, MapObjectSize)
	copy(p, mapMagic)
	binary.LittleEndian.PutUint16(p[8:], Version)
	binary.LittleEndian.PutUint32(p[12:], uint32(n))
	for i := range s {
		p = append(p, s[i][:]...)
	}
	return p
}

// Decode reads shard n, whose hash is sum, into s.
func (s *Shard) Decode(r io.Reader, n int64, sum Hash) error {
	var head [mapHeaderSize]byte
	if err := readFull("map", r, head[:]); err != nil {
		return err
	}
	if !bytes.Equal(head[:8], []byte(mapMagic)) {
		return bad("map", ErrMalformed, "no map begins like this")
	}
	if v := binary.LittleEndian.Uint16(head[8:]); v != Version {
		return bad("map", ErrVersion, "version %d", v)
	}
	if binary.LittleEndian.Uint16(head[10:]) != 0 {
		return bad("map", ErrMalformed, "reserved bytes are set")
	}
	if got := binary.LittleEndian.Uint32(head[12:]); int64(got) != n {
		return bad("map", ErrMismatch, "it is shard %d, not %d", got, n)
	}
	for i := range s {
		if err := readFull("map", r, s[i][:]); err != nil {
			return err
		}
	}
	if extra, err := io.ReadFull(r, head[:1]); extra != 0 {
		return bad("map", ErrTrailing, "after shard %d", n)
	} else if err != io.EOF {
		return fmt.Errorf("read map: %w", err)
	}
	if s.Sum() != sum {
		return bad("map", ErrChecksum, "shard %d", n)
	}
	return nil
}

// ReadShard reads shard n of the disk that m describes from wherever it is
// kept, into dst. Shards that m does not name are zero.
func (m *Manifest) ReadShard(ctx context.Context, store Store, n int64, dst *Shard) error {
	ref, ok := m.Shard(n)
	if !ok {
		clear(dst[:])
		return nil
	}
	place := m.Place()
	place.Run = m.Holder(ref)
	key := place.Map(n, ref.Sum)
	body, err := store.Get(ctx, key, 0, -1)
	if err != nil {
		return fmt.Errorf("read block map %s: %w", key, err)
	}
	defer body.Close()
	if err := dst.Decode(bufio.NewReader(body), n, ref.Sum); err != nil {
		return fmt.Errorf("read block map %s: %w", key, err)
	}
	return nil
}
