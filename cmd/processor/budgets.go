package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
)

const (
	// defaultAnswer bounds the answer of a request that has no bound of its own,
	// where neither the model's max_output nor a limit of the budget is lower.
	defaultAnswer = 4096
	// probableAnswer is what an answer without a bound is taken for where the
	// budget is not hard.
	probableAnswer = 512
	// maxDeferred bounds the requests that wait in the later stream; past it a
	// budget that defers rejects.
	maxDeferred = 100_000
)

// budgets keeps tenants within their budgets: it estimates what a call may be
// billed and asks the ledger.
type budgets struct {
	ledger      *budget.Ledger
	counter     *tokens.Counter
	calibration *calibration.Store
	models      *models
	metrics     *metrics
	deferred    func() int64 // requests that wait in the later stream

	counted sync.Map     // of call to the tokens that were counted for it
	learnt  atomic.Int64 // answers to tenants without a budget
}

// Limited implements generate.Budget.
func (b *budgets) Limited(tenant string) bool { return b.ledger.Limited(tenant) }

// Changed implements generate.Budget.
func (b *budgets) Changed(tenant string) <-chan struct{} { return b.ledger.Changed(tenant) }

// Waits implements generate.Budget: an answer in nanoseconds, but for counting,
// from the record as this process has heard of it. Only Reserve decides.
func (b *budgets) Waits(r *stages.Request, route generate.Route) bool {
	e, err := b.estimate(r, route)
	return err == nil && b.ledger.Check(r.Tenant, route.Model, e.amount) == budget.Wait
}

// Reserve implements generate.Budget.
func (b *budgets) Reserve(ctx context.Context, r *stages.Request, route generate.Route, call string) (generate.Grant, error) {
	e, err := b.estimate(r, route)
	if err != nil {
		return generate.Grant{State: generate.Refused, Denied: err}, nil //nolint:nilerr // the grant holds it
	}
	outcome := b.ledger.Reserve(ctx, []budget.Request{{
		Tenant: r.Tenant, ID: r.ID, Call: call, Model: route.Model, Estimate: e.amount,
	}})[0]
	switch outcome.State {
	case budget.Granted:
		b.counted.Store(call, e.counted)
		return generate.Grant{State: generate.Granted, Body: e.body, Parameters: e.parameters}, nil
	case budget.Wait:
		return generate.Grant{State: generate.InTheWay}, nil
	case budget.Denied:
		return b.denied(route, outcome.Denial), nil
	}
	return generate.Grant{}, outcome.Err
}

// denied says what the budget wants done with a request that does not fit.
func (b *budgets) denied(route generate.Route, d *budget.Denial) generate.Grant {
	grant := generate.Grant{State: generate.Refused, Denied: d.Err(time.Now())}
	reason := string(d.Window) + "_" + string(d.Unit)
	switch d.Action {
	case budget.Defer:
		if !d.ResetsAt.IsZero() && b.deferred() < maxDeferred {
			grant.State, grant.Defer = generate.Later, d.ResetsAt
			return grant
		}
	case budget.Downgrade:
		if cheaper, ok := b.models.cheaper(route.Model); ok {
			grant.State, grant.Instead = generate.Cheaper, cheaper
			return grant
		}
	}
	b.metrics.denials.WithLabelValues(reason).Inc()
	return grant
}

// Settle implements generate.Budget.
func (b *budgets) Settle(ctx context.Context, r *stages.Request, record generate.Record) error {
	if counted, ok := b.counted.LoadAndDelete(record.Call); ok && record.Usage.PromptTokens > 0 {
		b.calibration.Observe(record.Provider, record.Model, counted.(int), record.Usage.PromptTokens)
	}
	return b.ledger.Settle(ctx, []budget.Settlement{{
		Tenant: r.Tenant, ID: r.ID, Call: record.Call,
		Billed: budget.Amount{Tokens: billedTokens(record.Usage), Cost: budget.FromDollars(record.CostUSD)},
	}})
}

// learnEvery is how many answers to tenants without a budget there are for each
// that calibration learns from: counting takes time, and a budget may come later.
const learnEvery = 16

func (b *budgets) learn(r *stages.Request, record generate.Record) {
	if record.Usage.PromptTokens == 0 || b.Limited(r.Tenant) || b.learnt.Add(1)%learnEvery != 0 {
		return
	}
	if counted, err := b.count(r, record.Model); err == nil {
		b.calibration.Observe(record.Provider, record.Model, counted, record.Usage.PromptTokens)
	}
}

// Release implements generate.Budget.
func (b *budgets) Release(ctx context.Context, r *stages.Request, call string) error {
	b.counted.Delete(call)
	return b.ledger.Settle(ctx, []budget.Settlement{{Tenant: r.Tenant, ID: r.ID, Call: call, Released: true}})
}

// Forfeit implements generate.Budget.
func (b *budgets) Forfeit(ctx context.Context, r *stages.Request, route generate.Route, call string, usage schemas.Usage) error {
	b.counted.Delete(call)
	s := budget.Settlement{Tenant: r.Tenant, ID: r.ID, Call: call, Lost: true}
	if n := billedTokens(usage); n > 0 {
		s.Lost = false
		s.Billed = budget.Amount{Tokens: n, Cost: budget.FromDollars(b.models.cost(route.Model, usage))}
	}
	return b.ledger.Settle(ctx, []budget.Settlement{s})
}

func billedTokens(u schemas.Usage) int64 {
	return int64(max(u.TotalTokens, u.PromptTokens+u.CompletionTokens))
}

// estimate is what a call may be billed at most, or probably, and the body
// that keeps it to that.
type estimate struct {
	counted    int // of the prompt, before calibration
	amount     budget.Amount
	body       []byte // nil where the request's own will do
	parameters []byte
}

func (b *budgets) estimate(r *stages.Request, route generate.Route) (estimate, error) {
	counted, err := b.count(r, route.Model)
	if err != nil {
		return estimate{}, err
	}
	hard := b.ledger.Hard(r.Tenant)
	factor, high := b.calibration.Factors(route.Provider, route.Model)
	if hard {
		factor = high
	}
	prompt := int(math.Ceil(float64(counted) * factor))
	e := estimate{counted: counted}
	answer := 0
	if r.Kind == schemas.Chat {
		answer = b.answerBound(r, route.Model, prompt, hard, &e)
	}
	e.amount = budget.Amount{
		Tokens: int64(prompt) + int64(answer),
		Cost:   budget.FromDollars(b.models.cost(route.Model, schemas.Usage{PromptTokens: prompt, CompletionTokens: answer})),
	}
	return e, nil
}

func (b *budgets) count(r *stages.Request, model string) (int, error) {
	count := b.counter.Chat
	if r.Kind == schemas.Embeddings {
		count = b.counter.Embeddings
	}
	n, err := count(model, r.Body)
	if err != nil {
		return 0, fmt.Errorf("counting the tokens of request %s: %w", r.ID, err)
	}
	return n.Total(), nil
}

// answerBound gives the tokens of all answers that a request asks for. With a
// hard budget a request without a bound gets one, which the response shows.
func (b *budgets) answerBound(r *stages.Request, model string, prompt int, hard bool, e *estimate) int {
	n := max(1, number(r.Body, "n"))
	// Which of the two a provider goes by, where both are there, is its own affair.
	if bound := max(number(r.Body, "max_completion_tokens"), number(r.Body, "max_tokens")); bound > 0 {
		return saturate(n, bound)
	}
	if !hard {
		return saturate(n, probableAnswer)
	}
	bound := defaultAnswer
	if most := b.models.maxOutput(model); most > 0 {
		bound = min(bound, most)
	}
	if limit := b.perRequest(r.Tenant); limit > 0 {
		if left := (limit - prompt) / n; left > 0 {
			bound = min(bound, left)
		}
	}
	unbound := schemas.DeleteMember(r.Body, "max_tokens") // it bounds nothing: it is negative, or no number
	e.body = schemas.SetMember(unbound, "max_completion_tokens", strconv.AppendInt(nil, int64(bound), 10))
	e.parameters = fmt.Appendf(nil, `{"max_completion_tokens":%d}`, bound)
	return saturate(n, bound)
}

func saturate(n, bound int) int {
	if n > math.MaxInt32 || bound > math.MaxInt32 {
		return math.MaxInt32
	}
	return min(n*bound, math.MaxInt32)
}

// perRequest is the lowest limit of one request in tokens; 0 is none.
func (b *budgets) perRequest(tenant string) int {
	lowest := 0
	list, _ := b.ledger.Limits(tenant)
	for _, c := range list {
		if limit := int(c.PerRequestLimit); limit > 0 && (lowest == 0 || limit < lowest) {
			lowest = limit
		}
	}
	return lowest
}

// number reads a whole number from a body; 0 where there is none.
func number(body []byte, name string) int {
	span, ok := schemas.Member(body, name)
	var n float64
	if !ok || json.Unmarshal(span.Of(body), &n) != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int(math.Ceil(n))
}
