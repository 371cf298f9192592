package main

import (
	"context"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate"

	"github.com/adpa/processor/kv"
)

// replaying is what a replay changes in a pipeline: who is called, and what is
// behind the cache. Of a nil one nothing is changed.
type replaying struct {
	calls *cassette
	view  *liveView
}

// route implements generate.Router: the models' choice.
func (d *deps) route(r *stages.Request) (generate.Route, error) {
	route, err := d.models.route(r)
	if err == nil && d.replay != nil {
		d.replay.calls.identify(r, &route)
	}
	return route, err
}

// over lays a cache over that of the deployment whose traffic is replayed.
func (x *replaying) over(store cache.Store) cache.Store {
	if x == nil || x.view == nil {
		return store
	}
	return viewed{store, x.view}
}

// liveView is the deployment's cache as it was when the replayed traffic began,
// for reading.
type liveView struct {
	entries *kv.CacheView
	begun   schemas.Millis // entries that were made later are the traffic's own
	clock   *replayClock
}

// viewed looks into the view for what a replay has not answered itself.
type viewed struct {
	cache.Store
	view *liveView
}

// Find implements cache.Store. What the view cannot say is a miss.
func (v viewed) Find(ctx context.Context, keys []string) map[string]cache.Entry {
	found := v.Store.Find(ctx, keys)
	var missing []string
	for _, key := range keys {
		if _, ok := found[key]; !ok {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 {
		return found
	}
	behind, err := v.view.entries.At(ctx, missing, v.view.begun, v.view.clock.now())
	if err != nil || len(behind) == 0 {
		return found
	}
	if found == nil {
		found = make(map[string]cache.Entry, len(behind))
	}
	for key, e := range behind {
		found[key] = cache.Entry{Model: e.Model, Provider: e.Provider, Usage: e.Usage, Answer: e.Answer}
	}
	return found
}
