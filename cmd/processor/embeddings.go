package main

import (
	"context"
	"time"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/combine"
	"github.com/adpa/processor/stages/generate/limit"
)

// linger is how long an embeddings request waits for others to share a call
// with: a fraction of what the fastest of providers takes.
const linger = 2 * time.Millisecond

// combined has embeddings requests share the calls of a provider. It counts
// calls behind the combining, so that every call that is made counts once.
func (m *metrics) combined(next generate.Caller, cfg providers.Config, counter *tokens.Counter, places *places) generate.Caller {
	cfg = cfg.WithDefaults()
	if !gathers(cfg) {
		return next
	}
	return combine.New(next, combine.Limits{
		Inputs: cfg.EmbeddingInputs, Tokens: cfg.EmbeddingTokens, Answer: cfg.MaxResponse, Linger: linger,
	}, combine.Hooks{
		Count: func(model string, body []byte) int {
			return countUsage(counter, schemas.Call{Model: model, Body: body, Embeddings: true}, nil).PromptTokens
		},
		Sent: m.streams.Together,
		Enter: func(ctx context.Context, model string) (combine.Leave, error) {
			place, err := places.limits.Enter(ctx, sharedCall(cfg.Name, model))
			if err != nil {
				return nil, err
			}
			return left(place), nil
		},
		Try: func(model string) combine.Leave {
			place, _ := places.limits.TryEnter(sharedCall(cfg.Name, model))
			if place == nil {
				return nil
			}
			return left(place)
		},
	})
}

// gathers tells whether embeddings requests share calls of a provider.
func gathers(cfg providers.Config) bool {
	cfg = cfg.WithDefaults()
	return cfg.Kind != providers.KindAnthropic /* which has no embeddings */ && cfg.EmbeddingInputs > 1
}

// places are those of shared calls among the calls of their providers.
type places struct{ limits *limit.Limiter }

func sharedCall(provider, model string) limit.Ask {
	return limit.Ask{Provider: provider, Model: model, Embeddings: true, Gathered: true}
}

// left has the limits learn how a shared call went.
func left(place *limit.Place) combine.Leave {
	place.Begin()
	return func(call *combine.Ended) {
		if call == nil {
			place.Leave(limit.Outcome{Kind: limit.NotCalled})
			return
		}
		outcome := generate.OutcomeOf(call.Ctx, call.Answer, call.Err)
		outcome.Took = call.Took
		place.Leave(outcome)
	}
}
