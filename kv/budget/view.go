package budget

import "time"

// view is what a process knows of a tenant, for answers without a round trip.
// It is immutable.
type view struct {
	rules   *rules
	cells   []cell
	limited bool  // there are limits, or reservations from when there were
	full    bool  // no reservation can be added before one settles
	soonest int64 // Unix ms from which on a reservation may be reaped; 0 never
}

// cell is a limit with the window that it had when the view was made.
type cell struct {
	limit  *limit
	span   span
	window *window // nil if nothing was used in it
}

func newView(r *record, rules *rules, b bounds, now time.Time) *view {
	v := &view{
		rules: rules, cells: make([]cell, len(rules.limits)),
		limited: !rules.empty() || len(r.open) > 0, full: r.full(b) && !rules.empty(), soonest: r.soonest(),
	}
	spans := rules.spans(now)
	for i := range rules.limits {
		l := &rules.limits[i]
		s := spans[l.cut]
		v.cells[i] = cell{l, s, r.find(s)}
	}
	return v
}

// check says what a reservation would probably be answered.
func (v *view) check(model string, estimate Amount, now time.Time) State {
	estimate.Requests = 1
	for i := range v.rules.each {
		if l := &v.rules.each[i]; estimate.in(l.unit) > l.max {
			return Denied
		}
	}
	state, unix := Granted, now.Unix()
	if v.full {
		state = Wait
	}
	for i := range v.cells {
		c := &v.cells[i]
		w := c.window
		if c.span.over(unix) {
			w = nil // a new window has begun since
		}
		switch c.limit.judge(w, model, estimate) {
		case Denied:
			return Denied
		case Wait:
			state = Wait
		}
	}
	if state == Wait && v.soonest != 0 && now.UnixMilli() > v.soonest {
		return Granted // a reservation is to be reaped, which trying does
	}
	return state
}
