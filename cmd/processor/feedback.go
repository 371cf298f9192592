package main

import (
	"bytes"
	"context"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/selection"
	"github.com/adpa/processor/streams"
)

const (
	// badBelow is the score of feedback below which an answer is wrong: equal
	// requests are not to get it.
	badBelow = 0.5
	// labelWeight is how many scores of the product's own a label counts for in
	// the statistics: people know better.
	labelWeight = 5
)

// feedback takes in what applications say of answers.
type feedback struct {
	d      *deps
	result *prometheus.CounterVec
}

// listenForFeedback follows what applications say, each message in one process of all.
func (d *deps) listenForFeedback(ctx context.Context, registry prometheus.Registerer) error {
	f := &feedback{d, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "processor_feedback_total", Help: "Feedback of applications: good, bad, unknown (no stored response, or one of no model) or malformed.",
	}, []string{"result"})}
	if registry != nil {
		registry.MustRegister(f.result)
	}
	stop, err := streams.FollowFeedback(ctx, d.js, d.layout, f)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, stop)
	return nil
}

// Malformed implements streams.FeedbackHandler.
func (f *feedback) Malformed(error) { f.result.WithLabelValues("malformed").Inc() }

// told is what a stored response says of the answer in it.
type told struct {
	About struct {
		Route    string           `json:"route"`
		Selected schemas.Selected `json:"selected"`
	} `json:"processor"`
}

// Handle implements streams.FeedbackHandler: the stored response says which
// model and route the feedback is about.
func (f *feedback) Handle(ctx context.Context, list []streams.Told) error {
	keys := make([]string, len(list))
	for i := range list {
		keys[i] = list[i].Key()
	}
	responses, err := f.d.ledger.responses.FindWhole(ctx, keys)
	if err != nil {
		return err
	}
	for i := range list {
		if err := f.handle(ctx, &list[i], responses[keys[i]]); err != nil {
			return err
		}
	}
	return nil
}

func (f *feedback) handle(ctx context.Context, t *streams.Told, response streams.Response) error {
	var about told
	if len(response.Body) == 0 || json.Unmarshal(response.Body, &about) != nil || about.About.Selected.Model == "" {
		f.result.WithLabelValues("unknown").Inc()
		return nil //nolint:nilerr // feedback on what is no answer is done with
	}
	if t.Value < badBelow {
		if err := f.d.forgetWrong(ctx, t.Tenant, response); err != nil {
			return err
		}
		f.result.WithLabelValues("bad").Inc()
	} else {
		f.result.WithLabelValues("good").Inc()
	}
	f.d.models.selector.labelled(about.About.Route, about.About.Selected.Model, t.Value)
	return nil
}

// forgetWrong takes a wrong answer out of the cache, for all replicas, if it is
// the one that the cache has by now.
func (d *deps) forgetWrong(ctx context.Context, tenant string, response streams.Response) error {
	if response.Key == "" {
		return nil
	}
	r := &stages.Request{Handoff: schemas.Handoff{State: schemas.State{Tenant: tenant, Fingerprint: response.Key}}}
	key := cache.Key(r)
	keys := []string{key}
	entry, found, err := d.cache.GetNow(ctx, key)
	if err == nil && found && entry.Of != "" { // it stands for the answer to a near duplicate
		keys = append(keys, entry.Of)
		entry, found, err = d.cache.GetNow(ctx, entry.Of)
	}
	if err != nil || !found || !sameAnswer(entry.Answer, response.Body) {
		return err
	}
	for _, key := range keys {
		if err := d.cache.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// sameAnswer reports whether two completions are the same answer: the same
// choices, or, where those of one were repaired, the same id.
func sameAnswer(a, b []byte) bool {
	for _, name := range []string{"choices", "id"} {
		left, ok := schemas.Member(a, name)
		right, also := schemas.Member(b, name)
		if ok && also && !left.Empty() && string(left.Of(a)) != `""` && bytes.Equal(left.Of(a), right.Of(b)) {
			return true
		}
	}
	return false
}

// labelled takes in what people think of a model's answer on a route. Of a
// request without a route there is only the model.
func (s *selector) labelled(route, model string, value float64) {
	routes := []string{selection.Everywhere}
	if route != "" {
		named := &stages.Request{}
		named.Options, _ = json.Marshal(map[string]string{"route": route})
		routes = append(routes, routeKey(named, &selection.Need{}))
	}
	now := time.Now()
	for _, at := range routes {
		s.learnt.Update(at, calibration.EscapeName(model), func(f *selection.Figures) {
			for range labelWeight {
				f.Scored(now, value)
			}
		})
	}
}
