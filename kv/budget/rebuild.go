package budget

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nuid"

	"github.com/adpa/processor/schemas"
)

// Spend is what one stored response says was paid for it.
type Spend struct {
	Tenant string
	Time   time.Time // when the response was stored
	Model  string    // empty where the response does not name it
	Amount
}

// ReadSpend finds what was paid for a stored response, error responses
// included. paid is false where nothing was, as for an answer from the cache.
func ReadSpend(tenant string, stored time.Time, response []byte) (s Spend, paid bool, err error) {
	var body struct {
		Usage schemas.Usage `json:"usage"`
		About struct {
			Model    string `json:"model_requested"`
			Attempts int64  `json:"attempts"`
			Selected struct {
				Model string `json:"model"`
			} `json:"selected"`
			Cache string        `json:"cache"`
			Cost  float64       `json:"cost_usd"`
			Usage schemas.Usage `json:"usage"`
		} `json:"processor"`
	}
	if err := json.Unmarshal(response, &body); err != nil {
		return Spend{}, false, fmt.Errorf("reading a response: %w", err)
	}
	s = Spend{Tenant: tenant, Time: stored, Model: body.About.Selected.Model}
	if s.Model == "" {
		s.Model = body.About.Model
	}
	switch body.About.Cache {
	case "hit", "shared", "normalized":
		return s, false, nil
	}
	s.Tokens = int64(max(body.Usage.TotalTokens, body.About.Usage.TotalTokens))
	s.Cost = FromDollars(body.About.Cost)
	s.Requests = body.About.Attempts // all that were tried: not every one was billed
	s.Amount = s.Amount.clamp()
	return s, s.Amount != Amount{}, nil
}

// Difference is one sum of the ledger that the responses contradict.
type Difference struct {
	Tenant   string    `json:"tenant"`
	Window   Scope     `json:"window"`
	Start    time.Time `json:"start,omitzero"`
	Model    string    `json:"model,omitempty"` // empty for all models together
	Recorded Amount    `json:"recorded"`
	Rebuilt  Amount    `json:"rebuilt"`
	// Applied says that the ledger now holds Rebuilt. Sums are lowered only if
	// the tenant had nothing under way, whose response may not be stored yet.
	Applied bool `json:"applied"`
}

// Rebuild recomputes what is settled in the present windows from the stored
// responses, corrects the record, and gives every difference. from is since when
// the responses are complete; zero is for ever. What was lost stays charged.
//
// A window that began, or was last reset, before from can only be raised, to
// what the responses show at least. One that was reset counts the responses that
// were stored since: also that to a call which had settled by then. A tenant's sums are lowered only if nothing of it was open or
// changed meanwhile.
func (l *Ledger) Rebuild(ctx context.Context, from time.Time, spends iter.Seq2[Spend, error]) ([]Difference, error) {
	began := l.now()
	recounts := map[string]*recount{}
	var failure error
	l.each(func(t *tenantState) {
		r, err := t.read()
		if err != nil {
			failure = fmt.Errorf("rebuilding the budget of tenant %s: %w", t.name, err)
			return
		}
		recounts[t.name] = newRecount(t, r)
	})
	if failure != nil {
		return nil, failure
	}
	for s, err := range spends {
		if err != nil {
			return nil, fmt.Errorf("reading responses: %w", err)
		}
		if c := recounts[s.Tenant]; c != nil && s.Time.Before(began) {
			c.count(&s)
		}
	}
	var differences []Difference
	for _, c := range recounts {
		found, err := c.correct(ctx, from)
		if err != nil {
			return differences, fmt.Errorf("rebuilding the budget of tenant %s: %w", c.tenant.name, err)
		}
		differences = append(differences, found...)
	}
	slices.SortFunc(differences, compareDifferences)
	return differences, nil
}

// recount is one tenant's record as it was, and what the responses sum up to.
type recount struct {
	tenant *tenantState
	base   *record
	// sums are of the windows in base, in order: in Settled what the responses
	// say was paid, and in open.Requests how many responses do.
	sums []*window
}

func newRecount(t *tenantState, r *record) *recount {
	t.mu.Lock()
	rules := t.rules
	t.mu.Unlock()
	now := t.ledger.now()
	base := r.change()
	base.begin(rules.spans(now), rules.tracked)
	c := &recount{tenant: t, base: base}
	for _, w := range base.windows {
		sum := &window{span: w.span, resetAt: w.resetAt}
		for i := range w.models {
			sum.models = append(sum.models, modelAccount{model: w.models[i].model})
		}
		c.sums = append(c.sums, sum)
	}
	return c
}

func (c *recount) count(s *Spend) {
	for _, w := range c.sums {
		if !w.contains(s.Time.Unix()) || s.Time.UnixMilli() <= w.resetAt {
			continue
		}
		w.count(s)
		if a := w.model(s.Model); a != nil {
			a.count(s)
		}
	}
}

func (a *account) count(s *Spend) {
	a.Settled = a.Settled.plus(s.Amount)
	a.open.Requests++
}

// rebuilt is what an account should hold by the responses. What was lost stays
// charged, for they do not show it. Of calls they show only how many were tried,
// lost and unbilled ones among them: what the record holds is right if it is at
// least one a response and the lost ones, and at most those tried.
func (a *account) rebuilt(counted *account) Amount {
	sum := counted.Settled.plus(a.Lost)
	least := counted.open.Requests + a.Lost.Requests
	most := max(counted.Settled.Requests, least)
	sum.Requests = most
	if recorded := a.Settled.Requests; least <= recorded && recorded <= most {
		sum.Requests = recorded
	}
	return sum
}

// correct brings the record in line, by what the base differs from the sums.
func (c *recount) correct(ctx context.Context, from time.Time) (differences []Difference, err error) {
	operation := nuid.Next()
	err = c.tenant.do(ctx, 1, true, func(turn *turn) {
		turn.once(operation, func() bool {
			differences = nil
			idle := turn.revision == c.base.revision && len(turn.open) == 0
			for i, base := range c.base.windows {
				if w := turn.find(base.span); w != nil {
					differences = append(differences, c.correctWindow(w, base, c.sums[i], idle, base.countedSince() >= from.UnixMilli())...)
				}
			}
			return slices.ContainsFunc(differences, func(d Difference) bool { return d.Applied })
		})
	})
	return differences, err
}

// countedSince is when the window's sums began at zero, in Unix milliseconds.
func (w *window) countedSince() int64 { return max(w.start*1000, w.resetAt) }

func (c *recount) correctWindow(w, base, counted *window, idle, covered bool) (found []Difference) {
	check := func(model string, now, base, counted *account) {
		rebuilt := base.rebuilt(counted)
		if !covered {
			rebuilt = rebuilt.atLeast(base.Settled)
		}
		if now == nil || rebuilt == base.Settled {
			return
		}
		d := Difference{Tenant: c.tenant.name, Window: w.scope, Model: model, Recorded: base.Settled, Rebuilt: rebuilt}
		if w.end != 0 {
			d.Start = time.Unix(w.start, 0).UTC()
		}
		if d.Applied = idle || rebuilt == rebuilt.atLeast(base.Settled); d.Applied {
			now.Settled = now.Settled.plus(rebuilt).minus(base.Settled)
		}
		found = append(found, d)
	}
	check("", &w.account, &base.account, &counted.account)
	for k := range base.models {
		m := &base.models[k]
		check(m.model, w.model(m.model), &m.account, &counted.models[k].account)
	}
	return found
}

func compareDifferences(a, b Difference) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), a.Start.Compare(b.Start), cmp.Compare(a.Window, b.Window), cmp.Compare(a.Model, b.Model))
}
