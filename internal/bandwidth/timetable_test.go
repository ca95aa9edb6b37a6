package bandwidth

import (
	"strings"
	"testing"
	"time"
)

const mib = 1 << 20

func parse(t *testing.T, text string, zone *time.Location) Timetable {
	t.Helper()
	table, err := Parse(text, zone)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return table
}

func TestLimitsAreReadAsRcloneReadsThem(t *testing.T) {
	for text, want := range map[string]Limit{
		"10M": 10 * mib, "10m": 10 * mib, "10Mi": 10 * mib, "10MiB": 10 * mib,
		"512": 512 << 10, "512k": 512 << 10, "2048B": 2048, "2048b": 2048,
		"1.5M": 3 * mib / 2, ".5G": 512 * mib, "1.": 1024, "2T": 2 << 40, "1P": 1 << 50, "1E": 1 << 60,
		"off": Unlimited, "OFF": Unlimited, "0": Unlimited, "0M": Unlimited,
		"10M:1M": 10 * mib, "off:10M": Unlimited, "1M:off": mib, " 1M\n": mib,
		"shut": Shut, "Shut": Shut,
	} {
		if got := parse(t, text, nil).At(time.Unix(1e9, 0)); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}

func TestTimetablesThatCannotBeMeantAreRefused(t *testing.T) {
	for text, why := range map[string]string{
		"": "empty", " ; ": "empty", "bad": "unit", "1000X": "unit", "10MB": "not a number", "M": "not a number", "i": "unit", "1i": "unit",
		"-1M": "negative", "nan": "unit", "infb": "too large", "9E": "too large", "100B": "less than 1 KiB", "0.5": "less than 1 KiB",
		"10M:": "missing", ":10M": "missing", "10M:bad": "unit", "1M:2M:3M": "unit",
		"08:00,": "missing", "08:00,1M,2M": "comma", "08:00 1M": "comma", "1M 2M": "comma",
		"8:00,1M": "time of the day", "24:00,1M": "time of the day", "10:60,1M": "time of the day", "10x20,1M": "time of the day",
		"2401,1M": "time of the day", "+1:00,1M": "time of the day", "Mon-bad,1M": "time of the day", "Mon-08:00-x,1M": "time of the day",
		"bad-10:20,1M": "no day", "M-10:20,1M": "no day", "-10:20,1M": "no day", "Mon-10:20,bad": "unit",
	} {
		if table, err := Parse(text, nil); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, %v; want an error with %q", text, table, err, why)
		}
	}
}

// at is a moment of the week of Sunday, 6 July 2025, in UTC.
func at(day time.Weekday, hour, minute int) time.Time {
	return time.Date(2025, 7, 6+int(day), hour, minute, 0, 0, time.UTC)
}

func TestALimitHoldsUntilTheNextEntryOfTheWeek(t *testing.T) {
	daily := "08:00,512k 12:00,10M 13:00,512k 18:00,30M 23:00,off"
	weekly := "Mon-08:00,20M;Mon-19:00,off"
	for _, test := range []struct {
		text string
		now  time.Time
		want Limit
	}{
		{daily, at(time.Tuesday, 7, 59), Unlimited},
		{daily, at(time.Tuesday, 8, 0), 512 << 10},
		{daily, at(time.Sunday, 12, 30), 10 * mib},
		{daily, at(time.Saturday, 22, 59), 30 * mib},
		{daily, at(time.Sunday, 0, 0), Unlimited}, // Saturday's last
		{weekly, at(time.Monday, 7, 59), Unlimited},
		{weekly, at(time.Monday, 18, 59), 20 * mib},
		{weekly, at(time.Sunday, 0, 0), Unlimited},
		// In whichever order they are written.
		{"23:00,off 08:00,1M", at(time.Sunday, 3, 0), Unlimited},
		{"Sunday-20:00,off monday-00:00,512", at(time.Sunday, 19, 59), 512 << 10},
		{"Mon-11:00,333 00:01,off Sun-23:00,666", at(time.Sunday, 0, 0), Unlimited},
		// The later of two for the same minute.
		{"08:00,1M Mon-08:00,2M", at(time.Monday, 9, 0), 2 * mib},
		{"Mon-08:00,2M 08:00,1M", at(time.Monday, 9, 0), mib},
	} {
		if got := parse(t, test.text, time.UTC).At(test.now); got != test.want {
			t.Errorf("%q on %s: %s, want %s", test.text, test.now.Format("Mon 15:04"), got, test.want)
		}
	}
	if got := (Timetable{}).At(time.Time{}); got != Unlimited {
		t.Errorf("no timetable: %s", got)
	}
}

func TestTheNextChangeIsTheFirstMomentWithAnotherLimit(t *testing.T) {
	for _, test := range []struct {
		text string
		now  time.Time
		want time.Time
	}{
		{"10M", at(time.Monday, 1, 0), time.Time{}},
		{"08:00,10M 20:00,10M", at(time.Monday, 1, 0), time.Time{}},
		{"Mon-08:00,shut Mon-19:00,off", at(time.Monday, 8, 0), at(time.Monday, 19, 0)},
		{"Mon-08:00,shut Mon-19:00,off", at(time.Monday, 18, 59).Add(59999 * time.Millisecond), at(time.Monday, 19, 0)},
		{"Mon-08:00,shut Mon-19:00,off", at(time.Monday, 19, 0), at(time.Monday+7, 8, 0)},
		{"Mon-08:00,shut 09:00,shut Sat-10:00,1M", at(time.Monday, 8, 0), at(time.Saturday, 10, 0)},
		{"Sat-22:00,shut Sun-06:00,off", at(time.Saturday, 23, 0), at(time.Sunday+7, 6, 0)},
		{"Mon-08:00,0 Mon-09:00,off Tue-08:00,1M", at(time.Monday, 8, 30), at(time.Tuesday, 8, 0)},
	} {
		if got := parse(t, test.text, time.UTC).Next(test.now); !got.Equal(test.want) {
			t.Errorf("%q after %s: %s, want %s", test.text, test.now, got, test.want)
		}
	}
}

func TestClocksThatAreSetAreFollowed(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	table := parse(t, "02:30,1M 05:00,off", berlin)
	utc := func(text string) time.Time {
		moment, err := time.Parse("2006-01-02 15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	// 30 March 2025: 02:00 became 03:00 at 01:00 UTC, so that 02:30 never came.
	// 26 October: 03:00 became 02:00 at 01:00 UTC, so that 02:30 came twice.
	for _, test := range []struct {
		now, next string
		limit     Limit
	}{
		{"2025-03-30 00:59", "2025-03-30 01:00", Unlimited},
		{"2025-03-30 01:00", "2025-03-30 03:00", mib},
		{"2025-10-26 00:29", "2025-10-26 00:30", Unlimited},
		{"2025-10-26 00:30", "2025-10-26 01:00", mib},
		{"2025-10-26 01:00", "2025-10-26 01:30", Unlimited},
		{"2025-10-26 01:30", "2025-10-26 04:00", mib},
		{"2025-10-26 04:00", "2025-10-27 01:30", Unlimited},
	} {
		now := utc(test.now)
		if got := table.At(now); got != test.limit {
			t.Errorf("at %s: %s, want %s", now.In(berlin), got, test.limit)
		}
		if got := table.Next(now); !got.Equal(utc(test.next)) {
			t.Errorf("after %s: %s, want %s UTC", now.In(berlin), got.In(berlin), test.next)
		}
	}
}

func TestALimitIsSaidAsPeopleSayIt(t *testing.T) {
	for limit, want := range map[Limit]string{
		Shut: "shut", Unlimited: "no limit", 20 * mib: "20 MiB/s", 1536: "1.5 KiB/s", 1000: "1000 B/s", 1 << 61: "2048 PiB/s",
	} {
		if got := limit.String(); got != want {
			t.Errorf("%d is %q, want %q", limit, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"10M", "off", "0", "shut", "10M:1M", "08:00,512k 12:00,10M 23:00,off", "Mon-08:00,20M;Mon-19:00,off", "1e3", "0x1p4B", "Sunday-00:00,1.5GiB", "a-b,c"} {
		f.Add(seed, int64(1e9))
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, seconds int64) {
		table, err := Parse(text, berlin)
		if err != nil {
			return
		}
		now := time.Unix(seconds%(1<<33), 0)
		limit, next := table.At(now), table.Next(now)
		if limit != Shut && limit < Least {
			t.Errorf("%q: a limit of %d", text, limit)
		}
		if next.IsZero() != table.constant() {
			t.Errorf("%q: the next change is %s", text, next)
		}
		if !next.IsZero() && (!next.After(now) || table.At(next) == limit || table.At(next.Add(-1)) != limit) {
			t.Errorf("%q: %s at %s, and %s at %s", text, limit, now, table.At(next), next)
		}
	})
}
