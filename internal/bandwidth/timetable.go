package bandwidth

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode"
)

// Timetable says what may be sent at each minute of the week. The zero value
// sets no limit.
type Timetable struct {
	slots []slot // ascending, one per minute
	zone  *time.Location
}

// slot is a limit from a minute of the week on, until the next slot.
type slot struct {
	minute int // since Sunday 00:00
	limit  Limit
}

const (
	day  = 24 * 60
	week = 7 * day
)

// Parse reads a timetable in the syntax of rclone's --bwlimit
// (https://rclone.org/docs/#bwlimit-bwtimetable): one limit, or entries
// "hh:mm,limit" for every day and "day-hh:mm,limit" for one, separated by
// spaces or semicolons. A limit is a number with a unit (B, K, M, G, T, P;
// powers of 1024; K where there is none), or "off" or 0 for no limit; of a pair
// "10M:1M" the first counts, which is for sending.
//
// Beyond rclone's, "shut" is a limit too: nothing is sent. An entry holds until
// the next one in the week, whichever way they are ordered in the text; of two
// for the same minute the later one counts. Times are by the clocks of zone,
// nil for this machine's own.
func Parse(text string, zone *time.Location) (Timetable, error) {
	t := Timetable{zone: zone}
	if t.zone == nil {
		t.zone = time.Local
	}
	entries := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == ';' })
	if len(entries) == 0 {
		return Timetable{}, errors.New("the timetable is empty; for no limit, say off")
	}
	if len(entries) == 1 && !strings.Contains(entries[0], ",") {
		limit, err := parsePair(entries[0])
		if err != nil {
			return Timetable{}, err
		}
		t.slots = []slot{{limit: limit}}
		return t, nil
	}
	limits := map[int]Limit{}
	for _, entry := range entries {
		minutes, limit, err := parseEntry(entry)
		if err != nil {
			return Timetable{}, fmt.Errorf("the entry %q: %w", entry, err)
		}
		for _, m := range minutes {
			limits[m] = limit
		}
	}
	for minute, limit := range limits {
		t.slots = append(t.slots, slot{minute, limit})
	}
	slices.SortFunc(t.slots, func(a, b slot) int { return a.minute - b.minute })
	return t, nil
}

// parseEntry returns the minutes of the week at which an entry begins.
func parseEntry(entry string) (minutes []int, limit Limit, err error) {
	when, value, found := strings.Cut(entry, ",")
	if !found || strings.Contains(value, ",") {
		return nil, 0, errors.New("it is not a time and a limit with a comma between")
	}
	if limit, err = parsePair(value); err != nil {
		return nil, 0, err
	}
	name, clock, one := strings.Cut(when, "-")
	if !one {
		clock = name
	}
	minute, err := parseClock(clock)
	if err != nil {
		return nil, 0, err
	}
	for d := range time.Saturday + 1 {
		if !one || isDay(name, d) {
			minutes = append(minutes, int(d)*day+minute)
		}
	}
	if len(minutes) == 0 {
		return nil, 0, fmt.Errorf("%q is no day of the week", name)
	}
	return minutes, limit, nil
}

func isDay(name string, d time.Weekday) bool {
	return strings.EqualFold(name, d.String()) || strings.EqualFold(name, d.String()[:3])
}

// parseClock reads hh:mm as minutes since midnight.
func parseClock(s string) (int, error) {
	digit := func(i int) int { return int(s[i]) - '0' }
	if len(s) == 5 && s[2] == ':' && digits(s[:2]) && digits(s[3:]) {
		hours, minutes := digit(0)*10+digit(1), digit(3)*10+digit(4)
		if hours < 24 && minutes < 60 {
			return hours*60 + minutes, nil
		}
	}
	return 0, fmt.Errorf("%q is no time of the day from 00:00 to 23:59", s)
}

func digits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// At returns the limit at a moment.
func (t Timetable) At(now time.Time) Limit {
	if len(t.slots) == 0 {
		return Unlimited
	}
	i := t.following(now)
	return t.slots[(i+len(t.slots)-1)%len(t.slots)].limit
}

// following returns the first slot that begins later in the same week than
// now, or the number of slots. Clocks on the wall decide: where they are set
// back, an hour's entries hold twice.
func (t Timetable) following(now time.Time) int {
	minute := t.minute(now)
	return sort.Search(len(t.slots), func(i int) bool { return t.slots[i].minute > minute })
}

func (t Timetable) minute(now time.Time) int {
	w := now.In(t.zone)
	return int(w.Weekday())*day + w.Hour()*60 + w.Minute()
}

// Next returns the first moment behind now at which there is another limit; the
// zero Time when it stays the same for ever.
func (t Timetable) Next(now time.Time) time.Time {
	if t.constant() {
		return time.Time{}
	}
	limit := t.At(now)
	// Clocks are set at most a few times a year; whatever they do, two weeks
	// have every slot in them.
	for at := now; at.Sub(now) < 2*week*time.Minute; {
		at = t.step(at)
		if t.At(at) != limit {
			return at
		}
	}
	return time.Time{}
}

// step returns the beginning of the next slot, or the moment at which the
// clocks are set if that comes first.
func (t Timetable) step(at time.Time) time.Time {
	i, minute := t.following(at), t.minute(at)
	ahead := week - minute + t.slots[0].minute
	if i < len(t.slots) {
		ahead = t.slots[i].minute - minute
	}
	w := at.In(t.zone)
	into := time.Duration(w.Second())*time.Second + time.Duration(w.Nanosecond())
	next := at.Add(time.Duration(ahead)*time.Minute - into)
	if _, set := w.ZoneBounds(); !set.IsZero() && set.Before(next) && set.After(at) {
		return set
	}
	return next
}

// constant reports whether the limit never changes.
func (t Timetable) constant() bool {
	return !slices.ContainsFunc(t.slots, func(s slot) bool { return s.limit != t.slots[0].limit })
}
