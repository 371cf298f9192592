package main

import (
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate"
)

// passingTTL is how long an answer that may not be cached is there for those
// that wait for it.
const passingTTL = 30 * time.Second

func (d *deps) cacheConfig() cache.Config {
	return cacheConfig(d.settings().Cache)
}

func cacheConfig(c kv.CacheConfig) cache.Config {
	return cache.Config{
		Enabled: c.Enabled, MaxTemperature: c.MaxTemperature,
		Normalized: c.Match == kv.MatchNormalized, Shared: c.Scope == kv.ScopeShared,
	}
}

// remember keeps a new answer for equal requests; one that is not to be kept
// for later ones is there in passing, for those that wait for it.
func (d *deps) remember(r *stages.Request, record generate.Record, kept func()) {
	d.metrics.paid(record.Model, record.Usage, record.CostUSD, r.Tokens.Saved)
	d.budgets.learn(r, record)
	if r.Cache == cache.Miss && r.Round == 0 {
		d.metrics.cacheResult(cache.Miss)
	}
	if r.Cache == cache.Off || r.Fingerprint == "" {
		kept()
		return
	}
	entry := kv.Entry{
		Model: record.Model, Provider: record.Provider, Usage: record.Usage, CostUSD: record.CostUSD,
		Answer: cache.ForOthers(r, record.Answer), Request: r.Key(),
	}
	if r.Round > 0 { // for those whose answer before had the same faults
		d.pass(cache.CallKey(r), entry, kept)
		kept = nil
	}
	if !d.cacheable(r, record.Provider, record.Answer) {
		d.pass(cache.Key(r), entry, kept)
		return
	}
	ttl := cache.TTL(r, d.settings().Cache.TTL.Std())
	d.cache.Put(cache.Key(r), entry, ttl, kept)
	if key := d.cacheConfig().NormalizedKey(r); key != "" {
		d.cache.Link(key, cache.Key(r), entry, ttl)
	}
}

// cacheable reports whether an answer may be used for later requests.
func (d *deps) cacheable(r *stages.Request, provider string, answer []byte) bool {
	allowed := d.settings().Cache.Providers
	return (len(allowed) == 0 || slices.Contains(allowed, provider)) && (askedFor(r) || !cutOff(answer))
}

func (d *deps) pass(key string, entry kv.Entry, kept func()) {
	entry.Passing = true
	d.cache.Put(key, entry, passingTTL, kept)
}

// askedFor reports whether a request says itself that its answer is to be
// cached: then it is, whatever it is like.
func askedFor(r *stages.Request) bool {
	c := r.Asked().Cache
	return c != nil && c.Mode == "on"
}

// cutOff reports whether an answer ended before it was complete.
func cutOff(answer []byte) bool {
	var body struct {
		Choices []struct {
			FinishReason string `json:"finish_reason"`
		} `json:"choices"`
	}
	if json.Unmarshal(answer, &body) != nil {
		return true
	}
	for _, c := range body.Choices {
		if c.FinishReason == "length" || c.FinishReason == "content_filter" {
			return true
		}
	}
	return false
}

// forget takes an answer that is not good enough for later requests out of the
// cache. Those that wait for it in other processes still find it for a while.
func (d *deps) forget(r *stages.Request) {
	switch {
	case r.Fingerprint == "" || askedFor(r):
	case r.Cache == cache.Miss:
		d.pass(cache.Key(r), kv.Entry{
			Model: r.Selected.Model, Provider: r.Selected.Provider, Usage: r.Usage, CostUSD: r.CostUSD,
			Answer: cache.ForOthers(r, r.Answer), Request: r.Key(),
		}, nil)
	case r.Cache == cache.Hit:
		d.drop(r, cache.Key(r))
	case r.Cache == cache.Normalized: // it may do for the question that it answered
		if key := d.cacheConfig().NormalizedKey(r); key != "" {
			d.drop(r, key)
		}
	}
}

// drop takes an entry out of the cache for what it was to a request.
func (d *deps) drop(r *stages.Request, key string) {
	if d.replay != nil {
		d.replay.cache.drop(indexOfKey(r.Key()), key)
		return
	}
	d.cache.Drop(key)
}

// cached is the cache as the cache stage sees it.
func (d *deps) cached() cache.Store { return cacheStore{d.cache} }

type cacheStore struct{ answerCache }

// Find implements cache.Store. What only those that wait may share is none; what
// stands for another entry is that one.
func (s cacheStore) Find(ctx context.Context, keys []string) map[string]cache.Entry {
	found := s.Get(ctx, keys)
	entries := make(map[string]cache.Entry, len(found))
	var linked []string
	for key, e := range found {
		if e.Of != "" {
			linked = append(linked, e.Of)
		} else if !e.Passing {
			entries[key] = cached(e)
		}
	}
	if len(linked) == 0 {
		return entries
	}
	targets := s.Get(ctx, linked)
	for key, e := range found {
		if target := targets[e.Of]; target != nil && !target.Passing && target.Of == "" {
			entries[key] = cached(target)
		}
	}
	return entries
}

func cached(e *kv.Entry) cache.Entry {
	return cache.Entry{Model: e.Model, Provider: e.Provider, Usage: e.Usage, Answer: e.Answer, Settled: e.Settled}
}

// flights is what generate shares calls with: leases, and the cache.
type flights struct {
	*kv.Leases
	cache answerCache
}

// Look implements generate.Flights.
func (f flights) Look(ctx context.Context, key string) (generate.Lease, error) {
	lease, err := f.Check(ctx, key)
	return generate.Lease{Free: lease.State == kv.LeaseFree, Gone: lease.State == kv.LeaseGone, Revision: lease.Revision}, err
}

// TakeOver implements generate.Flights.
func (f flights) TakeOver(ctx context.Context, key string, lease generate.Lease) (bool, error) {
	return f.Leases.TakeOver(ctx, key, lease.Revision)
}

// Find implements generate.Flights.
func (f flights) Find(ctx context.Context, keys []string) map[string]generate.Shared {
	found := f.cache.Get(ctx, keys)
	if len(found) == 0 {
		return nil
	}
	answers := make(map[string]generate.Shared, len(found))
	for key, e := range found {
		answers[key] = sharedOf(e)
	}
	return answers
}

// Now implements generate.Flights.
func (f flights) Now(ctx context.Context, key string) (generate.Shared, bool, error) {
	e, found, err := f.cache.GetNow(ctx, key)
	return sharedOf(&e), found, err
}

// Changed implements generate.Flights.
func (f flights) Changed(key string) (<-chan struct{}, func()) { return f.cache.Changed(key) }

func sharedOf(e *kv.Entry) generate.Shared {
	return generate.Shared{
		Request: e.Request, Model: e.Model, Provider: e.Provider, Usage: e.Usage,
		Answer: e.Answer, Made: e.Made, Passing: e.Passing,
	}
}
