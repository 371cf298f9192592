package cache

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// store answers what it has and counts how often it is asked.
type store struct {
	entries map[string]Entry
	asked   int
}

func (s *store) Find(_ context.Context, keys []string) map[string]Entry {
	s.asked++
	found := map[string]Entry{}
	for _, key := range keys {
		if e, ok := s.entries[key]; ok {
			found[key] = e
		}
	}
	return found
}

func newRequest(tenant, body, options string) *stages.Request {
	r := &stages.Request{}
	r.Tenant, r.ID, r.Kind, r.Body, r.Options = tenant, "r", schemas.Chat, []byte(body), []byte(options)
	return r
}

func TestAHitSkipsToScoreAndCostsNothing(t *testing.T) {
	const body = `{"messages":[{"role":"user","content":"hi"}],"temperature":0.5}`
	known := newRequest("acme", body, "")
	known.Fingerprint = schemas.CacheKey(known.Body, nil)
	s := &store{entries: map[string]Entry{Key(known): {Model: "m", Usage: schemas.Usage{PromptTokens: 7}, Answer: []byte(`{"choices":[]}`)}}}
	requests := []*stages.Request{
		newRequest("acme", body, ""),
		newRequest("other", body, ""),
		newRequest("acme", body, `{"cache":{"mode":"off"}}`),
		newRequest("acme", body, `{"cache":{"mode":"refresh"}}`),
		newRequest("acme", `{"messages":[{"role":"user","content":"ho"}]}`, ""),
	}
	counts := map[string]int{}
	got := map[*stages.Request]stages.Verdict{}
	New(Config{Enabled: true, MaxTemperature: 2}, s, func(result string) { counts[result]++ }).
		Run(t.Context(), requests, func(r *stages.Request, v stages.Verdict) { got[r] = v })

	require.Equal(t, stages.SkipTo(stages.Score), got[requests[0]])
	require.Equal(t, 7, requests[0].Tokens.PromptOriginal)
	require.Zero(t, requests[0].CostUSD)
	for _, r := range requests[1:] {
		require.Equal(t, stages.Continue(), got[r])
		require.Nil(t, r.Answer)
	}
	require.Equal(t, map[string]int{Hit: 1, Miss: 3, Off: 1}, counts)
	require.Equal(t, 1, s.asked, "one look-up for the slice")
}

func TestHighTemperaturesAreNotCached(t *testing.T) {
	s := &store{}
	warm := newRequest("acme", `{"messages":[],"temperature":0.7}`, "")
	cold := newRequest("acme", `{"messages":[],"temperature":0}`, "")
	unset := newRequest("acme", `{"messages":[]}`, "")
	New(Config{Enabled: true, MaxTemperature: 0.5}, s, func(string) {}).
		Run(t.Context(), []*stages.Request{warm, cold, unset}, func(*stages.Request, stages.Verdict) {})
	require.Equal(t, []string{Off, Miss, Off}, []string{warm.Cache, cold.Cache, unset.Cache}, "without one it is the provider's, 1")
	New(Config{}, s, func(string) {}).Run(t.Context(), []*stages.Request{cold}, func(*stages.Request, stages.Verdict) {})
	require.Equal(t, Off, cold.Cache)
}
