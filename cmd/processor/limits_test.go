package main

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/limit"
)

func TestFiguresOfLimitsNameConfiguredModelsOnly(t *testing.T) {
	t.Parallel()
	limits := limit.New([]limit.Config{{Name: "p", MaxConnections: 3}})
	defer limits.Close()
	for _, model := range []string{"gpt", "anything", "else"} {
		_, _ = limits.TryEnter(limit.Ask{Provider: "p", Model: model})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newLimitFigures(limits, func(model string) bool { return model == "gpt" }))
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 7)
	for _, family := range families {
		require.Len(t, family.GetMetric(), 2, "gpt and other: %s", family.GetName())
	}
}

func TestFallbacksHaveTheirOwnProviders(t *testing.T) {
	t.Parallel()
	m := &models{callers: map[string]generate.Caller{"one": nil, "two": nil}}
	m.table.Store(&modelTable{list: []generate.Model{
		{Name: "a", Provider: "one", Fallback: []string{"b", "c", "unknown"}}, {Name: "b", Provider: "two"}, {Name: "c", Provider: "one"},
	}})
	list := m.fallbacks("a")
	require.Len(t, list, 2)
	require.Equal(t, "two", list[0].Provider)
	require.Equal(t, "c", list[1].Model)
	require.Empty(t, m.fallbacks("b"))
}

func TestTimeoutsBoundTheWayThroughFallbacks(t *testing.T) {
	t.Parallel()
	timeout := timeouts(config.Config{Providers: []providers.Config{
		{Name: "usual", Kind: providers.KindSimulated, Timeout: time.Minute, AttemptTimeout: time.Minute},
		{Name: "short", Kind: providers.KindSimulated, Timeout: time.Minute, AttemptTimeout: time.Second},
	}})
	require.Zero(t, timeout("usual"))
	require.Equal(t, time.Minute, timeout("short"))
}
