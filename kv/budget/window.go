package budget

import "time"

// Scope is the kind of a window.
type Scope string

// The kinds of windows.
const (
	Minute Scope = "minute"
	Hour   Scope = "hour"
	Day    Scope = "day"
	Month  Scope = "month"
	Total  Scope = "total"

	// perRequest is no window: the limit holds for every request alone.
	perRequest Scope = "request"
)

// Scopes lists the kinds of windows from the shortest to the longest.
var Scopes = []Scope{Minute, Hour, Day, Month, Total}

// span is one window: a stretch of time in Unix seconds, its end excluded. The
// end of Total is 0: it has none.
type span struct {
	scope      Scope
	start, end int64
}

func (s span) contains(unix int64) bool {
	return s.start <= unix && (unix < s.end || s.end == 0)
}

// over reports that the window has ended.
func (s span) over(unix int64) bool { return s.end != 0 && unix >= s.end }

// resetsAt is the end of the window; zero where there is none.
func (s span) resetsAt() time.Time {
	if s.end == 0 {
		return time.Time{}
	}
	return time.Unix(s.end, 0).UTC()
}

// spanAt gives the window of a scope that a moment lies in. Minutes and hours
// are cut by the zone's offset, so that an hour that the clock repeats is two
// windows; days and months are those of the calendar, of 23 to 25 hours a day.
func spanAt(scope Scope, zone *time.Location, now time.Time) span {
	local := now.In(zone)
	switch scope {
	case Minute:
		return cut(scope, local, 60)
	case Hour:
		return cut(scope, local, 3600)
	case Day:
		year, month, day := local.Date()
		return span{scope, midnight(year, month, day, zone), midnight(year, month, day+1, zone)}
	case Month:
		year, month, _ := local.Date()
		return span{scope, midnight(year, month, 1, zone), midnight(year, month+1, 1, zone)}
	default:
		return span{scope: Total}
	}
}

func cut(scope Scope, local time.Time, seconds int64) span {
	_, offset := local.Zone()
	wall := local.Unix() + int64(offset)
	start := wall - wall%seconds - int64(offset)
	return span{scope, start, start + seconds}
}

// midnight gives the first second of a day. Where the clock skips midnight,
// time.Date may give an hour of the day before.
func midnight(year int, month time.Month, day int, zone *time.Location) int64 {
	at := time.Date(year, month, day, 0, 0, 0, 0, zone)
	if want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Day(); at.Day() != want {
		at = at.Add(time.Hour)
	}
	return at.Unix()
}
