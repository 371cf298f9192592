package budget

import (
	"maps"
	"slices"
	"time"
)

const (
	// skew is how far the clocks of replicas may differ: a window is kept this
	// long past its end, in seconds, so that no slow clock begins it anew.
	skew = 60
	// maxModels bounds the models that a day's usage names; the rest count
	// together as otherModels.
	maxModels   = 100
	otherModels = "(other)"
	// maxWindows is more than the windows that a moment can lie in: those of
	// every scope in the time zones of all budgets, and of limits that were changed.
	maxWindows = 10 * maxBudgets
	// maxPast bounds the days that wait to be put aside.
	maxPast = 3
)

// record is a tenant's ledger as the bucket holds it. Records that were read or
// written are immutable; change makes a copy to work on.
type record struct {
	revision uint64 // of the bucket's message; 0 where there is none
	next     int    // the number of the next window
	windows  []*window
	open     map[string]*entry // by request id
	today    *day              // what was used by model on the newest day
	past     []*day            // earlier days that are not put aside yet
	// operation is the id of the last change that an operator made, so that
	// trying again after a lost answer does not make it twice.
	operation string
	size      int // what the open entries take encoded at most, in bytes
}

// window is what was used in a stretch of time.
type window struct {
	span
	number int // what entries call it
	account
	models  []modelAccount // the models that an allocation names
	resetAt int64          // when it was last reset, Unix milliseconds; 0 if it never was
	warned  []warning
}

// account is what was used: settled for good, of which lost was charged for
// calls whose outcome is unknown; and open, which is the sum of the entries.
type account struct {
	Settled, Lost, open Amount
}

type modelAccount struct {
	model string
	account
}

// warning is the highest percentage of a limit that was announced.
type warning struct {
	unit    Unit
	limit   int64
	percent int
}

// entry is an open reservation. It is immutable.
type entry struct {
	call     string
	model    string
	estimate Amount
	windows  []int // the numbers of the windows that it counts in
	until    int64 // Unix ms after which the call is surely over
}

// day is what one UTC day used by model.
type day struct {
	date   string // 2026-11-23
	models map[string]account
}

// change makes a copy that may be changed.
func (r *record) change() *record {
	c := *r
	c.open = maps.Clone(r.open)
	if c.open == nil {
		c.open = map[string]*entry{}
	}
	c.windows = make([]*window, len(r.windows))
	for i, w := range r.windows {
		copied := *w
		copied.models = slices.Clone(w.models)
		copied.warned = slices.Clone(w.warned)
		c.windows[i] = &copied
	}
	if r.today != nil {
		c.today = &day{r.today.date, maps.Clone(r.today.models)}
	}
	c.past = slices.Clone(r.past)
	return &c
}

// find gives the window of a span, or nil.
func (r *record) find(s span) *window {
	for _, w := range r.windows {
		if w.span == s {
			return w
		}
	}
	return nil
}

func (r *record) numbered(number int) *window {
	for _, w := range r.windows {
		if w.number == number {
			return w
		}
	}
	return nil
}

// begin makes sure that the windows of the rules are there, with an account for
// each model that an allocation names.
func (r *record) begin(spans []span, tracked []string) {
	for _, s := range spans {
		w := r.find(s)
		if w == nil {
			r.next++
			w = &window{span: s, number: r.next}
			r.windows = append(r.windows, w)
		}
		for _, model := range tracked {
			if w.model(model) == nil {
				w.models = append(w.models, modelAccount{model, account{open: r.openOf(w.number, model)}})
			}
		}
	}
}

// openOf sums what is open of a model in a window.
func (r *record) openOf(number int, model string) (sum Amount) {
	for _, e := range r.open {
		if e.model == model && slices.Contains(e.windows, number) {
			sum = sum.plus(e.estimate)
		}
	}
	return sum
}

// current lists the numbers of the windows that now lies in: those of the
// rules, and those that a replica with other limits began.
func (r *record) current(unix int64) []int {
	var numbers []int
	for _, w := range r.windows {
		if w.contains(unix) {
			numbers = append(numbers, w.number)
		}
	}
	return numbers
}

// model gives the account of a model that an allocation names, or nil.
func (w *window) model(name string) *account {
	if w == nil {
		return nil
	}
	for i := range w.models {
		if w.models[i].model == name {
			return &w.models[i].account
		}
	}
	return nil
}

// add opens a reservation.
func (r *record) add(id string, e *entry) {
	r.open[id] = e
	r.size += e.size(id)
	r.book(e, func(a *account) { a.open = a.open.plus(e.estimate) })
}

// close ends a reservation, charging what was billed.
func (r *record) close(id string, e *entry, billed Amount, date string) {
	r.remove(id, e)
	r.book(e, func(a *account) {
		a.open = a.open.minus(e.estimate)
		a.Settled = a.Settled.plus(billed)
	})
	r.use(date, e.model, account{Settled: billed})
}

// forfeit ends a reservation whose outcome is unknown, charging its estimate.
func (r *record) forfeit(id string, e *entry, date string) {
	r.remove(id, e)
	r.book(e, func(a *account) {
		a.open = a.open.minus(e.estimate)
		a.Settled = a.Settled.plus(e.estimate)
		a.Lost = a.Lost.plus(e.estimate)
	})
	r.use(date, e.model, account{Settled: e.estimate, Lost: e.estimate})
}

func (r *record) remove(id string, e *entry) {
	delete(r.open, id)
	r.size -= e.size(id)
}

// book changes every account that a reservation counts in. A window that has
// been swept since counts no more.
func (r *record) book(e *entry, change func(*account)) {
	for _, number := range e.windows {
		w := r.numbered(number)
		if w == nil {
			continue
		}
		change(&w.account)
		if a := w.model(e.model); a != nil {
			change(a)
		}
	}
}

// use adds to the usage of a day. A date before the newest day counts in the
// newest, so that a day that is past never changes again.
func (r *record) use(date, model string, used account) {
	switch {
	case r.today == nil:
		r.today = &day{date, map[string]account{}}
	case date > r.today.date:
		r.past = append(r.past, r.today)
		r.past = r.past[max(0, len(r.past)-maxPast):]
		r.today = &day{date, map[string]account{}}
	}
	models := r.today.models
	if _, known := models[model]; !known && len(models) >= maxModels {
		model = otherModels
	}
	sum := models[model]
	models[model] = account{Settled: sum.Settled.plus(used.Settled), Lost: sum.Lost.plus(used.Lost)}
}

// sweep drops the windows that are over on every clock.
func (r *record) sweep(unix int64) {
	r.windows = slices.DeleteFunc(r.windows, func(w *window) bool {
		return w.over(unix - skew)
	})
}

// soonest gives the Unix ms at which the first reservation may be reaped; 0 if none is open.
func (r *record) soonest() (ms int64) {
	for _, e := range r.open {
		if ms == 0 || e.until < ms {
			ms = e.until
		}
	}
	return ms
}

func dateOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }
