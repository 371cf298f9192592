package limit

import "time"

// Said is what a provider says in an answer's headers of one of its limits. A
// negative field is unknown.
type Said struct {
	Limit, Remaining int
	Reset            time.Duration // until all of it is available again
	At               time.Time     // when it said so
}

// allowance is what a provider says is left, which fills up as it says.
type allowance struct {
	left, most float64
	aSecond    float64
	at, said   time.Time
	known      bool
}

func (a *allowance) say(s Said) {
	if s.Remaining < 0 || s.Reset < 0 || !s.At.After(a.said) {
		return
	}
	a.said = s.At
	a.known, a.at, a.left, a.most = true, s.At, float64(s.Remaining), float64(max(s.Limit, s.Remaining, 1))
	a.aSecond = (a.most - a.left) / max(s.Reset.Seconds(), 0.001)
	if s.Limit < 0 { // all at once then
		a.aSecond = 1 / max(s.Reset.Seconds(), 0.001)
	}
}

// may tells whether n are left; if not, when they will be.
func (a *allowance) may(n float64, now time.Time) (ok bool, at time.Time) {
	if !a.known {
		return true, now
	}
	a.left = min(a.most, a.left+now.Sub(a.at).Seconds()*a.aSecond)
	a.at = now
	n = min(n, a.most)
	if a.left >= n || a.aSecond <= 0 {
		a.known = a.aSecond > 0
		return true, now
	}
	return false, now.Add(time.Duration((n-a.left)/a.aSecond*float64(time.Second)) + time.Millisecond)
}

func (a *allowance) take(n float64) {
	if a.known {
		a.left -= n
	}
}
