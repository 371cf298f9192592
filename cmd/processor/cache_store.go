package main

import (
	"context"
	"time"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate"
)

// passingTTL is how long an answer that may not be cached is there for those
// that wait for it.
const passingTTL = 30 * time.Second

func (d *deps) cacheConfig() cache.Config {
	return cache.Config{Enabled: d.cfg.Cache.Enabled, MaxTemperature: d.cfg.Cache.MaxTemperature}
}

// remember keeps a new answer for equal requests.
func (d *deps) remember(r *stages.Request, record generate.Record, kept func()) {
	d.metrics.paid(record.Model, record.Usage, record.CostUSD, r.Tokens.Saved)
	if r.Cache == cache.Off || r.Fingerprint == "" {
		kept()
		return
	}
	d.cache.Put(cache.Key(r), kv.Entry{
		Model: record.Model, Provider: record.Provider, Usage: record.Usage, CostUSD: record.CostUSD,
		Answer: record.Answer, Request: r.Key(),
	}, cache.TTL(r, d.cfg.Cache.TTL.Std()), kept)
}

// forget removes an answer that must not be used again.
func (d *deps) forget(r *stages.Request) {
	if r.Fingerprint == "" || r.Cache == cache.Off {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = d.cache.Delete(ctx, cache.Key(r)) // it expires anyway
}

// cached is the cache as the cache stage sees it.
func (d *deps) cached() cache.Store { return cacheStore{d.cache} }

type cacheStore struct{ *kv.Cache }

// Find implements cache.Store. What only those that wait may share is none.
func (s cacheStore) Find(ctx context.Context, keys []string) map[string]cache.Entry {
	found := s.Get(ctx, keys)
	entries := make(map[string]cache.Entry, len(found))
	for key, e := range found {
		if !e.Passing {
			entries[key] = cache.Entry{Model: e.Model, Provider: e.Provider, Usage: e.Usage, Answer: e.Answer}
		}
	}
	return entries
}

// flights is what generate shares calls with: leases, and the cache.
type flights struct {
	*kv.Leases
	cache *kv.Cache
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
	return sharedOf(e), found, err
}

// Changed implements generate.Flights.
func (f flights) Changed(key string) (<-chan struct{}, func()) { return f.cache.Changed(key) }

func sharedOf(e kv.Entry) generate.Shared {
	return generate.Shared{
		Request: e.Request, Model: e.Model, Provider: e.Provider, Usage: e.Usage,
		Answer: e.Answer, Made: e.Made, Passing: e.Passing,
	}
}
