package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/cachepolicy"
	"github.com/adpa/processor/kv"
)

// skewed draws uses of which some keys are popular, and one in ten is dear.
func skewed(n int) []cacheUse {
	random := rand.New(rand.NewPCG(4, 2))
	uses := make([]cacheUse, n)
	for i := range uses {
		key := int(random.ExpFloat64() * 300)
		item := cachepolicy.Item{Bytes: 1000, CostUSD: 0.001, Seconds: 1}
		if key%10 == 0 {
			item.CostUSD = 0.1
		}
		uses[i] = cacheUse{key: fmt.Sprint(key), item: item}
	}
	return uses
}

func TestOptimizeChoosesByTheMetrics(t *testing.T) {
	t.Parallel()
	present := kv.CacheChoice{Strategy: kv.LRU, LocalSize: 100_000}
	choice := chosenOf(tryStrategies(skewed(20_000), present, []string{"cost"}))
	require.Contains(t, []string{kv.GDSF, kv.Adaptive}, choice.Strategy, "what saves most cost where some calls are dear")
	require.EqualValues(t, 100_000, choice.LocalSize, "memory is none of the metrics")

	roomy := kv.CacheChoice{Strategy: kv.LRU, LocalSize: 64_000_000}
	choice = chosenOf(tryStrategies(skewed(20_000), roomy, []string{"hit_rate", "memory"}))
	require.Equal(t, kv.LRU, choice.Strategy, "where all fits none is better")
	require.Less(t, choice.LocalSize, roomy.LocalSize)
	require.Greater(t, choice.HitRate, 0.9)
	choice = chosenOf(tryStrategies(skewed(200), roomy, []string{"hit_rate", "memory"}))
	require.Equal(t, roomy.LocalSize, choice.LocalSize, "too few to tell")
}

func TestTheMissRatioCurveFallsAndIsDrawn(t *testing.T) {
	t.Parallel()
	trials := tryStrategies(skewed(20_000), kv.CacheChoice{Strategy: kv.LRU, LocalSize: 100_000}, []string{"hit_rate"})
	require.Len(t, trials, 4*len(curveSizes))
	require.GreaterOrEqual(t, len(curveSizes), 8)
	for i := 1; i < len(trials); i++ {
		if trials[i].Strategy == kv.LRU && trials[i-1].Strategy == kv.LRU {
			require.GreaterOrEqual(t, trials[i].HitRate, trials[i-1].HitRate, "more memory never hurts an LRU")
		}
	}
	var out bytes.Buffer
	require.NoError(t, printTrials(&out, trials, 20_000))
	require.Regexp(t, `of 20000 requests:\n( +\S+ +[0-9.]+ % +#*\n){9}`, out.String())
	require.Contains(t, out.String(), "expected change: ")
}
