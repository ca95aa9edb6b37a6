package vdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

// drawn is a layout drawn as a string: a letter per sector, d data, z zero, p
// parent. Data lies backward in the file, so that no two sectors join, unless
// upper-case.
type drawn string

func (d drawn) Size() int64 { return int64(len(d)) * SectorSize }

func (d drawn) Pieces(_ context.Context, off, length int64, emit func(Piece) error) error {
	for end := off + length; off < end; {
		p := Piece{Offset: off, Length: min(end, (off/SectorSize+1)*SectorSize) - off}
		switch d[off/SectorSize] {
		case 'd':
			p.At, p.Kind = d.Size()-off, Data
		case 'D':
			p.At, p.Kind = off, Data
		case 'z':
			p.Kind = Zero
		case 'p':
			p.Kind = Parent
		}
		if err := emit(p); err != nil {
			return err
		}
		off += p.Length
	}
	return nil
}

func TestAChainFindsEachByteInTheNewestFileThatHoldsIt(t *testing.T) {
	for _, test := range []struct {
		name   string
		size   int
		layers []drawn // the newest first
		want   string  // per run: the file or z, and sectors
	}{
		{"one flat file is one run", 4, []drawn{"DDDD"}, "0:4"},
		{"scattered data is many runs", 3, []drawn{"ddd"}, "0:1 0:1 0:1"},
		{"a child hides its parent", 5, []drawn{"pDDpp", "DDDDD"}, "1:1 0:2 1:2"},
		{"a zero grain hides only itself", 5, []drawn{"pzppp", "DDDDD"}, "1:1 z:1 1:3"},
		{"zeros of several files are one run", 5, []drawn{"zpppz", "pzzpD", "DDDzD"}, "z:5"},
		{"nobody holds it", 3, []drawn{"ppp", "ppp"}, "z:3"},
		{"a grandparent is reached", 3, []drawn{"ppD", "pDD", "DDD"}, "2:1 1:1 0:1"},
		{"a disk grown after its base ends in zeros", 5, []drawn{"ppppp", "DDD"}, "1:3 z:2"},
		{"a file that is too short ends in zeros", 5, []drawn{"pDp", "DDDDD"}, "1:1 0:1 1:1 z:2"},
		{"what was cut off does not come back", 4, []drawn{"pppp", "pp", "DDDD"}, "2:2 z:2"},
		{"a disk of nothing", 0, []drawn{""}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var links []Link
			for _, l := range test.layers {
				links = append(links, Link{Layout: l})
			}
			c := chainOf(t, int64(test.size*SectorSize), links...)
			got, at := "", int64(0)
			err := c.Runs(context.Background(), 0, c.Size(), func(r Run) error {
				if r.Offset != at || r.Length <= 0 {
					return fmt.Errorf("a gap at %d: %+v", at, r)
				}
				at += r.Length
				who := fmt.Sprint(r.Link)
				if r.Kind == Zero {
					who = "z"
				}
				got += fmt.Sprintf(" %s:%d", who, r.Length/SectorSize)
				return nil
			})
			if err != nil || at != c.Size() || (got != "" && got[1:] != test.want) || got == "" && test.want != "" {
				t.Errorf("got%s, want %s (error %v)", got, test.want, err)
			}
		})
	}
}

func TestAChainReadsWhatItsFilesHold(t *testing.T) {
	base, child := content(8*SectorSize, 1), content(8*SectorSize, 2)
	c := chainOf(t, 10*SectorSize,
		Link{drawn("ppDDzppppp"), fileOf(child)},
		flatLink(base))
	want := append(bytes.Clone(base), make([]byte, 2*SectorSize)...)
	copy(want[2*SectorSize:], child[2*SectorSize:4*SectorSize])
	clear(want[4*SectorSize : 5*SectorSize])
	for _, at := range [][2]int{{0, len(want)}, {1, 1}, {1000, 2000}, {4 * SectorSize, SectorSize}, {len(want), 0}} {
		p := bytes.Repeat([]byte{0xaa}, at[1])
		if err := c.ReadAt(context.Background(), p, int64(at[0])); err != nil || !bytes.Equal(p, want[at[0]:at[0]+at[1]]) {
			t.Errorf("%d bytes at %d: error %v", at[1], at[0], err)
		}
	}
	if err := c.ReadAt(context.Background(), make([]byte, 2), c.Size()-1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("past the end: %v", err)
	}
	if err := c.ReadAt(context.Background(), make([]byte, 2), -1); err == nil {
		t.Error("before the start")
	}
	broken := errors.New("connection reset")
	c = chainOf(t, SectorSize, Link{Flat(SectorSize, 0), &counted{File: fileOf(base), fail: func() error { return broken }}})
	if err := c.ReadAt(context.Background(), make([]byte, 2), 0); !errors.Is(err, broken) {
		t.Errorf("a file's error became %v", err)
	}
}

func TestChainsThatAreNoneAreRefused(t *testing.T) {
	if _, err := NewChain(10); err == nil {
		t.Error("no links")
	}
	if _, err := NewChain(-1, flatLink(nil)); err == nil {
		t.Error("a negative size")
	}
}

func TestAFlatLayoutIsOneRunOfItsFile(t *testing.T) {
	l := Flat(100<<30, 63*SectorSize)
	if got := mustPieces(t, l, 5<<30, 7); len(got) != 1 || got[0] != (Piece{Offset: 5 << 30, Length: 7, At: 5<<30 + 63*SectorSize, Kind: Data}) {
		t.Errorf("got %+v", got)
	}
	if got := mustPieces(t, l, 100<<30, 0); len(got) != 0 {
		t.Errorf("nothing became %+v", got)
	}
	if _, err := pieces(l, 100<<30, 1); err == nil {
		t.Error("a range behind the end")
	}
}

func TestEmitEndsTheSearch(t *testing.T) {
	enough := errors.New("enough")
	d := delta{1 << 20, 4096, map[int64][]byte{0: make([]byte, 4096), 2: nil}}
	l := link(t, OpenCOWD, fileOf(d.cowd(seeded(1))))
	for stop := range 3 {
		calls := 0
		err := chainOf(t, 1<<20, l).Runs(context.Background(), 0, 1<<20, func(Run) error {
			if calls++; calls > stop {
				return enough
			}
			return nil
		})
		if err != enough && (stop < 2 || err != nil) || calls > stop+1 {
			t.Errorf("stopped at %d: %d calls, error %v", stop, calls, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := chainOf(t, 1<<20, l).Runs(ctx, 0, 1<<20, func(Run) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestAFileOfAReaderKeepsItsPromises(t *testing.T) {
	f := fileOf([]byte("0123456789"))
	ctx := context.Background()
	p := make([]byte, 4)
	if err := f.ReadAt(ctx, p, 6); err != nil || string(p) != "6789" || f.Size() != 10 {
		t.Errorf("%q %v", p, err)
	}
	for _, off := range []int64{7, 10, 1 << 62} {
		if err := f.ReadAt(ctx, p, off); err != io.ErrUnexpectedEOF {
			t.Errorf("at %d: %v", off, err)
		}
	}
	if err := f.ReadAt(ctx, p, -1); err == nil {
		t.Error("before the start")
	}
	if err := FileOf(bytes.NewReader(nil), 10).ReadAt(ctx, p, 0); err != io.ErrUnexpectedEOF {
		t.Errorf("a file shorter than was said: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := f.ReadAt(gone, p, 0); err != context.Canceled {
		t.Errorf("canceled: %v", err)
	}
}
