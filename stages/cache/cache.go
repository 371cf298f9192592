// Package cache answers requests from what was answered before.
package cache

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// How a request came by its answer, as the response says.
const (
	Miss   = "miss"
	Hit    = "hit"
	Shared = "shared" // the call of an equal request answered it too
	Off    = "off"
)

// Entry is an answer that was paid before.
type Entry struct {
	Model    string
	Provider string
	Usage    schemas.Usage
	Answer   []byte
	Settled  bool // it was the best of all that were asked for, whatever it scores
}

// Store finds entries by key, those that there are, in one go.
type Store interface {
	Find(ctx context.Context, keys []string) map[string]Entry
}

// Config is what of the configuration decides whether a request is cached.
type Config struct {
	Enabled        bool
	MaxTemperature float64 // the highest temperature at which answers are cached
}

// New makes the cache stage. A request whose answer is there skips to score.
func New(cfg Config, store Store, results func(result string)) stages.Stage {
	return stages.Func(func(ctx context.Context, requests []*stages.Request) []stages.Verdict {
		verdicts := make([]stages.Verdict, len(requests))
		keys := make([]string, 0, len(requests))
		for _, r := range requests {
			if r.Cache = mode(cfg, r); r.Cache == Off {
				continue
			}
			r.Fingerprint = schemas.CacheKey(r.Body, r.Options)
			if !Refresh(r) {
				keys = append(keys, Key(r))
			}
		}
		var found map[string]Entry
		if len(keys) > 0 {
			found = store.Find(ctx, keys)
		}
		for i, r := range requests {
			if entry, ok := found[Key(r)]; ok && r.Cache != Off && !Refresh(r) {
				r.Cache = Hit
				use(r, entry)
				verdicts[i] = stages.SkipTo(stages.Score)
			}
			results(r.Cache)
		}
		return verdicts
	})
}

// Key is the cache key of a request: its tenant and its fingerprint.
func Key(r *stages.Request) string { return r.Tenant + "." + r.Fingerprint }

// TTL is how long the answer to a request may be used.
func TTL(r *stages.Request, standard time.Duration) time.Duration {
	if c := r.Asked().Cache; c != nil && c.TTL != "" {
		if ttl, err := time.ParseDuration(c.TTL); err == nil {
			return ttl
		}
	}
	return standard
}

func use(r *stages.Request, entry Entry) {
	r.Answer, r.Settled = entry.Answer, entry.Settled
	r.Usage = entry.Usage
	r.CostUSD = 0
	r.Tokens.Bill(entry.Usage.PromptTokens)
	r.Selected = schemas.Selected{Model: entry.Model, Provider: entry.Provider, Because: "cached"}
}

// Refresh reports whether a request asks for a new answer.
func Refresh(r *stages.Request) bool {
	c := r.Asked().Cache
	return c != nil && c.Mode == "refresh"
}

// mode gives Miss for a request that may be cached, before it is looked up.
func mode(cfg Config, r *stages.Request) string {
	if c := r.Asked().Cache; !cfg.Enabled || c != nil && c.Mode == "off" {
		return Off
	}
	if cfg.MaxTemperature < 2 && temperature(r.Body) > cfg.MaxTemperature {
		return Off
	}
	return Miss
}

// temperature reads the temperature of a request; without one it is the
// provider's default, 1.
func temperature(body []byte) float64 {
	span, ok := schemas.Member(body, "temperature")
	t := 1.0
	if !ok || json.Unmarshal(span.Of(body), &t) != nil {
		return 1
	}
	return t
}
