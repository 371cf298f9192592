package budget

import (
	"math/bits"
	"slices"
	"time"
)

// warnAt lists the shares of a limit, in percent, that are announced.
var warnAt = []int{50, 80, 100}

// maxWarned bounds the limits that a window remembers the warnings of: limits
// that are set at run time may be many over the life of a window.
const maxWarned = 64

// nearlyAll is the share from which on a refused request means that the limit
// is exhausted: what is left is less than a request takes.
const nearlyAll = 80

// Event is a warning that a budget is used up to a share, published once a
// window on <prefix>.events.<tenant>, at most once.
type Event struct {
	Type     string    `json:"type"` // budget_warning
	Tenant   string    `json:"tenant"`
	Percent  int       `json:"percent"` // 50, 80 or 100
	Window   Scope     `json:"window"`
	Unit     Unit      `json:"unit"`
	Limit    any       `json:"limit"` // in the unit; US dollars as a number of dollars
	Used     any       `json:"used"`
	ResetsAt time.Time `json:"resets_at,omitzero"`
	At       time.Time `json:"at"`
}

// warn notes the shares that were passed since the last warning, so that they
// are announced once the record is written.
func (t *turn) warn(tenant string) {
	if !t.changed && len(t.refused) == 0 {
		return
	}
	for i := range t.rules.limits {
		l := &t.rules.limits[i]
		w := t.find(t.spans[l.cut])
		used := w.Settled.in(l.unit)
		percent := percentOf(used, l.max)
		if percent >= nearlyAll && slices.Contains(t.refused, l) {
			percent = 100
		}
		for _, share := range w.raise(l, percent) {
			t.changed = true
			t.events = append(t.events, Event{Type: "budget_warning", Tenant: tenant, Percent: share,
				Window: w.scope, Unit: l.unit, Limit: l.unit.show(l.max), Used: l.unit.show(used),
				ResetsAt: w.resetsAt(), At: t.now.UTC()})
		}
	}
}

// raise marks a limit as announced up to a percentage and gives the shares that
// are to be announced for it.
func (w *window) raise(l *limit, percent int) (passed []int) {
	at := slices.IndexFunc(w.warned, func(x warning) bool { return x.unit == l.unit && x.limit == l.max })
	for _, share := range warnAt {
		if percent >= share && (at < 0 || w.warned[at].percent < share) {
			passed = append(passed, share)
		}
	}
	switch {
	case len(passed) == 0:
	case at < 0:
		w.warned = w.warned[max(0, len(w.warned)+1-maxWarned):]
		w.warned = append(w.warned, warning{l.unit, l.max, passed[len(passed)-1]})
	default:
		w.warned[at].percent = passed[len(passed)-1]
	}
	return passed
}

// percentOf gives the share of a limit in percent, at most 100, rounded down.
func percentOf(used, limit int64) int {
	high, low := bits.Mul64(uint64(min(used, limit)), 100)
	percent, _ := bits.Div64(high, low, uint64(limit))
	return int(percent)
}
