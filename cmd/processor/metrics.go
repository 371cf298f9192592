package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// metrics are the figures of a process. None has a tenant, an id or a prompt.
type metrics struct {
	streams *streams.Metrics
	cache   *prometheus.CounterVec
	tokens  *prometheus.CounterVec
	cost    *prometheus.CounterVec
	quality prometheus.Histogram
	calls   *prometheus.CounterVec
	denials *prometheus.CounterVec
	models  modelLabels
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		streams: streams.NewMetrics(),
		cache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_cache_requests_total", Help: "Requests by where their answer came from.",
		}, []string{"result"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_tokens_total", Help: "Tokens that were billed (prompt, cached, completion) or not sent (saved).",
		}, []string{"kind"}),
		cost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_cost_usd_total", Help: "What calls cost, by the price list.",
		}, []string{"model"}),
		quality: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "processor_quality_score", Help: "Scores of answers.", Buckets: []float64{.1, .2, .3, .4, .5, .6, .7, .8, .9, 1},
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_provider_requests_total", Help: "Calls to providers, by HTTP status; none where no answer came.",
		}, []string{"provider", "code"}),
		denials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_budget_denials_total", Help: "Requests that a budget did not allow, by the limit that was in the way.",
		}, []string{"reason"}),
	}
	for _, result := range []string{"hit", "miss", "shared", "off"} {
		m.cache.WithLabelValues(result)
	}
	if registry != nil {
		m.streams.Register(registry)
		registry.MustRegister(m.cache, m.tokens, m.cost, m.quality, m.calls, m.denials)
	}
	return m
}

func (m *metrics) cacheResult(result string) { m.cache.WithLabelValues(result).Inc() }

// looked counts what the cache said of a request. A miss is counted once it is
// known whether the request got an answer of its own or that of an equal one.
func (m *metrics) looked(result string) {
	if result != cache.Miss {
		m.cacheResult(result)
	}
}

func (m *metrics) paid(model string, usage schemas.Usage, cost float64, saved int) {
	m.tokens.WithLabelValues("prompt").Add(float64(usage.PromptTokens))
	m.tokens.WithLabelValues("cached").Add(float64(usage.CachedTokens))
	m.tokens.WithLabelValues("completion").Add(float64(usage.CompletionTokens))
	m.tokens.WithLabelValues("saved").Add(float64(saved))
	m.cost.WithLabelValues(m.models.of(model)).Add(cost)
}

// countedCaller counts the calls to a provider by what it answered, and the
// tokens of answers that come without their usage.
type countedCaller struct {
	providers.Provider
	tokens *tokens.Counter
	calls  *prometheus.CounterVec
	ok     prometheus.Counter
}

func (m *metrics) counted(p providers.Provider, counter *tokens.Counter) generate.Caller {
	return countedCaller{p, counter, m.calls, m.calls.WithLabelValues(p.Name(), "200")}
}

// Generate implements generate.Caller.
func (c countedCaller) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	answer, err := c.Provider.Generate(ctx, call)
	if err == nil {
		c.ok.Inc()
		if answer.Usage == (schemas.Usage{}) {
			answer.Usage = countUsage(c.tokens, call, answer.Body)
		}
		return answer, nil
	}
	code := "none"
	var failure *schemas.CallError
	if errors.As(err, &failure) && failure.Status != 0 {
		code = strconv.Itoa(failure.Status)
	}
	c.calls.WithLabelValues(c.Name(), code).Inc()
	return answer, err
}

// connections shows the state of the providers' pools when it is asked.
type connections struct {
	providers map[string]providers.Provider
	desc      *prometheus.Desc
}

func newConnections(list map[string]providers.Provider) *connections {
	return &connections{list, prometheus.NewDesc("processor_provider_connections", "Connections to providers, by what they are doing.", []string{"provider", "state"}, nil)}
}

// Describe implements prometheus.Collector.
func (c *connections) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements prometheus.Collector.
func (c *connections) Collect(to chan<- prometheus.Metric) {
	for name, p := range c.providers {
		pool, ok := p.(providers.Pooled)
		if !ok {
			continue
		}
		stats := pool.Stats()
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(stats.Active), name, "active")
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(stats.Idle), name, "idle")
	}
}
