package generate_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

func TestEachRoundIsPaidOnceAndAddsUp(t *testing.T) {
	l, c := newLedger(), &caller{}
	s := newStage(4, l, c)
	for round := range 3 {
		for range 2 { // the second time by another delivery
			r := newRequest("a")
			for range round {
				r.Usage, r.CostUSD = r.Earlier.Usage.Add(schemas.Usage{PromptTokens: 3, TotalTokens: 3}), r.Earlier.CostUSD+0.5
				r.Again()
			}
			r.Calls = round
			require.Equal(t, stages.ActionContinue, run(t.Context(), s, r).of(r).Action)
			require.Equal(t, 3*(round+1), r.Usage.PromptTokens)
			require.InDelta(t, 0.5*float64(round+1), r.CostUSD, 1e-9)
			require.Equal(t, round+1, r.Calls)
		}
		require.Equal(t, round+1, c.calls)
	}
	require.Len(t, l.records, 3)
	require.Equal(t, 3, l.records["acme.a.a2"].Usage.PromptTokens, "a record is of one call")
}

// A late copy of the first round must not take the place of the second.
func TestRoundsOfARequestRunApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := &caller{do: func(context.Context, schemas.Call) (schemas.Answer, error) {
			<-release
			return schemas.Answer{Body: []byte(`{"choices":[]}`)}, nil
		}}
		l := newLedger()
		s := newStage(4, l, c)
		first, second := newRequest("a"), newRequest("a")
		second.Again()
		v := run(t.Context(), s, first, second)
		synctest.Wait()
		close(release)
		require.Equal(t, stages.ActionContinue, v.of(first).Action)
		require.Equal(t, stages.ActionContinue, v.of(second).Action)
		require.Equal(t, 2, c.calls)
		require.Zero(t, first.Round)
		require.Equal(t, 1, second.Round)
	})
}

func TestCancelEndsALaterRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := &caller{do: func(ctx context.Context, _ schemas.Call) (schemas.Answer, error) {
			<-ctx.Done()
			return schemas.Answer{}, &schemas.CallError{Message: "interrupted", Retryable: true}
		}}
		s := newStage(2, newLedger(), hang)
		r := newRequest("a")
		for range schemas.MaxRounds - 1 {
			r.Again()
		}
		v := run(t.Context(), s, r)
		synctest.Wait()
		s.Cancel("acme.a")
		require.Equal(t, schemas.CodeCancelled, schemas.AsError(v.of(r).Err).Code)
	})
}
