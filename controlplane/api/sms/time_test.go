package sms

import (
	"encoding/json"
	"testing"
	"time"
)

func TestTimesAreEpochSeconds(t *testing.T) {
	for in, want := range map[string]string{
		`0`: `0`, `1772600767`: `1772600767`, `1772600767.0`: `1772600767`, `1.772600767e9`: `1772600767`, `1772600767.123`: `1772600767.123`,
		`1772600767.0004`: `1772600767`, `1772600767.9996`: `1772600768`, `1772600767.01`: `1772600767.010`, `253402300799.999`: `253402300799.999`,
	} {
		var at Time
		if err := json.Unmarshal([]byte(in), &at); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := json.Marshal(at); err != nil || string(got) != want {
			t.Errorf("%s came back as %s, %v; want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{`-1`, `253402300800`, `1e300`, `"2026-01-01"`, `true`, `[]`} {
		if err := json.Unmarshal([]byte(bad), new(Time)); err == nil {
			t.Errorf("%s was taken for a time", bad)
		}
	}
	if b, err := json.Marshal(At(time.Unix(-1, 0))); err == nil {
		t.Errorf("a time before 1970 was sent as %s", b)
	}
	if err := json.Unmarshal([]byte(`null`), new(Time)); err != nil {
		t.Errorf("null: %v", err)
	}
	type holder struct {
		At Time `json:"at,omitzero"`
	}
	if b, err := json.Marshal(holder{}); err != nil || string(b) != `{}` {
		t.Errorf("no time was sent as %s, %v", b, err)
	}
}
