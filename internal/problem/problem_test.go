package problem

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

var (
	full  = &Kind{Code: "disk-full", Title: "the disk is full", Hint: "Free some space"}
	other = &Kind{Code: "other", Title: "other", Hint: "Other"}
)

func TestAProblemTellsWhatWhyAndWhatNext(t *testing.T) {
	err := fmt.Errorf("run r-1: %w", full.New(io.ErrShortWrite, "write image of %s", "web-01"))
	want := "run r-1: write image of web-01: the disk is full: short write. Free some space. [disk-full]"
	if got := Describe(err); got != want {
		t.Errorf("Describe:\n got %s\nwant %s", got, want)
	}
	if Of(err) != full || !Has(err, full) || Has(err, other) || !errors.Is(err, io.ErrShortWrite) {
		t.Error("the kind or the cause is not found in the chain")
	}
	if Of(io.EOF) != nil || Describe(io.EOF) != "EOF" || Describe(nil) != "" {
		t.Error("an ordinary error was taken for a problem")
	}
}
