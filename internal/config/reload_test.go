package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, text string) Config {
	t.Helper()
	environment := map[string]string{"KEY": "sk-canary-1", "OTHER": "sk-canary-2"}
	cfg, err := load("test", []byte(text), func(name string) (string, bool) { v, ok := environment[name]; return v, ok }, nil)
	require.NoError(t, err)
	return cfg
}

const runs = `
providers: [{name: a, kind: openai, api_key: "${KEY}", requests_per_minute: 10}]
models: [{name: m, provider: a, price: {input: 1, output: 2}}, {name: n, provider: a, encoding: cl100k_base}]
budgets: [{tenant: acme, daily_limit: 100}]
tenants: [{name: acme, rate: 5}]
score: {threshold: 0.5}
cache: {ttl: 1h}
`

func TestReloadTakesOverWhatCanChange(t *testing.T) {
	running := parse(t, runs)
	merged, changes, err := Reload(running, parse(t, runs))
	require.NoError(t, err)
	require.Empty(t, changes)
	require.Equal(t, running, merged)

	next := parse(t, `
nats: {prefix: other}
http: {addr: "127.0.0.1:9999"}
providers: [{name: a, kind: openai, api_key: "${OTHER}", requests_per_minute: 20, tokens_per_minute: 7}]
models: [{name: m, provider: a, price: {input: 3, output: 2}, token_factor: 1.5}]
budgets: []
tenants: [{name: acme, rate: 6}]
score: {threshold: 0.7, max_attempts: 3}
cache: {ttl: 2h, max_size: 2GB}
pipeline: {workers: {generate: 3}}
`)
	merged, changes, err = Reload(running, next)
	require.NoError(t, err)
	applied, fixed := map[string]bool{}, map[string]bool{}
	for _, c := range changes {
		if c.Applied {
			applied[c.Key] = true
		} else {
			fixed[c.Key] = true
		}
	}
	require.Equal(t, map[string]bool{"providers[a].requests_per_minute": true, "providers[a].tokens_per_minute": true, "models": true, "budgets": true, "tenants": true, "score.threshold": true, "cache.ttl": true}, applied)
	require.Equal(t, map[string]bool{"nats.prefix": true, "http.addr": true, "providers[a].api_key": true, "models[0].encoding": true, "score.max_attempts": true, "cache.max_size": true, "pipeline.workers": true}, fixed)

	require.Equal(t, "llm", merged.NATS.Prefix)
	require.Equal(t, running.HTTP, merged.HTTP)
	require.Equal(t, 20, merged.Providers[0].RequestsPerMinute)
	require.Equal(t, 7, merged.Providers[0].TokensPerMinute)
	require.Equal(t, "sk-canary-1", string(merged.Providers[0].APIKey))
	require.Len(t, merged.Models, 1)
	require.InDelta(t, 3, merged.Models[0].Price.Input, 0)
	require.Zero(t, merged.Models[0].TokenFactor)
	require.Empty(t, merged.Budgets)
	require.InDelta(t, 6, merged.Tenants[0].Rate, 0)
	require.InDelta(t, 0.7, merged.Score.Threshold, 0)
	require.Equal(t, running.Score.MaxAttempts, merged.Score.MaxAttempts)
	require.Equal(t, 2*time.Hour, merged.Cache.TTL.Std())
	require.Equal(t, running.Cache.MaxSize, merged.Cache.MaxSize)
	require.Equal(t, 10, running.Providers[0].RequestsPerMinute, "the running one is left alone")
}

func TestReloadRefusesWhatDoesNotFitTheRest(t *testing.T) {
	running := parse(t, runs)
	next := parse(t, `
providers: [{name: a, kind: openai, api_key: "${KEY}"}, {name: b, kind: openai, api_key: "${KEY}"}]
models: [{name: m, provider: b}]
`)
	merged, _, err := Reload(running, next)
	require.ErrorContains(t, err, "models[0].provider")
	require.ErrorContains(t, err, "restart")
	require.Equal(t, running, merged)
}
