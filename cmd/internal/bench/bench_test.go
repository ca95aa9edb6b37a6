package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
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
