package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

func TestModelsThatAnybodyNamesHaveABoundInMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	for range 2 {
		for i := range 2 * maxModelLabels {
			m.paid(fmt.Sprintf("m%d", i), schemas.Usage{}, 1, 0)
		}
	}
	m.paid(strings.Repeat("long", 100), schemas.Usage{}, 1, 0)

	families, err := registry.Gather()
	require.NoError(t, err)
	sums := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "processor_cost_usd_total" {
			continue
		}
		for _, series := range f.GetMetric() {
			sums[series.GetLabel()[0].GetValue()] = series.GetCounter().GetValue()
		}
	}
	require.Len(t, sums, maxModelLabels+1)
	require.InDelta(t, 2, sums["m0"], 0)
	require.InDelta(t, 2*maxModelLabels+1, sums[otherModels], 0)
}
