package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
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
	cache *replayCache
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

// judges has the calls of a judge count for the request whose answer is judged.
func (x *replaying) judges(ctx context.Context, route *generate.Route) {
	if r := stages.RequestOf(ctx); x != nil && r != nil {
		x.calls.identify(r, route)
		if caller, ok := route.Caller.(replayCaller); ok {
			caller.aside = true
			route.Caller = caller
		}
	}
}

// budgeted is the budget as generate sees it.
func (d *deps) budgeted() generate.Budget {
	if d.replay == nil {
		return d.budgets
	}
	return charging{d.budgets, d.replay.calls}
}

// charging notes what a request's calls were charged, so that a replay that goes
// on can charge it again.
type charging struct {
	*budgets
	calls *cassette
}

// Reserve implements generate.Budget.
func (c charging) Reserve(ctx context.Context, r *stages.Request, route generate.Route, call string) (generate.Grant, error) {
	grant, err := c.budgets.Reserve(ctx, r, route, call)
	if err == nil && grant.State == generate.Cheaper {
		c.calls.identify(r, &grant.Instead)
	}
	return grant, err
}

// Settle implements generate.Budget.
func (c charging) Settle(ctx context.Context, r *stages.Request, record generate.Record) error {
	if index, ok := indexOf(r.ID); ok && c.calls.dry {
		c.calls.write(index, note{Charges: []charge{{
			Tenant: r.Tenant, Model: record.Model, Tokens: billedTokens(record.Usage), Nanos: int64(budget.FromDollars(record.CostUSD)), Calls: 1,
		}}})
	}
	return c.budgets.Settle(ctx, r, record)
}

// charge is what was charged to a tenant's budgets.
type charge struct {
	Tenant string `json:"tenant"`
	Model  string `json:"model"`
	Tokens int64  `json:"tokens"`
	Nanos  int64  `json:"nanos"` // billionths of a dollar
	Calls  int64  `json:"calls"`
}

// addCharges adds up charges by tenant and model.
func addCharges(sums, list []charge) []charge {
	for _, c := range list {
		i := slices.IndexFunc(sums, func(s charge) bool { return s.Tenant == c.Tenant && s.Model == c.Model })
		if i < 0 {
			sums = append(sums, c)
			continue
		}
		sums[i].Tokens += c.Tokens
		sums[i].Nanos += c.Nanos
		sums[i].Calls += c.Calls
	}
	return sums
}

// charge has a ledger hold what was charged before.
func (b *budgets) charge(ctx context.Context, list []charge) error {
	now := time.Now().Truncate(time.Second)
	for _, c := range list { // the ledger comes to know the tenant
		request := budget.Request{Tenant: c.Tenant, ID: "again", Call: "again", Model: c.Model}
		if outcome := b.ledger.Reserve(ctx, []budget.Request{request})[0]; outcome.Err != nil {
			return outcome.Err
		}
		if err := b.ledger.Settle(ctx, []budget.Settlement{{Tenant: c.Tenant, ID: "again", Call: "again", Released: true}}); err != nil {
			return err
		}
	}
	_, err := b.ledger.Rebuild(ctx, time.Time{}, func(yield func(budget.Spend, error) bool) {
		for _, c := range list {
			amount := budget.Amount{Tokens: c.Tokens, Cost: budget.USD(c.Nanos), Requests: c.Calls}
			if !yield(budget.Spend{Tenant: c.Tenant, Time: now, Model: c.Model, Amount: amount}, nil) {
				return
			}
		}
	})
	return err
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
	found, err := p.d.ledger.Look(ctx, requests)
	if err == nil && p.d.replay != nil {
		for i, r := range requests {
			if paid := found[i].Paid; paid != nil { // the run that paid may have ended before it was in the cache
				p.d.remember(r, *paid, func() {})
			}
		}
	}
	return found, err
}

// Record implements generate.Ledger.
func (p past) Record(ctx context.Context, requests []*stages.Request, records []generate.Record) []generate.Recorded {
	if !p.d.replay.pays() {
		return make([]generate.Recorded, len(records))
	}
	return p.d.ledger.Record(ctx, requests, records)
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
