package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/limit"
)

// openLimits opens what keeps calls within what the providers take: in this
// process, and in a minute over all replicas.
func (d *deps) openLimits(ctx context.Context, registry prometheus.Registerer) error {
	rates, err := kv.NewRates(ctx, d.js, bucketLayout(d.cfg))
	if err != nil {
		return err
	}
	d.closers = append(d.closers, rates.Close)
	workers := d.cfg.Pipeline.Workers[stages.Generate]
	d.allowances = map[string]*kv.Allowance{}
	var list []limit.Config
	for _, p := range d.cfg.ProviderList() {
		c := limit.Config{Name: p.Name, MaxConnections: p.MaxConnections, Gathers: gathers(p)}
		if _, pooled := d.models.providers[p.Name].(providers.Pooled); !pooled {
			c.MaxConnections = workers // it has no connections
		}
		if len(d.cfg.Providers) > 0 { // without a limit too, for it may get one
			d.allowances[p.Name] = rates.Allowance(calibration.EscapeName(p.Name), p.RequestsPerMinute, p.TokensPerMinute)
			c.Rate = d.allowances[p.Name]
		}
		list = append(list, c)
	}
	warming, stop := context.WithCancel(context.WithoutCancel(ctx))
	var warm sync.WaitGroup
	warm.Go(func() { d.models.warm(warming) })
	d.closers = append(d.closers, func() { stop(); warm.Wait() })
	d.limits = limit.New(list)
	d.models.places.limits = d.limits
	d.closers = append(d.closers, d.limits.Close)
	if registry != nil {
		registry.MustRegister(newLimitFigures(d.limits, d.models.named))
	}
	return nil
}

// timeouts gives how long requests may go from one model to the next: where an
// attempt has a timeout of its own, that of its provider.
func timeouts(cfg config.Config) func(provider string) time.Duration {
	by := map[string]time.Duration{}
	for _, p := range cfg.ProviderList() {
		if p.AttemptTimeout > 0 && p.AttemptTimeout < p.Timeout {
			by[p.Name] = p.Timeout
		}
	}
	return func(provider string) time.Duration { return by[provider] }
}

// callTokens estimates what a call may use of what its provider allows in a
// minute. Where nothing bounds that, it is not counted.
func (d *deps) callTokens(r *stages.Request, route generate.Route) int {
	list := d.settings().Providers
	at := slices.IndexFunc(list, func(p providers.Config) bool { return p.Name == route.Provider })
	if at < 0 || list[at].TokensPerMinute == 0 {
		return 0
	}
	e, err := d.budgets.estimate(r, route)
	if err != nil {
		return 0 // the provider will say what is wrong with it
	}
	return int(e.amount.Tokens)
}

// said gives what a provider has last said of its own limits.
func (m *models) said(route generate.Route) (calls, tokens limit.Said, said bool) {
	limited, ok := m.providers[route.Provider].(providers.Limited)
	if !ok {
		return calls, tokens, false
	}
	l, said := limited.Limits(route.Model)
	calls = limit.Said{Limit: l.LimitRequests, Remaining: l.RemainingRequests, Reset: l.ResetRequests, At: l.At}
	tokens = limit.Said{Limit: l.LimitTokens, Remaining: l.RemainingTokens, Reset: l.ResetTokens, At: l.At}
	return calls, tokens, said
}

// fallbacks are the models to take instead of one, in the order in which its entry names them.
func (m *models) fallbacks(model string) []generate.Route {
	t := m.table.Load()
	at := t.index(model)
	if at < 0 || len(t.list[at].Fallback) == 0 {
		return nil
	}
	var list []generate.Route
	for _, name := range t.list[at].Fallback {
		provider := m.only
		if i := t.index(name); i >= 0 && t.list[i].Provider != "" {
			provider = t.list[i].Provider
		}
		if caller, ok := m.callers[provider]; ok {
			list = append(list, generate.Route{Model: name, Provider: provider, Because: "fallback of " + model, Caller: caller})
		}
	}
	return list
}

// warmTimeout bounds the wait for a provider that does not answer.
const warmTimeout = 10 * time.Second

// warm opens a connection to each provider ahead of the first calls. What goes
// wrong the first calls tell.
func (m *models) warm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	for _, p := range m.providers {
		if checker, ok := p.(providers.Checker); ok {
			_ = checker.Warm(ctx, 1)
		}
	}
}

// limitFigures shows the state of the limits when it is asked. Models that the
// configuration does not name are one: applications may name any.
type limitFigures struct {
	limits *limit.Limiter
	named  func(model string) bool // by the configuration

	limit, inFlight, waiting, breaker, retries, refusals, opened *prometheus.Desc
}

// otherModels stands for all models without an entry.
const otherModels = "other"

func newLimitFigures(limits *limit.Limiter, named func(model string) bool) *limitFigures {
	c := &limitFigures{limits: limits, named: named}
	for _, d := range []struct {
		to         **prometheus.Desc
		name, help string
	}{
		{&c.limit, "in_flight_limit", "Calls that a model may have in flight now."},
		{&c.inFlight, "in_flight", "Calls in flight."},
		{&c.waiting, "waiting", "Requests that wait in memory for a place."},
		{&c.breaker, "breaker_state", "State of a model's circuit breaker: 0 closed, 1 half open, 2 open."},
		{&c.retries, "retries_total", "Calls for requests that had failed before."},
		{&c.refusals, "refusals_total", "Calls that the provider refused for its limits."},
		{&c.opened, "breaker_opened_total", "Times that a circuit breaker opened."},
	} {
		*d.to = prometheus.NewDesc("processor_provider_"+d.name, d.help, []string{"provider", "model"}, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *limitFigures) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.limit, c.inFlight, c.waiting, c.breaker, c.retries, c.refusals, c.opened} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *limitFigures) Collect(to chan<- prometheus.Metric) {
	type label struct{ provider, model string }
	sums := map[label]limit.Figures{}
	for _, f := range c.limits.Figures() {
		at := label{f.Provider, f.Model}
		if !c.named(f.Model) {
			at.model = otherModels
		}
		sum := sums[at]
		sum.Limit, sum.Running, sum.Waiting = max(sum.Limit, f.Limit), sum.Running+f.Running, sum.Waiting+f.Waiting
		sum.Breaker = max(sum.Breaker, f.Breaker)
		sum.Retries, sum.Refused, sum.Opened = sum.Retries+f.Retries, sum.Refused+f.Refused, sum.Opened+f.Opened
		sums[at] = sum
	}
	for at, f := range sums {
		for _, m := range []struct {
			desc  *prometheus.Desc
			kind  prometheus.ValueType
			value float64
		}{
			{c.limit, prometheus.GaugeValue, float64(f.Limit)},
			{c.inFlight, prometheus.GaugeValue, float64(f.Running)},
			{c.waiting, prometheus.GaugeValue, float64(f.Waiting)},
			{c.breaker, prometheus.GaugeValue, float64(f.Breaker)},
			{c.retries, prometheus.CounterValue, float64(f.Retries)},
			{c.refusals, prometheus.CounterValue, float64(f.Refused)},
			{c.opened, prometheus.CounterValue, float64(f.Opened)},
		} {
			to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value, at.provider, at.model)
		}
	}
}
