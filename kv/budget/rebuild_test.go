package budget

import (
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func spends(list ...Spend) iter.Seq2[Spend, error] {
	return func(yield func(Spend, error) bool) {
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func spend(at time.Time, tokens int64) Spend {
	return Spend{Tenant: "acme", Time: at, Model: "gpt-4o", Amount: Amount{Tokens: tokens, Requests: 1}}
}

func rebuildable(t *testing.T) (*Ledger, *clock) {
	now := newClock("2026-11-23T12:00:00Z")
	return open(t, connect(t, startServer(t)), Options{Now: now.now, Budgets: acme(func(c *Config) {
		c.DailyLimit, c.TotalLimit = 10_000, 100_000
		c.Allocation = map[string]float64{"gpt-4o": 0.5}
	})}), now
}

func TestRebuildFindsNothingWhereAllIsRight(t *testing.T) {
	l, now := rebuildable(t)
	reserve(t, l, ask("a", 300))
	settle(t, l, bill("a", 200))
	lost := ask("b", 50)
	reserve(t, l, lost)
	lost.Call = "b-2"
	reserve(t, l, lost) // b-1 is lost: 50 stay charged though no response shows them
	settle(t, l, Settlement{Tenant: "acme", ID: "b", Call: "b-2", Billed: Amount{Tokens: 40}})
	now.advance(time.Minute)
	got, err := l.Rebuild(t.Context(), time.Time{}, spends(spend(noon, 200), spend(noon, 40)))
	require.NoError(t, err)
	require.Empty(t, got)
}

// TestRebuildKnowsWhichCallsCount has requests that were tried more often than
// they were billed.
func TestRebuildKnowsWhichCallsCount(t *testing.T) {
	l, now := rebuildable(t)
	reserve(t, l, ask("a", 300))
	settle(t, l, Settlement{Tenant: "acme", ID: "a", Call: "a-1", Released: true})
	again := ask("a", 300)
	again.Call = "a-2"
	reserve(t, l, again)
	again.Call = "a-3"
	reserve(t, l, again) // a-2 is lost
	settle(t, l, Settlement{Tenant: "acme", ID: "a", Call: "a-3", Billed: Amount{Tokens: 40}})
	now.advance(time.Minute)
	tried := spend(noon, 40)
	tried.Requests = 3
	got, err := l.Rebuild(t.Context(), time.Time{}, spends(tried))
	require.NoError(t, err)
	require.Empty(t, got, "two calls count, of three that were tried")

	tried.Requests = 1 // fewer than the record holds
	other := spend(noon, 0)
	got, err = l.Rebuild(t.Context(), time.Time{}, spends(tried, other, other, other))
	require.NoError(t, err)
	require.NotEmpty(t, got)
	require.Equal(t, int64(5), got[0].Rebuilt.Requests, "one a response and the lost one")
}

func TestRebuildOfALostRecord(t *testing.T) {
	l, now := rebuildable(t)
	now.advance(time.Minute)
	yesterday := noon.AddDate(0, 0, -1)
	responses := spends(spend(yesterday, 70), spend(noon, 200), spend(noon.Add(time.Second), 100), Spend{Tenant: "nobody", Time: noon, Amount: Amount{Tokens: 9}})
	got, err := l.Rebuild(t.Context(), yesterday.Add(-time.Hour), responses)
	require.NoError(t, err)
	day := Amount{Tokens: 300, Requests: 2}
	total := Amount{Tokens: 370, Requests: 3}
	start := moment(t, "2026-11-23T00:00:00Z")
	require.Empty(t, cmp.Diff([]Difference{
		{Tenant: "acme", Window: Total, Rebuilt: total, Applied: true},
		{Tenant: "acme", Window: Total, Model: "gpt-4o", Rebuilt: total, Applied: true},
		{Tenant: "acme", Window: Day, Start: start, Rebuilt: day, Applied: true},
		{Tenant: "acme", Window: Day, Start: start, Model: "gpt-4o", Rebuilt: day, Applied: true},
	}, got))
	require.Equal(t, int64(300), settledTokens(t, l, Day))
	again, err := l.Rebuild(t.Context(), yesterday.Add(-time.Hour), responses)
	require.NoError(t, err)
	require.Empty(t, again)
}

func TestRebuildLowersOnlyWhatIsIdleAndCovered(t *testing.T) {
	l, now := rebuildable(t)
	reserve(t, l, ask("a", 300))
	settle(t, l, bill("a", 200))
	reserve(t, l, ask("busy", 1))
	now.advance(time.Minute)
	midnight := moment(t, "2026-11-23T00:00:00Z")
	got, err := l.Rebuild(t.Context(), midnight, spends(spend(noon, 150)))
	require.NoError(t, err)
	require.Len(t, got, 2, "the day, for all models and for one; the total is not covered and may be more")
	for _, d := range got {
		require.False(t, d.Applied)
		require.Equal(t, Day, d.Window)
		require.Equal(t, int64(150), d.Rebuilt.Tokens)
	}
	require.Equal(t, int64(200), settledTokens(t, l, Day))

	settle(t, l, Settlement{Tenant: "acme", ID: "busy", Call: "busy-1", Released: true})
	got, err = l.Rebuild(t.Context(), midnight, spends(spend(noon, 150)))
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.True(t, got[0].Applied)
	require.Equal(t, int64(150), settledTokens(t, l, Day))
	require.Equal(t, int64(200), settledTokens(t, l, Total))
}

// TestRebuildCountsFromTheLastReset has one window reset between two calls.
func TestRebuildCountsFromTheLastReset(t *testing.T) {
	l, now := rebuildable(t)
	reserve(t, l, ask("a", 300))
	settle(t, l, bill("a", 200))
	now.advance(time.Minute)
	require.NoError(t, l.Reset(t.Context(), "acme", Day))
	now.advance(time.Minute)
	reserve(t, l, ask("b", 300))
	settle(t, l, bill("b", 50))
	second := now.now()
	now.advance(time.Minute)
	got, err := l.Rebuild(t.Context(), time.Time{}, spends(spend(noon, 200), spend(second, 50)))
	require.NoError(t, err)
	require.Empty(t, got, "what was reset stays so")
	require.Equal(t, int64(50), settledTokens(t, l, Day))
	require.Equal(t, int64(250), settledTokens(t, l, Total), "it was not reset")

	got, err = l.Rebuild(t.Context(), noon.Add(30*time.Second), spends(spend(second, 40)))
	require.NoError(t, err)
	require.Len(t, got, 2, "the day, for all models and for one: the responses reach back to its reset, though not to its begin")
	require.True(t, got[0].Applied)
	require.Equal(t, int64(40), settledTokens(t, l, Day))
}

// TestRebuildKeepsWhatSettlesMeanwhile has calls settle while the responses are read.
func TestRebuildKeepsWhatSettlesMeanwhile(t *testing.T) {
	l, now := rebuildable(t)
	reserve(t, l, ask("a", 300))
	now.advance(time.Minute)
	_, err := l.Rebuild(t.Context(), time.Time{}, func(yield func(Spend, error) bool) {
		settle(t, l, bill("a", 200))
		if yield(spend(noon, 1000), nil) { // an earlier one that the record has lost
			yield(spend(now.now().Add(time.Second), 200), nil) // the response to a, stored since
		}
	})
	require.NoError(t, err)
	require.Equal(t, int64(1200), settledTokens(t, l, Day))
}

func TestRebuildStopsAtAnError(t *testing.T) {
	l, _ := rebuildable(t)
	_, err := l.Rebuild(t.Context(), time.Time{}, func(yield func(Spend, error) bool) { yield(Spend{}, errors.New("the stream is gone")) })
	require.ErrorContains(t, err, "the stream is gone")
}

func TestReadSpend(t *testing.T) {
	answer := `{"id":"x","choices":[],"usage":{"prompt_tokens":900,"completion_tokens":100,"total_tokens":1000},
		"processor":{"id":"1","tenant":"acme","model_requested":"auto","attempts":2,"selected":{"model":"gpt-4o"},"cache":"miss","cost_usd":0.0031}}`
	s, paid, err := ReadSpend("acme", noon, []byte(answer))
	require.NoError(t, err)
	require.True(t, paid)
	require.Equal(t, Spend{"acme", noon, "gpt-4o", Amount{Tokens: 1000, Cost: 3_100_000, Requests: 2}}, s)

	_, paid, err = ReadSpend("acme", noon, []byte(`{"usage":{"total_tokens":1000},"processor":{"model_requested":"m","attempts":1,"cache":"hit","cost_usd":0}}`))
	require.NoError(t, err)
	require.False(t, paid)

	failure := `{"error":{"message":"x","type":"quality_error"},"processor":{"attempts":1,"cost_usd":0.5,"usage":{"total_tokens":70}}}`
	s, paid, err = ReadSpend("acme", noon, []byte(failure))
	require.NoError(t, err)
	require.True(t, paid)
	require.Equal(t, Amount{Tokens: 70, Cost: Dollar / 2, Requests: 1}, s.Amount)

	_, paid, err = ReadSpend("acme", noon, []byte(`{"error":{},"processor":{}}`))
	require.NoError(t, err)
	require.False(t, paid)
	_, _, err = ReadSpend("acme", noon, []byte(`{`))
	require.Error(t, err)
}
