package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/score"
)

// scoring makes the score stage: what it rejects goes back to generate, and
// what it learns goes to whoever chooses models and parameters.
func (d *deps) scoring() *score.Stage {
	return score.NewStage(d.settings().Score, score.Deps{
		Scorer: score.New(d.settings().Score), Rejected: d.forget, Won: d.rememberBest,
		Scored: d.scored, Better: d.better, Answers: rounds{d},
		Earns: d.earned(), Switched: d.cascadeSwitched,
		Judge: d.judge(),
	})
}

// scored takes in how good an answer is thought to be.
func (d *deps) scored(r *stages.Request, quality float64, paid bool) {
	d.metrics.quality.Observe(quality)
	if paid {
		d.models.selector.scored(r, r.Selected.Model, quality)
		d.tuner.Observe(r, r.Body, quality)
	}
}

// better reports whether a request that is asked again would go to a model
// whose answer it has not had.
func (d *deps) better(r *stages.Request) bool {
	route, err := d.models.route(r)
	return err == nil && !slices.Contains(r.Tried, route.Model)
}

// rounds are the answers of earlier rounds, as they were recorded.
type rounds struct{ d *deps }

// Keep implements score.Answers.
func (a rounds) Keep(ctx context.Context, r *stages.Request) error {
	recorded := a.d.ledger.Record(ctx, []*stages.Request{r}, []generate.Record{{
		Model: r.Selected.Model, Provider: r.Selected.Provider, Usage: r.Usage, Answer: r.Answer,
	}})
	if err := recorded[0].Err; !errors.Is(err, generate.ErrRecorded) {
		return err
	}
	return nil
}

// Find implements score.Answers.
func (a rounds) Find(ctx context.Context, r *stages.Request, round int) ([]byte, error) {
	key := schemas.RecordKey(r.Key(), round)
	record, found, err := a.d.answers.FindNow(ctx, key)
	if err == nil && !found {
		err = fmt.Errorf("request %s has no recorded answer", key)
	}
	if err != nil {
		return nil, err
	}
	return a.d.forms.Repaired(r, record.Answer), nil
}

// rememberBest keeps the best answer of all attempts for equal requests, who
// would hardly get a better one.
func (d *deps) rememberBest(r *stages.Request) {
	if r.Fingerprint == "" || r.Cache == cache.Off || !d.cacheable(r, r.Selected.Provider, r.Answer) {
		return
	}
	entry := kv.Entry{
		Model: r.Selected.Model, Provider: r.Selected.Provider, Usage: r.Usage, CostUSD: r.CostUSD,
		Answer: r.Answer, Request: r.Key(), Settled: true,
	}
	for _, a := range r.Attempts {
		if a.Used {
			entry.Usage, entry.CostUSD = a.Usage, a.CostUSD
		}
	}
	d.cache.Put(cache.Key(r), entry, cache.TTL(r, d.settings().Cache.TTL.Std()), nil)
}

// cascadeEvent tells a tenant that attempts at better answers were switched.
type cascadeEvent struct {
	Type    string    `json:"type"` // cascade_off, cascade_on
	Tenant  string    `json:"tenant"`
	Route   string    `json:"route"`
	Because string    `json:"because"`
	At      time.Time `json:"at"`
}

func (d *deps) cascadeSwitched(r *stages.Request, s score.Switch) {
	event := cascadeEvent{Type: "cascade_off", Tenant: r.Tenant, Route: score.RouteOf(r), Because: s.Because, At: time.Now().UTC()}
	if s.On {
		event.Type = "cascade_on"
	}
	if text, err := json.Marshal(&event); err == nil {
		_ = d.nc.Publish(d.layout.Names.Events(r.Tenant), text) // nobody may be listening
	}
}
