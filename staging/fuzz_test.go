package staging

import (
	"bytes"
	"errors"
	"testing"
)

// Decoders answer any input with a FormatError or with something that encodes again.

func FuzzReadSegment(f *testing.F) {
	f.Add(testSegment(f))
	f.Fuzz(func(t *testing.T, p []byte) {
		reader, err := NewSegmentReader()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		last := int64(-1)
		err = reader.Read(bytes.NewReader(p), testID, func(e Entry, raw []byte) error {
			if e.Block <= last || (e.Kind == Data) != (raw != nil) || raw != nil && HashBlock(raw) != e.Sum {
				t.Errorf("entry %+v after block %d", e, last)
			}
			last = e.Block
			return nil
		})
		mustBeFormat(t, err)
	})
}

func FuzzDecodeShard(f *testing.F) {
	var s Shard
	s[5] = Hash{1}
	f.Add(s.Encode(3))
	f.Fuzz(func(t *testing.T, p []byte) {
		var got Shard
		err := got.Decode(bytes.NewReader(p), 3, s.Sum())
		mustBeFormat(t, err)
		if err == nil && got != s {
			t.Error("another shard was taken")
		}
	})
}

// The documents are fuzzed below their compression, which is not ours.

func FuzzDecodePlan(f *testing.F) {
	f.Add([]byte(`{"format":"skylift-plan","version":1,"job":"j","run":"r","disk":{"id":"d","position":0,"size":9000000},` +
		`"snapshot":{"id":"s","created":"2026-01-02T03:04:05Z","consistency":"crash"},"mode":"full","segmentBlocks":16,"blocks":3,"ranges":2}` + "\n[1,2]\n[5,1]\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		plan, err := DecodePlan(bytes.NewReader(compress(t, p)))
		mustBeFormat(t, err)
		if err != nil {
			return
		}
		if stored, err := EncodeObject(plan); err != nil {
			t.Errorf("a plan that was decoded does not encode: %v", err)
		} else if _, err := DecodePlan(bytes.NewReader(stored)); err != nil {
			t.Errorf("a plan that was encoded does not decode: %v", err)
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add([]byte(`{"format":"skylift-manifest","version":1,"job":"j","run":"r","disk":{"id":"d","position":0,"size":9000000},` +
		`"snapshot":{"id":"s","created":"2026-01-02T03:04:05Z","consistency":"crash"},"mode":"full","segmentBlocks":16,` +
		`"plan":"` + Hash{}.String() + `","digest":"` + NewDigester(9000000).Sum().String() + `","counters":{"planned":0,"read":0,"changed":0,"sent":0,"stored":0,"resumed":0},` +
		`"software":"x","sealed":"2026-01-02T03:04:05Z","segments":1,"holders":0,"shards":0}` + "\n[0,1]\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := DecodeManifest(bytes.NewReader(compress(t, p)))
		mustBeFormat(t, err)
		if err != nil {
			return
		}
		if _, err := EncodeObject(m); err != nil {
			t.Errorf("a manifest that was decoded does not encode: %v", err)
		}
	})
}

func mustBeFormat(t *testing.T, err error) {
	t.Helper()
	var format *FormatError
	if err != nil && !errors.As(err, &format) {
		t.Errorf("not a FormatError: %v", err)
	}
}
