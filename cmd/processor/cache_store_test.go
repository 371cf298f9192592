package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/stages"
)

func TestAnswersThatWereCutOffAreSeen(t *testing.T) {
	t.Parallel()
	for answer, cut := range map[string]bool{
		`{"choices":[{"finish_reason":"stop"}]}`:                             false,
		`{"choices":[{"finish_reason":"tool_calls"}]}`:                       false,
		`{"object":"list","data":[]}`:                                        false,
		`{"choices":[{"finish_reason":"stop"},{"finish_reason":"length"}]}`:  true,
		`{"choices":[{"finish_reason":"content_filter","message":{"a":1}}]}`: true,
		`what`: true,
	} {
		require.Equal(t, cut, cutOff([]byte(answer)), answer)
	}
}

func TestOnlyModeOnAsksForCaching(t *testing.T) {
	t.Parallel()
	for options, asked := range map[string]bool{"": false, `{"cache":{"ttl":"1m"}}`: false, `{"cache":{"mode":"refresh"}}`: false, `{"cache":{"mode":"on"}}`: true} {
		r := &stages.Request{}
		r.Options = []byte(options)
		require.Equal(t, asked, askedFor(r), options)
	}
}

func TestTheTopIsSortedAndBounded(t *testing.T) {
	t.Parallel()
	var top []cacheTopRow
	for _, cost := range []float64{1, 3, 2, 5, 4, 0} {
		top = keepTop(top, cacheTopRow{CostUSD: cost}, 3)
	}
	require.Equal(t, []cacheTopRow{{CostUSD: 5}, {CostUSD: 4}, {CostUSD: 3}}, top)
	require.Empty(t, keepTop(nil, cacheTopRow{}, 0))
}
