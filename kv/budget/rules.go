package budget

import (
	"math/bits"
	"slices"
	"time"
)

// rules are the limits of one tenant. They are immutable.
type rules struct {
	configs []Config
	each    []perRequestLimit
	limits  []limit
	cuts    []windowKind // the windows that the limits need, each once
	tracked []string     // models that an allocation names, sorted
	hard    bool
}

// windowKind is a kind of window in a time zone.
type windowKind struct {
	scope Scope
	zone  *time.Location
}

// perRequestLimit bounds the estimate of one request.
type perRequestLimit struct {
	unit   Unit
	max    int64
	action Action
}

// limit bounds what is used in a window.
type limit struct {
	unit   Unit
	max    int64
	cut    int // its window, as an index into cuts
	kept   []keptShare
	action Action
}

// keptShare is the part of a limit that only one model may use.
type keptShare struct {
	model string
	share int64
}

// compile makes the rules of a tenant from its valid budgets.
func compile(configs []Config) *rules {
	r := &rules{configs: configs}
	for i := range configs {
		r.add(&configs[i])
	}
	slices.Sort(r.tracked)
	r.tracked = slices.Compact(r.tracked)
	return r
}

func (r *rules) add(c *Config) {
	zone, err := location(c.TimeZone)
	if err != nil {
		zone = time.UTC // not reached: the budgets are valid
	}
	r.hard = r.hard || c.Hard
	for model := range c.Allocation {
		r.tracked = append(r.tracked, model)
	}
	for _, f := range c.fields() {
		switch {
		case f.value == 0:
		case f.scope == perRequest:
			r.each = append(r.each, perRequestLimit{f.unit, f.value, c.OnExhausted})
		default:
			r.limits = append(r.limits, limit{f.unit, f.value, r.cut(f.scope, zone), shares(c, f), c.OnExhausted})
		}
	}
}

// cut finds or adds a kind of window. Total is the same in every zone.
func (r *rules) cut(scope Scope, zone *time.Location) int {
	for i, k := range r.cuts {
		if k.scope == scope && (scope == Total || k.zone.String() == zone.String()) {
			return i
		}
	}
	r.cuts = append(r.cuts, windowKind{scope, zone})
	return len(r.cuts) - 1
}

// shares divides a limit by the allocation, rounding down.
func shares(c *Config, f field) []keptShare {
	if f.unit == Requests {
		return nil
	}
	var kept []keptShare
	for model, share := range c.Allocation {
		high, low := bits.Mul64(uint64(f.value), uint64(parts(share)))
		part, _ := bits.Div64(high, low, shareParts)
		kept = append(kept, keptShare{model, int64(part)})
	}
	return kept
}

// spans gives the windows of now, by the index of their kind.
func (r *rules) spans(now time.Time) []span {
	spans := make([]span, len(r.cuts))
	for i, k := range r.cuts {
		spans[i] = spanAt(k.scope, k.zone, now)
	}
	return spans
}

func (r *rules) empty() bool { return r == nil || len(r.limits)+len(r.each) == 0 }

// judge says whether one more call fits a limit, given its window; w may be nil,
// which is a window that nothing used yet.
//
// settled + estimate over the limit refuses, for nothing that is open can change
// it; open reservations in the way mean waiting, for they shrink when they settle.
// What other models have not used of their shares counts as taken.
func (l *limit) judge(w *window, model string, estimate Amount) State {
	need := estimate.in(l.unit)
	if need == 0 {
		return Granted
	}
	var settled, used int64
	if w != nil {
		settled = w.Settled.in(l.unit)
		used = settled + w.open.in(l.unit)
	}
	keptSettled, keptUsed := l.keptFromOthers(w, model)
	switch {
	case settled+keptSettled+need > l.max:
		return Denied
	case used+keptUsed+need > l.max:
		return Wait
	}
	return Granted
}

// keptFromOthers sums what the other models' shares still keep: once what is
// settled is counted, once what is open as well.
func (l *limit) keptFromOthers(w *window, model string) (bySettled, byUsed int64) {
	for _, k := range l.kept {
		if k.model == model {
			continue
		}
		var settled, used int64
		if a := w.model(k.model); a != nil {
			settled = a.Settled.in(l.unit)
			used = settled + a.open.in(l.unit)
		}
		bySettled += max(0, k.share-settled)
		byUsed += max(0, k.share-used)
	}
	return bySettled, byUsed
}

// fitsNever reports that the call would not fit even if nothing had been used.
func (l *limit) fitsNever(model string, estimate Amount) bool {
	return l.judge(nil, model, estimate) == Denied
}
