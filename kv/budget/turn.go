package budget

import (
	"slices"
	"time"
)

// turn is one attempt to apply operations to a copy of a record.
type turn struct {
	*record
	rules   *rules
	spans   []span
	now     time.Time
	numbers []int // of the windows that a reservation made now counts in
	bounds  bounds

	changed bool // the record is to be written
	unsure  bool // something was decided that only a fresh record may decide
	refused []*limit
	events  []Event
}

// bounds is what a record may grow to.
type bounds struct {
	open  int // entries
	bytes int
}

func newTurn(base *record, rules *rules, now time.Time, b bounds) *turn {
	t := &turn{record: base.change(), rules: rules, spans: rules.spans(now), now: now, bounds: b}
	t.sweep(now.Unix())
	t.begin(t.spans, rules.tracked)
	t.numbers = t.current(now.Unix())
	return t
}

// reap forfeits the reservations whose time is over.
func (t *turn) reap() {
	date, now := dateOf(t.now), t.now.UnixMilli()
	for id, e := range t.open {
		if e.until < now {
			t.forfeit(id, e, date)
			t.changed = true
		}
	}
}

// reserve decides on one request. Applied again after a write whose outcome is
// unknown, it finds its call open and does nothing.
func (t *turn) reserve(r *Request) Outcome {
	if e := t.open[r.ID]; e != nil {
		if e.call == r.Call {
			t.unsure = true
			return Outcome{State: Granted}
		}
		// Whoever made the other call is gone, and what became of it is unknown.
		t.forfeit(r.ID, e, dateOf(t.now))
		t.changed = true
	}
	if denial := t.perRequest(r); denial != nil {
		return Outcome{State: Denied, Denial: denial}
	}
	state, denial := t.judge(r)
	if state == Denied {
		t.unsure = true
		return Outcome{State: Denied, Denial: denial}
	}
	if state == Wait || t.full(t.bounds) {
		t.unsure = true
		return Outcome{State: Wait}
	}
	t.add(r.ID, &entry{call: r.Call, model: r.Model, estimate: r.estimate(), windows: t.numbers, until: r.Until.UnixMilli()})
	t.changed = true
	return Outcome{State: Granted}
}

func (t *turn) perRequest(r *Request) *Denial {
	for _, l := range t.rules.each {
		if need := r.Estimate.in(l.unit); need > l.max {
			return &Denial{Tenant: r.Tenant, Model: r.Model, Window: perRequest, Unit: l.unit,
				Limit: l.max, Estimate: need, Action: l.onRequest()}
		}
	}
	return nil
}

// onRequest is what to do with a request that is too large by itself: waiting
// never helps, and another model helps only if it is cheaper.
func (l *perRequestLimit) onRequest() Action {
	if l.action == Downgrade && l.unit == Dollars {
		return Downgrade
	}
	return Reject
}

// judge asks every limit. Of those that refuse, the one that resets last counts,
// since before that the request cannot pass.
func (t *turn) judge(r *Request) (State, *Denial) {
	state := Granted
	var denial *Denial
	for i := range t.rules.limits {
		l := &t.rules.limits[i]
		s := t.spans[l.cut]
		w := t.find(s)
		switch l.judge(w, r.Model, r.estimate()) {
		case Denied:
			d := l.denial(s, w, r)
			t.refuse(l)
			if denial == nil || d.after(denial) {
				denial = d
			}
			state = Denied
		case Wait:
			if state == Granted {
				state = Wait
			}
		}
	}
	return state, denial
}

// refuse notes that a limit refused a request.
func (t *turn) refuse(l *limit) {
	if !slices.Contains(t.refused, l) {
		t.refused = append(t.refused, l)
	}
}

func (l *limit) denial(s span, w *window, r *Request) *Denial {
	d := &Denial{Tenant: r.Tenant, Model: r.Model, Window: s.scope, Unit: l.unit, Limit: l.max,
		Used: w.Settled.in(l.unit), Estimate: r.estimate().in(l.unit), ResetsAt: s.resetsAt(), Action: l.action}
	if kept, _ := l.keptFromOthers(w, r.Model); kept > 0 {
		d.Kept = kept
	}
	if d.Action == Defer && (s.end == 0 || l.fitsNever(r.Model, r.estimate())) {
		d.Action = Reject // no reset lets it pass
	}
	return d
}

// once runs an operator's change unless it was written before: unlike
// reservations and settlements, it does not show in the record by itself.
func (t *turn) once(operation string, change func() (changed bool)) {
	t.unsure = true
	if t.operation != operation && change() {
		t.operation, t.changed = operation, true
	}
}

// settle ends a reservation, if that call is open. It reports whether it was.
func (t *turn) settle(s *Settlement) bool {
	e := t.open[s.ID]
	if e == nil || e.call != s.Call {
		t.unsure = true
		return false
	}
	t.changed = true
	if s.Lost {
		t.forfeit(s.ID, e, dateOf(t.now))
		return true
	}
	t.close(s.ID, e, s.billed(), dateOf(t.now))
	return true
}
