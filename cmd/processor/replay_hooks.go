package main

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// replaying is what a replay changes in a pipeline: where requests come from,
// who is called, and what is behind the cache. Of a nil one nothing is changed.
type replaying struct {
	local *streams.Local
	calls *cassette
	view  *liveView
}

// pays reports that calls may cost something, so that what was paid is kept and
// looked for. Of a nil one they may.
func (x *replaying) pays() bool { return x == nil || !x.calls.dry }

// route implements generate.Router: the models' choice.
func (d *deps) route(r *stages.Request) (generate.Route, error) {
	route, err := d.models.route(r)
	if err == nil && d.replay != nil {
		d.replay.calls.identify(r, &route)
	}
	return route, err
}

// provisionLocal sets up what stages need whose requests and responses go
// through no stream.
func provisionLocal(ctx context.Context, cfg config.Config, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	if err := provisionBuckets(ctx, cfg, js); err != nil {
		return err
	}
	return streams.ProvisionLocal(ctx, js, streams.NewLayout(cfg.NATS, cfg.Streams))
}

// past is the ledger as generate sees it. A replay that pays nothing keeps none.
type past struct{ d *deps }

// Look implements generate.Ledger.
func (p past) Look(ctx context.Context, requests []*stages.Request) ([]generate.Past, error) {
	if !p.d.replay.pays() {
		return make([]generate.Past, len(requests)), nil
	}
	return p.d.ledger.Look(ctx, requests)
}

// Record implements generate.Ledger.
func (p past) Record(ctx context.Context, r *stages.Request, record generate.Record) (generate.Record, error) {
	if !p.d.replay.pays() {
		return record, nil
	}
	return p.d.ledger.Record(ctx, r, record)
}

// shared is the sharing of calls as generate sees it. Nobody works beside a
// replay on its private server, so that no lease has to be asked for.
type shared struct {
	flights
	d *deps
}

// Take implements generate.Flights.
func (s shared) Take(ctx context.Context, keys []string) (taken []bool, err error) {
	if s.d.replay == nil {
		return s.flights.Take(ctx, keys)
	}
	taken = make([]bool, len(keys))
	for i := range taken {
		taken[i] = true
	}
	return taken, nil
}

// Release implements generate.Flights.
func (s shared) Release(key string) {
	if s.d.replay == nil {
		s.flights.Release(key)
	}
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
