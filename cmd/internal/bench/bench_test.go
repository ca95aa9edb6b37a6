package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain runs the program where a measurement has executed the test binary again.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "run-") {
		main()
	}
	os.Exit(m.Run())
}

// TestBothSidesDoTheSameWork makes a measurement; its figures are not judged.
func TestBothSidesDoTheSameWork(t *testing.T) {
	const size = 64 << 20
	r, err := measure(t.Context(), options{sizeMiB: size >> 20, rounds: 2, only: []string{"zero"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Full) != 1 {
		t.Fatalf("%d kinds of data were measured", len(r.Full))
	}
	for _, f := range r.Full {
		for round, moved := range f.Connector {
			bare := f.Bare["send"][round]
			if moved.Read != size || moved.CPU() <= 0 || bare.CPU() <= 0 {
				t.Errorf("%s: the connector %+v, the bare work %+v", f.Data, moved, bare)
			}
			// Plan, manifest and block map come on top of the segments.
			if extra := moved.Stored - bare.Stored; extra <= 0 || extra > 64<<10 {
				t.Errorf("%s: the connector stored %d bytes, the bare work %d", f.Data, moved.Stored, bare.Stored)
			}
		}
	}
	var text, object bytes.Buffer
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.printJSON(&object); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "zero") || !json.Valid(object.Bytes()) {
		t.Errorf("printed were\n%s\n%s", &text, &object)
	}
}

func TestAMedianIsTheMiddle(t *testing.T) {
	same := func(v float64) float64 { return v }
	if got := median([]float64{9, 1, 5}, same); got != 5 {
		t.Errorf("of three: %v", got)
	}
	if got := median([]float64{9, 1, 5, 6}, same); got != 5.5 {
		t.Errorf("of four: %v", got)
	}
}

// TestPeersBringTheSameDisk has every chain whose programs are installed bring
// a disk; each copy is compared with it, byte for byte.
func TestPeersBringTheSameDisk(t *testing.T) {
	r, err := measure(t.Context(), options{sizeMiB: 48, rounds: 1, only: []string{"peers"}, disks: []string{"server"}, latencies: []time.Duration{time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Peers.Disks) != 1 || len(r.Peers.Disks[0].Ways) != 1+len(chains) {
		t.Fatalf("measured were %+v", r.Peers.Disks)
	}
	for _, w := range r.Peers.Disks[0].Ways {
		if w.Missing != "" {
			t.Logf("%s: %s", w.Name, w.Missing)
		} else if len(w.Rounds) != 1 || w.Rounds[0].Wall <= 0 || w.Rounds[0].CPU <= 0 {
			t.Errorf("%s: %+v", w.Name, w.Rounds)
		}
	}
	var text bytes.Buffer
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if !strings.Contains(text.String(), c.name) {
			t.Errorf("nothing is said of %s:\n%s", c.name, &text)
		}
	}
}

func TestProgramsThatAreMissingAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, c := range chains {
		if said := c.missing(t.Context()); !strings.Contains(said, "rclone") {
			t.Errorf("%s: %q", c.name, said)
		}
	}
}

func TestACopyThatDiffersIsNoCopy(t *testing.T) {
	disk := &content{size: 18 << 20, cycle: [][]byte{randomBytes(), nil}, unused: 1}
	bytesOf := func() []byte {
		p := make([]byte, disk.Size())
		if _, err := disk.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		return p
	}
	flipped := bytesOf()
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		content []byte
		same    bool
	}{
		"the whole disk":       {bytesOf(), true},
		"the last bit flipped": {flipped, false},
		"cut short":            {bytesOf()[:16<<20], false},
		"nothing":              {nil, false},
	} {
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := isCopy(file, disk); (err == nil) != c.same {
			t.Errorf("%s: %v", name, err)
		}
	}
}
