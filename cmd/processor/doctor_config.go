package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/generate"
)

// checkConfiguration looks for what can be used and is hardly meant.
func (d *doctor) checkConfiguration(a *app) {
	path, err := a.configFile()
	switch {
	case err != nil:
		d.add("configuration", failure, "", "%v", err)
	case path == "":
		d.add("configuration", fine, "", "there is no %s: the defaults hold", defaultConfig)
	default:
		d.add("configuration", fine, "", "%s can be used", path)
	}
	d.checkModels()
	d.checkBudgets()
	if d.cfg.NATS.Replicas == 1 && d.cfg.NATS.URL != "" {
		d.add("replicas", warning, "nats.replicas: 3 on a cluster of three servers, then processor provision",
			"every stream is kept by one server: while that is away nothing works, and its disk is the only copy")
	}
	if !d.cfg.Streams.Archive.Enabled {
		d.add("archive", warning, "streams.archive.enabled: true", "the archive is off: nothing can be replayed")
	}
}

// checkModels looks for models whose calls would count as free.
func (d *doctor) checkModels() {
	prices := priceList(d.cfg)
	var unpriced []string
	for _, m := range d.cfg.Models {
		if _, known := prices.Lookup(m.Name); !known && m.Price == (generate.Price{}) && d.paid(m.Provider) {
			unpriced = append(unpriced, m.Name)
		}
	}
	if len(unpriced) > 0 {
		d.add("prices", warning, "models[].price: {input, output} in dollars for a million tokens", "no price is known of %q: their calls count as free in cost_usd and in budgets in dollars", unpriced)
	}
}

// paid reports whether a provider may cost something; a model without one goes
// to the only provider.
func (d *doctor) paid(name string) bool {
	for _, p := range d.cfg.ProviderList() {
		if p.Name == name || name == "" {
			return p.Kind != providers.KindSimulated
		}
	}
	return false
}

// checkBudgets looks for budgets that do not hold what their reader expects.
func (d *doctor) checkBudgets() {
	paid := false
	for _, p := range d.cfg.ProviderList() {
		paid = paid || p.Kind != providers.KindSimulated
	}
	if paid && len(d.cfg.Budgets) == 0 {
		d.add("budgets", warning, "budgets: [{tenant: acme, daily_limit_usd: 20}]", "no tenant has a budget: what is spent has no limit but those that were set with processor budget set")
	}
	limited := map[string]bool{}
	for i, b := range d.cfg.Budgets {
		limited[b.Tenant] = true
		if !limits(b) {
			d.add("budgets", warning, "set one, as daily_limit: 1000000", "budgets[%d] of tenant %s has no limit", i, b.Tenant)
		}
		if !b.Hard {
			d.add("budgets", warning, "hard: true", "budgets[%d] of tenant %s is not hard: answers longer than expected may pass the limit", i, b.Tenant)
		}
	}
	for _, t := range d.cfg.Tenants {
		if paid && len(d.cfg.Budgets) > 0 && !limited[t.Name] {
			d.add("budgets", warning, "add an entry for it to budgets", "tenant %s has none", t.Name)
		}
	}
}

func limits(b budget.Config) bool {
	return b.PerRequestLimit+b.MinuteLimit+b.HourlyLimit+b.DailyLimit+b.MonthlyLimit+b.TotalLimit+b.RequestsPerMinute > 0 ||
		b.PerRequestLimitUSD+b.MinuteLimitUSD+b.HourlyLimitUSD+b.DailyLimitUSD+b.MonthlyLimitUSD+b.TotalLimitUSD > 0
}

// checkProviders asks every provider for something that costs nothing, with its key.
func (d *doctor) checkProviders(ctx context.Context) {
	list := d.cfg.ProviderList()
	found := make([]finding, len(list))
	var asking sync.WaitGroup
	for i, p := range list {
		asking.Go(func() { found[i] = d.askProvider(ctx, p) })
	}
	asking.Wait()
	d.findings = append(d.findings, found...)
}

func (d *doctor) askProvider(ctx context.Context, cfg providers.Config) finding {
	check := "provider " + cfg.Name
	if cfg.Kind == providers.KindSimulated {
		return finding{check, fine, "simulated: answers are made up and cost nothing", ""}
	}
	p, err := providers.New(cfg)
	if err != nil {
		return finding{check, failure, err.Error(), "correct the entry in providers"}
	}
	defer p.Close()
	checker, ok := p.(providers.Checker)
	if !ok {
		return finding{check, skipped, "it has nothing that could be asked for free", ""}
	}
	ctx, cancel := d.within(ctx)
	defer cancel()
	if err := checker.Check(ctx); err != nil {
		return explainProvider(check, cfg, err)
	}
	return finding{check, fine, "answers, and takes the key", ""}
}

func explainProvider(check string, cfg providers.Config, err error) finding {
	f := finding{check, failure, err.Error(), "check base_url and the network"}
	var call *schemas.CallError
	if !errors.As(err, &call) {
		return f
	}
	f.Message = call.Message
	if call.Status != 0 {
		f.Message = fmt.Sprintf("it answered %d: %s", call.Status, call.Message)
	}
	switch {
	case (call.Status == 401 || call.Status == 403) && cfg.APIKey == "":
		f.Try = "set api_key, best as api_key: ${NAME}"
	case call.Status == 401 || call.Status == 403:
		f.Try = "the key is not taken: check the value of api_key and what the key may do"
	case call.Status == 404:
		f.Status, f.Try = warning, "check base_url: most end in /v1. A server without a list of models may do all the same"
	case call.Status == 429:
		f.Status, f.Try = warning, "the key is taken; its limits are used up at the moment: look at the provider's console"
	case call.Status >= 500:
		f.Status, f.Try = warning, "the provider has trouble; requests are tried again and go to the models named under fallback"
	}
	return f
}
