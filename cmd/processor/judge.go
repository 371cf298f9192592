package main

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/score"
)

const (
	// judgeTenant is whose budget the judge is paid from.
	judgeTenant = "_judge"
	// judgeTimeout bounds a verdict: an answer waits for it.
	judgeTimeout = 20 * time.Second
)

// judge makes the judge that the configuration names; nil where it names none.
func (d *deps) judge() *score.Judge {
	c := d.settings().Score
	if c.Judge == "" {
		return nil
	}
	return score.NewJudge(c.Judge, c.JudgeSample, d.askJudge)
}

// budgetsWithJudge gives the budgets of the configuration and the judge's own,
// where the configuration has none for it.
func budgetsWithJudge(cfg config.Config) []budget.Config {
	if cfg.Score.Judge == "" || cfg.Score.JudgeLimit == 0 {
		return cfg.Budgets
	}
	for _, b := range cfg.Budgets {
		if b.Tenant == judgeTenant {
			return cfg.Budgets
		}
	}
	own := budget.Defaults()
	own.Tenant, own.DailyLimit = judgeTenant, cfg.Score.JudgeLimit
	return append(slices.Clip(cfg.Budgets), own)
}

// errJudgeBudget is a verdict that the judge's budget does not allow now.
var errJudgeBudget = errors.New("the judge's budget is used up for now")

// askJudge calls the judge's model: as any call it is reserved before, and
// charged once. It is no request of a tenant, and recorded nowhere.
func (d *deps) askJudge(ctx context.Context, request []byte) (completion []byte, costUSD float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, judgeTimeout)
	defer cancel()
	r := &stages.Request{Handoff: schemas.Handoff{
		State: schemas.State{ID: rand.Text(), Tenant: judgeTenant, Kind: schemas.Chat, Model: d.settings().Score.Judge},
		Body:  request,
	}}
	route, err := d.models.route(r)
	if err != nil {
		return nil, 0, err
	}
	d.replay.judges(ctx, &route)
	call := schemas.Call{ID: rand.Text(), Model: route.Model, Body: request}
	limited := d.budgets.Limited(judgeTenant)
	if limited {
		grant, err := d.budgets.Reserve(ctx, r, route, call.ID)
		if err != nil {
			return nil, 0, err
		}
		if grant.State != generate.Granted {
			return nil, 0, errJudgeBudget
		}
	}
	answer, err := route.Caller.Generate(ctx, call)
	lasting := context.WithoutCancel(ctx)
	if err != nil {
		if failure, ok := errors.AsType[*schemas.CallError](err); limited && ok && failure.Unbilled {
			return nil, 0, errors.Join(err, d.budgets.Release(lasting, r, call.ID))
		} else if limited {
			return nil, 0, errors.Join(err, d.budgets.Forfeit(lasting, r, route, call.ID, schemas.Usage{}))
		}
		return nil, 0, err
	}
	cost := d.models.cost(route.Model, answer.Usage)
	d.metrics.paid(route.Model, answer.Usage, cost, 0)
	if limited {
		err = d.budgets.Settle(lasting, r, generate.Record{
			Call: call.ID, Model: route.Model, Provider: route.Provider, Calls: 1, Usage: answer.Usage, CostUSD: cost,
		})
	}
	return answer.Body, cost, err
}
