package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/stats"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/tune"
)

const (
	// shareTuned is how often what was learnt of settings is shared.
	shareTuned = 500 * time.Millisecond
	// mostTuned bounds the searches that are kept, at about 1 KB each.
	mostTuned = 10_000
	// tunedInfix is in their keys: <route>.<model>.tune.<tenant>.<search>.
	tunedInfix = ".tune."
)

// openTuning opens what parameters are chosen by.
func (d *deps) openTuning(ctx context.Context) error {
	store, err := stats.Open[tune.Learner](ctx, d.js, stats.Options{
		Bucket: bucketLayout(d.cfg).Bucket(kv.BucketModels), Filter: "*.*" + tunedInfix + "*.*", Every: shareTuned, Most: mostTuned,
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, store.Close)
	c := d.cfg.Tune
	d.tuner = tune.New(tune.Config{
		Enabled: c.Enabled, Parameters: c.Parameters, Objective: c.Objective, Ranges: c.AllRanges(), Share: c.Share, Key: tunedKey,
	}, store)
	for name, caller := range d.models.callers {
		d.models.callers[name] = untuning{caller, d.tuner}
	}
	return nil
}

func tunedKey(tenant, route, model, search string) string {
	named := &stages.Request{}
	if route != "" {
		named.Options = append(append([]byte(`{"route":`), schemas.Quote(route)...), '}')
		route = routeKey(named, nil)
	} else {
		route = "=none"
	}
	return route + "." + calibration.EscapeName(model) + tunedInfix + tenant + "." + search
}

// prepareTuned sets the parameters of a call.
func (d *deps) prepareTuned(r *stages.Request, route generate.Route, body []byte) (sent, parameters []byte) {
	return d.tuner.Prepare(r, route.Model, body)
}

// untuning is a caller that makes a call again, as it was asked for, where the
// provider refuses it with the parameters that the product chose: models that
// reason take no temperature. Their requests are left alone from then on.
type untuning struct {
	generate.Caller
	tuner *tune.Tuner
}

// Generate implements generate.Caller.
func (u untuning) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	answer, err := u.Caller.Generate(ctx, call)
	failure, ok := errors.AsType[*schemas.CallError](err)
	if call.Untuned == nil || !ok || failure.Status != http.StatusBadRequest && failure.Status != http.StatusUnprocessableEntity {
		return answer, err
	}
	call.Body, call.Untuned = call.Untuned, nil
	again, errAgain := u.Caller.Generate(ctx, call)
	if errAgain == nil {
		u.tuner.Refused(call.Model)
	}
	return again, errAgain
}
