// Package cache answers requests from what was answered before.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
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
	// Normalized is the answer to a request whose last message differs in form alone.
	Normalized = "normalized"
)

// What a request, and the configuration, say of matches and scopes.
const (
	MatchNormalized = "normalized"
	ScopeShared     = "shared"
)

// sharedScope stands for the tenant in the keys of answers that all tenants may
// share. It is none: the names of tenants have no such sign.
const sharedScope = "=shared"

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
	Normalized     bool    // requests that say nothing of it match normalized
	Shared         bool    // requests that ask for it share with other tenants
}

// New makes the cache stage. A request whose answer is there skips to score.
func New(cfg Config, store Store, results func(result string)) stages.Stage {
	return stages.Func(func(ctx context.Context, requests []*stages.Request) []stages.Verdict {
		verdicts := make([]stages.Verdict, len(requests))
		exact, normalized := make([]string, len(requests)), make([]string, len(requests)) // empty: not looked up
		var keys []string
		for i, r := range requests {
			if r.Cache = mode(cfg, r); r.Cache == Off {
				continue
			}
			r.Fingerprint = fingerprint(cfg, r)
			if Refresh(r) {
				continue
			}
			exact[i], normalized[i] = Key(r), cfg.NormalizedKey(r)
			keys = append(keys, exact[i])
			if normalized[i] != "" {
				keys = append(keys, normalized[i])
			}
		}
		var found map[string]Entry
		if len(keys) > 0 {
			found = store.Find(ctx, keys)
		}
		for i, r := range requests {
			if entry, ok := found[exact[i]]; ok {
				use(r, entry, Hit)
				verdicts[i] = stages.SkipTo(stages.Score)
			} else if entry, ok := found[normalized[i]]; ok {
				use(r, entry, Normalized)
				r.Found = strings.TrimPrefix(normalized[i], r.Tenant+".")
				verdicts[i] = stages.SkipTo(stages.Score)
			}
			results(r.Cache)
		}
		return verdicts
	})
}

// fingerprint is that of a request, with the shared scope before it where the
// request and the configuration both want that.
func fingerprint(cfg Config, r *stages.Request) string {
	key := Fingerprint(r.Body, r.Options)
	if c := r.Asked().Cache; cfg.Shared && c != nil && c.Scope == ScopeShared {
		return sharedScope + "." + key
	}
	return key
}

// Alike names what requests have in common that are the same to the cache, before
// other stages have changed them: those that match in form alone too.
func Alike(cfg Config, r *stages.Request) string {
	r.Fingerprint = fingerprint(cfg, r)
	if key := cfg.NormalizedKey(r); key != "" {
		return key
	}
	return Key(r)
}

// Fingerprint is that of a chat or embeddings request by its body and its
// processor object. An object that does not change the answer is as good as none.
func Fingerprint(body, options []byte) string {
	return schemas.CacheKey(body, answerOptions(options))
}

// neutral are the members of the processor object that leave an answer as it is.
var neutral = map[string]bool{"cache": true, "compress": true, "route": true, "priority": true, "deadline": true}

// answerOptions gives a processor object if something in it changes the answer.
func answerOptions(options []byte) []byte {
	changes := false
	schemas.Members(options, func(name []byte, _, _ schemas.Span) bool {
		changes = changes || !neutral[string(name)]
		return !changes
	})
	if !changes {
		return nil
	}
	return options
}

// Key is the cache key of a request: its tenant, or the scope that all tenants
// share, and its fingerprint.
func Key(r *stages.Request) string {
	if OverTenants(r) {
		return r.Fingerprint
	}
	return r.Tenant + "." + r.Fingerprint
}

// OverTenants reports whether the answer to a request may be that to another tenant's.
func OverTenants(r *stages.Request) bool { return strings.HasPrefix(r.Fingerprint, sharedScope+".") }

// ScopeKey gives the key of an entry by its fingerprint, as operators name it.
func ScopeKey(tenant, fingerprint string, overTenants bool) string {
	if overTenants {
		return sharedScope + "." + fingerprint
	}
	return tenant + "." + fingerprint
}

// NormalizedKey is the key under which a request finds the answers to those that
// differ from it in form alone, in the same scope; empty where it looks for none.
// Only the request's first round has one: later ones ask something else.
func (cfg Config) NormalizedKey(r *stages.Request) string {
	wanted := cfg.Normalized
	if c := r.Asked().Cache; c != nil && c.Match != "" {
		wanted = c.Match == MatchNormalized
	}
	if !wanted || r.Fingerprint == "" || r.Round > 0 || r.Kind != schemas.Chat {
		return ""
	}
	normal := NormalizedFingerprint(r.Body, r.Options)
	if normal == "" {
		return ""
	}
	scope, _, _ := strings.Cut(Key(r), ".")
	return scope + "." + normal
}

// CallKey names the call that a request needs: equal requests need the same one.
// In the first round that is the cache key; in later ones it goes by what is
// asked then, which depends on the answers before.
func CallKey(r *stages.Request) string {
	if r.Round == 0 {
		return Key(r)
	}
	h := sha256.New()
	h.Write([]byte(strings.Join(r.Tried, "\x00") + "\x00\x00"))
	h.Write(r.Body)
	return Key(r) + "-r" + strconv.Itoa(r.Round) + "-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// ForOthers gives the answer to a request as others may have it: tenants that
// share answers do not see what a provider repeats of who asked.
func ForOthers(r *stages.Request, answer []byte) []byte {
	if !OverTenants(r) {
		return answer
	}
	for _, name := range []string{"metadata", "user", "safety_identifier", "prompt_cache_key"} {
		answer = schemas.DeleteMember(answer, name)
	}
	return answer
}

// TTL is how long the answer to a request may be used.
func TTL(r *stages.Request, standard time.Duration) time.Duration {
	if c := r.Asked().Cache; c != nil && c.TTL != "" {
		if ttl, err := time.ParseDuration(c.TTL); err == nil {
			return ttl
		}
	}
	return standard
}

func use(r *stages.Request, entry Entry, how string) {
	r.Cache = how
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
