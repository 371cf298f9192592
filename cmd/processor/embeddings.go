package main

import (
	"time"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/generate/combine"
)

// linger is how long an embeddings request waits for others to share a call
// with: a fraction of what the fastest of providers takes.
const linger = 2 * time.Millisecond

// combined has embeddings requests share the calls of a provider. It counts
// calls behind the combining, so that every call that is made counts once.
func (m *metrics) combined(next generate.Caller, cfg providers.Config, counter *tokens.Counter) generate.Caller {
	cfg = cfg.WithDefaults()
	if cfg.Kind == providers.KindAnthropic { // which has no embeddings
		return next
	}
	return combine.New(next, combine.Limits{
		Inputs: cfg.EmbeddingInputs, Tokens: cfg.EmbeddingTokens, Answer: cfg.MaxResponse, Linger: linger,
	}, combine.Hooks{
		Count: func(model string, body []byte) int {
			return countUsage(counter, schemas.Call{Model: model, Body: body, Embeddings: true}, nil).PromptTokens
		},
		Sent: m.streams.Together,
	})
}
