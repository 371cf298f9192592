package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// metrics are the figures of a process. None has a tenant, an id or a prompt.
type metrics struct {
	streams *streams.Metrics
	cache   *prometheus.CounterVec
	tokens  *prometheus.CounterVec
	cost    *prometheus.CounterVec
	quality prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		streams: streams.NewMetrics(),
		cache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_cache_requests_total", Help: "Requests by what the cache had for them.",
		}, []string{"result"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_tokens_total", Help: "Tokens that were billed (prompt, cached, completion) or not sent (saved).",
		}, []string{"kind"}),
		cost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_cost_usd_total", Help: "What calls cost, by the price list.",
		}, []string{"model"}),
		quality: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "processor_quality_score", Help: "Scores of answers.", Buckets: prometheus.LinearBuckets(0.1, 0.1, 10),
		}),
	}
	for _, result := range []string{"hit", "miss", "off"} {
		m.cache.WithLabelValues(result)
	}
	if registry != nil {
		m.streams.Register(registry)
		registry.MustRegister(m.cache, m.tokens, m.cost, m.quality)
	}
	return m
}

func (m *metrics) cacheResult(result string) { m.cache.WithLabelValues(result).Inc() }

func (m *metrics) paid(model string, usage schemas.Usage, cost float64, saved int) {
	m.tokens.WithLabelValues("prompt").Add(float64(usage.PromptTokens))
	m.tokens.WithLabelValues("cached").Add(float64(usage.CachedTokens))
	m.tokens.WithLabelValues("completion").Add(float64(usage.CompletionTokens))
	m.tokens.WithLabelValues("saved").Add(float64(saved))
	m.cost.WithLabelValues(model).Add(cost)
}
