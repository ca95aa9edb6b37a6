package sms

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Time is a point in time, on the wire in seconds since 1970 with
// milliseconds as the fraction.
type Time struct{ time.Time }

// At returns t for the wire.
func At(t time.Time) Time { return Time{t} }

// MarshalJSON gives epoch seconds; a fraction only where there is one.
func (t Time) MarshalJSON() ([]byte, error) {
	ms := t.UnixMilli()
	if ms < 0 {
		return nil, fmt.Errorf("the time %s is before 1970 and cannot be sent", t)
	}
	b := strconv.AppendInt(nil, ms/1000, 10)
	if f := ms % 1000; f != 0 {
		b = fmt.Appendf(b, ".%03d", f)
	}
	return b, nil
}

// UnmarshalJSON takes epoch seconds as any JSON number from 1970 to 9999, to
// the nearest millisecond.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil // as encoding/json wants it
	}
	seconds, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return errors.New("a time must be a number of seconds since 1970")
	}
	const year10000 = 253402300800
	if !(seconds >= 0 && seconds < year10000) {
		return errors.New("a time must lie in the years 1970 to 9999")
	}
	t.Time = time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()
	return nil
}
