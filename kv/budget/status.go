package budget

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nuid"

	"github.com/adpa/processor/internal/jsx"
)

// Quantity is an amount of one unit. In JSON it is a number: of tokens, of
// requests or, exactly, of US dollars.
type Quantity struct {
	Unit Unit
	N    int64 // of Dollars in nano-dollars
}

// MarshalJSON writes the number.
func (q Quantity) MarshalJSON() ([]byte, error) {
	if q.Unit == Dollars {
		return USD(q.N).MarshalJSON()
	}
	return strconv.AppendInt(nil, q.N, 10), nil
}

// String writes the quantity as people read it: $12.5, 1200 tokens, 1 request.
func (q Quantity) String() string {
	switch {
	case q.Unit == Dollars:
		return "$" + USD(q.N).String()
	case q.N == 1:
		return "1 " + string(q.Unit[:len(q.Unit)-1])
	}
	return fmt.Sprintf("%d %s", q.N, q.Unit)
}

// Status is one limit of a tenant and what is used of it.
type Status struct {
	Tenant      string        `json:"tenant"`
	Window      Scope         `json:"window"` // request for a limit of one request
	Unit        Unit          `json:"unit"`
	Limit       Quantity      `json:"limit"`
	Settled     Quantity      `json:"settled"` // for good, with what is lost
	Open        Quantity      `json:"open"`    // reserved by calls under way
	Lost        Quantity      `json:"lost"`    // settled at the estimate, for calls whose outcome is unknown
	ResetsAt    time.Time     `json:"resets_at,omitzero"`
	Models      []ModelStatus `json:"models,omitempty"`
	OnExhausted Action        `json:"on_exhausted"`
	Set         bool          `json:"set,omitzero"` // at run time, not by the configuration
}

// ModelStatus is a model's share of a limit and what it used.
type ModelStatus struct {
	Model   string   `json:"model"`
	Share   Quantity `json:"share"`
	Settled Quantity `json:"settled"`
	Open    Quantity `json:"open"`
}

// List gives every limit of a tenant, or of all of them where tenant is empty,
// as this process knows it. It is ordered by tenant, then as configured.
func (l *Ledger) List(tenant string) []Status {
	var list []Status
	l.each(func(t *tenantState) {
		if tenant == "" || t.name == tenant {
			list = append(list, t.status()...)
		}
	})
	slices.SortStableFunc(list, func(a, b Status) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return list
}

// Tenants gives, in order, the tenants that this process knows to have a budget,
// or to have used something under one.
func (l *Ledger) Tenants() []string {
	var names []string
	l.each(func(t *tenantState) { names = append(names, t.name) })
	slices.Sort(names)
	return names
}

func (t *tenantState) status() []Status {
	t.mu.Lock()
	rules, known, set := t.rules, t.known, t.set != nil
	t.mu.Unlock()
	var list []Status
	for _, l := range rules.each {
		list = append(list, Status{Tenant: t.name, Window: perRequest, Unit: l.unit, Limit: Quantity{l.unit, l.max},
			Settled: Quantity{Unit: l.unit}, Open: Quantity{Unit: l.unit}, Lost: Quantity{Unit: l.unit},
			OnExhausted: l.onRequest(), Set: set})
	}
	spans := rules.spans(t.ledger.now())
	for i := range rules.limits {
		l := &rules.limits[i]
		s := l.status(spans[l.cut], known.find(spans[l.cut]))
		s.Tenant, s.Set = t.name, set
		list = append(list, s)
	}
	return list
}

func (l *limit) status(s span, w *window) Status {
	if w == nil {
		w = &window{span: s}
	}
	in := func(a Amount) Quantity { return Quantity{l.unit, a.in(l.unit)} }
	status := Status{Window: s.scope, Unit: l.unit, Limit: Quantity{l.unit, l.max},
		Settled: in(w.Settled), Open: in(w.open), Lost: in(w.Lost), ResetsAt: s.resetsAt(), OnExhausted: l.action}
	for _, k := range l.kept {
		m := ModelStatus{Model: k.model, Share: Quantity{l.unit, k.share}, Settled: in(Amount{}), Open: in(Amount{})}
		if a := w.model(k.model); a != nil {
			m.Settled, m.Open = in(a.Settled), in(a.open)
		}
		status.Models = append(status.Models, m)
	}
	slices.SortFunc(status.Models, func(a, b ModelStatus) int { return cmp.Compare(a.Model, b.Model) })
	return status
}

// ErrNoBudget is a tenant that has no budget.
var ErrNoBudget = errors.New("the tenant has no budget")

// Reset takes back to zero what is settled in a tenant's present windows of the
// given scopes, of all if none is given. What is open stays open and settles as
// usual. Rebuild counts such a window from then on.
func (l *Ledger) Reset(ctx context.Context, tenant string, scopes ...Scope) error {
	t := l.find(tenant)
	if t == nil {
		return fmt.Errorf("resetting the budget of %.70q: %w", tenant, ErrNoBudget)
	}
	operation := nuid.Next()
	err := t.do(ctx, 1, true, func(turn *turn) {
		turn.once(operation, func() bool {
			for _, w := range turn.windows {
				if w.contains(turn.now.Unix()) && (len(scopes) == 0 || slices.Contains(scopes, w.scope)) {
					w.reset(turn.now)
				}
			}
			return true
		})
	})
	if err != nil {
		return fmt.Errorf("resetting the budget of tenant %s: %w", tenant, err)
	}
	return nil
}

func (w *window) reset(now time.Time) {
	w.resetAt = now.UnixMilli()
	w.account = account{open: w.open}
	for i := range w.models {
		w.models[i].account = account{open: w.models[i].open}
	}
	w.warned = nil
}

// Used is what a tenant's calls of one model used on one day.
type Used struct {
	Tenant string `json:"tenant"`
	Date   string `json:"date"` // of UTC, as 2026-11-23
	Model  string `json:"model"`
	Amount
	Lost Amount `json:"lost,omitzero"` // of it, for calls whose outcome is unknown
}

// Usage gives what a tenant used by day and model, as far back as it is kept,
// which is 400 days, ordered by day and model.
func (l *Ledger) Usage(ctx context.Context, tenant string) ([]Used, error) {
	r, err := readRecord(ctx, l.budgets, tenant)
	if err != nil {
		return nil, fmt.Errorf("reading the usage of tenant %s: %w", tenant, err)
	}
	days, err := l.pastDays(ctx, tenant)
	if err != nil {
		return nil, err
	}
	for _, d := range r.past {
		days[d.date] = d
	}
	if r.today != nil {
		days[r.today.date] = r.today
	}
	var list []Used
	for _, date := range slices.Sorted(maps.Keys(days)) {
		for _, model := range slices.Sorted(maps.Keys(days[date].models)) {
			a := days[date].models[model]
			list = append(list, Used{Tenant: tenant, Date: date, Model: model, Amount: a.Settled, Lost: a.Lost})
		}
	}
	return list, nil
}

// pastDays reads the days that were put aside.
func (l *Ledger) pastDays(ctx context.Context, tenant string) (map[string]*day, error) {
	days := map[string]*day{}
	var damaged error
	stop, err := jsx.Watch(ctx, l.js, jsx.WatchConfig{Bucket: l.budgets.name, Filter: tenant + ".*", Apply: func(e jsx.Entry) {
		if e.Deleted {
			return
		}
		d, err := decodeDay(e.Value)
		if err != nil {
			damaged = fmt.Errorf("reading the usage under %s: %w", e.Key, err)
			return
		}
		days[d.date] = d
	}})
	if err != nil {
		return nil, fmt.Errorf("reading the past usage of tenant %s: %w", tenant, err)
	}
	stop()
	return days, damaged
}
