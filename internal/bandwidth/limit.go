package bandwidth

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limit is how many bytes a second may be sent.
type Limit int64

// The limits that are no rates, and the least rate that is one: below it not
// even a request's header gets through in a time that servers allow.
const (
	Shut      Limit = 0
	Unlimited Limit = math.MaxInt64
	Least     Limit = 1 << 10
)

// String says the limit as people do: "20 MiB/s", "512 KiB/s", "no limit", "shut".
func (l Limit) String() string {
	switch l {
	case Shut:
		return "shut"
	case Unlimited:
		return "no limit"
	}
	value, unit := float64(l), 0
	for ; value >= 1024 && unit < len(units)-1; unit++ {
		value /= 1024
	}
	return strconv.FormatFloat(math.Round(value*100)/100, 'f', -1, 64) + " " + units[unit] + "/s"
}

var units = [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}

// parsePair reads a limit or two, for sending and receiving ("10M:1M"). Only
// the first has a meaning here; the other has to be one all the same.
func parsePair(text string) (Limit, error) {
	send, receive, two := strings.Cut(text, ":")
	limit, err := parseLimit(send)
	if err == nil && two {
		_, err = parseLimit(receive)
	}
	return limit, err
}

// parseLimit reads rclone's SizeSuffix, of which 0 and "off" stand for no
// limit, and our own word "shut".
func parseLimit(text string) (Limit, error) {
	switch strings.ToLower(text) {
	case "":
		return 0, errors.New("a limit is missing")
	case "off":
		return Unlimited, nil
	case "shut":
		return Shut, nil
	}
	number, unit, err := cutUnit(text)
	if err != nil {
		return 0, err
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(value) {
		return 0, fmt.Errorf("%q is not a number with a unit, off or shut", text)
	}
	value *= unit
	switch {
	case value < 0:
		return 0, fmt.Errorf("the limit %q is negative", text)
	case value == 0:
		return Unlimited, nil
	case value < float64(Least):
		return 0, fmt.Errorf("the limit %q is less than 1 KiB a second; to send nothing, say shut", text)
	case value >= float64(Unlimited):
		return 0, fmt.Errorf("the limit %q is too large; for none, say off", text)
	}
	return Limit(value), nil
}

// cutUnit splits "1.5M", "1.5Mi" and "1.5MiB" into the number and the bytes of
// its unit. Without a unit it is KiB.
func cutUnit(text string) (number string, unit float64, err error) {
	lower := strings.ToLower(text)
	number = lower
	switch {
	case strings.HasSuffix(lower, "ib"):
		number = lower[:len(lower)-2]
	case strings.HasSuffix(lower, "i"):
		number = lower[:len(lower)-1]
	case strings.HasSuffix(lower, "b"):
		return lower[:len(lower)-1], 1, nil
	}
	if number != "" {
		if exponent := strings.IndexByte("kmgtpe", number[len(number)-1]); exponent >= 0 {
			return number[:len(number)-1], math.Pow(1024, float64(exponent+1)), nil
		}
	}
	if number != lower || number == "" {
		return "", 0, fmt.Errorf("%q ends in no unit (B, K, M, G, T or P)", text)
	}
	if last := number[len(number)-1]; last != '.' && (last < '0' || last > '9') {
		return "", 0, fmt.Errorf("%q ends in no unit (B, K, M, G, T or P)", text)
	}
	return number, 1024, nil
}
