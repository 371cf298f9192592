package main

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/selection"
)

// models knows which provider has which model, and what it costs. Providers stay
// as they are; what is known of models may be changed as a whole.
type models struct {
	table     atomic.Pointer[modelTable]
	providers map[string]providers.Provider
	callers   map[string]generate.Caller // the same, counted
	only      string                     // the provider's name, where there is one only
	selector  *selector
	places    places // whose limits are set before the first call
}

// modelTable is what the configuration says of models. It is immutable.
type modelTable struct {
	list   []generate.Model
	prices tokens.Prices
}

func newModelTable(cfg config.Config) *modelTable {
	return &modelTable{cfg.Models, billedPrices(cfg)}
}

func newModels(cfg config.Config, figures *metrics, counter *tokens.Counter) (*models, error) {
	m := &models{providers: map[string]providers.Provider{}, callers: map[string]generate.Caller{}}
	m.table.Store(newModelTable(cfg))
	for _, c := range cfg.ProviderList() {
		c.BufferSize = cfg.Resources.ConnectionBuffer()
		p, err := providers.New(c)
		if err != nil {
			m.close()
			return nil, fmt.Errorf("providers: %s: %w", c.Name, err)
		}
		m.providers[c.Name] = p
		m.callers[c.Name] = figures.combined(figures.counted(p, counter), c, counter, &m.places)
		m.only = c.Name
	}
	if len(m.providers) != 1 {
		m.only = ""
	}
	return m, nil
}

// countingRules are the built-in ones and the configured models' own.
func countingRules(cfg config.Config) tokens.Table {
	table := tokens.DefaultTable()
	for _, entry := range cfg.Models {
		if entry.Encoding == "" && entry.TokenFactor == 0 {
			continue
		}
		rule, _ := table.Lookup(entry.Name)
		rule.Prefix = entry.Name
		if entry.Encoding != "" {
			rule = tokens.NewRule(entry.Name, entry.Encoding, 1, rule.Images)
		}
		if entry.TokenFactor > 0 {
			rule.Factor = entry.TokenFactor
		}
		table = append(table, rule)
	}
	return table
}

// billedPrices is what calls cost. Where every provider is simulated nothing is
// paid, whatever a model of that name costs elsewhere: only what the
// configuration says itself counts then, as for a rehearsal of a budget.
func billedPrices(cfg config.Config) tokens.Prices {
	for _, p := range cfg.ProviderList() {
		if p.Kind != providers.KindSimulated {
			return priceList(cfg)
		}
	}
	return configuredPrices(cfg, nil)
}

// priceList is the built-in one with the configured models' own prices.
func priceList(cfg config.Config) tokens.Prices {
	return configuredPrices(cfg, tokens.DefaultPrices())
}

func configuredPrices(cfg config.Config, prices tokens.Prices) tokens.Prices {
	for _, entry := range cfg.Models {
		if p := entry.Price; p != (generate.Price{}) {
			prices = append(prices, tokens.Price{Model: entry.Name, Input: p.Input, CachedInput: p.CachedInput, Output: p.Output})
		}
	}
	return prices
}

func (m *models) close() {
	for _, p := range m.providers {
		_ = p.Close()
	}
}

// route implements generate.Router: the named model, or for auto and for a group
// the one that the selector chooses of all or of the group's. A request whose
// answer did not do goes to a better one than those that were tried; one that
// names its model to one of the same group or to a fallback. A model that no
// entry names goes to the only provider.
func (m *models) route(r *stages.Request) (generate.Route, error) {
	t := m.table.Load()
	at := t.index(r.Model)
	list := t.choices(r.Model, at)
	switch {
	case at < 0 && len(list) == 0 && m.only != "":
		return m.to(r.Model, m.only, "only provider")
	case at < 0 && len(list) == 0:
		return generate.Route{}, m.notFound(r.Model)
	case len(r.Tried) > 0:
		if name, because, found := m.selector.better(r, list); found {
			return m.chosen(t, name, because, 1)
		}
		if last := r.Tried[len(r.Tried)-1]; slices.Contains(list, last) {
			return m.chosen(t, last, "again: there is no better model", 1)
		}
	}
	if at >= 0 {
		if _, err := selection.ParseOptions(r.Asked().Select); err != nil {
			return generate.Route{}, err // said now, and not only once the request says auto
		}
		return m.asked(r, &t.list[at])
	}
	name, because, probability, err := m.selector.choose(r, list)
	if err != nil {
		return generate.Route{}, err
	}
	return m.chosen(t, name, because, probability)
}

// asked goes to the model that a request asks for by its name, or, where it
// does not fit into that one's context, to the fallbacks that it fits into.
func (m *models) asked(r *stages.Request, e *generate.Model) (generate.Route, error) {
	route, err := m.to(e.Name, e.Provider, "requested")
	if err != nil {
		return route, err
	}
	short := m.selector.holds(r, e.Name)
	if short == nil {
		return route, nil
	}
	passed := []schemas.Tried{{Model: route.Model, Provider: route.Provider, Error: schemas.AsError(short).Code}}
	var fit []generate.Route
	for _, fallback := range route.Fallback {
		if err := m.selector.holds(r, fallback.Model); err != nil {
			passed = append(passed, schemas.Tried{Model: fallback.Model, Provider: fallback.Provider, Error: schemas.AsError(err).Code})
			continue
		}
		fit = append(fit, fallback)
	}
	if len(fit) == 0 {
		return generate.Route{}, short
	}
	route, route.Fallback, route.Passed = fit[0], fit[1:], passed
	route.Because += ", whose context is too small"
	return route, nil
}

func (m *models) chosen(t *modelTable, name, because string, probability float64) (generate.Route, error) {
	route, err := m.to(name, t.list[t.index(name)].Provider, because)
	route.Probability = probability
	return route, err
}

// choices are the models that a request may go to which asks for a name: all
// for auto, those of a group, or the named one (at its index), those of its
// group and its fallbacks. Fallbacks without an entry are left out.
func (t *modelTable) choices(name string, at int) []string {
	var list []string
	for i := range t.list {
		e := &t.list[i]
		switch {
		case name == generate.Auto, i == at, e.Group != "" && e.Group == name,
			at >= 0 && e.Group != "" && e.Group == t.list[at].Group,
			at >= 0 && slices.Contains(t.list[at].Fallback, e.Name):
			list = append(list, e.Name)
		}
	}
	return list
}

func (m *models) to(model, provider, because string) (generate.Route, error) {
	if provider == "" {
		provider = m.only
	}
	p, ok := m.callers[provider]
	if !ok {
		return generate.Route{}, m.notFound(model)
	}
	return generate.Route{Model: model, Provider: provider, Because: because, Caller: p, Fallback: m.fallbacks(model)}, nil
}

func (m *models) notFound(name string) error {
	var known []string
	for _, e := range m.table.Load().list {
		known = append(known, e.Name)
	}
	return schemas.Invalid(schemas.CodeModelNotFound, "model", "no model or group is called %.80q; there are %s", name, strings.Join(append(known, generate.Auto), ", "))
}

// cost is the price of a call in US dollars; 0 where no price is known.
func (m *models) cost(model string, usage schemas.Usage) float64 {
	price, ok := m.table.Load().prices.Lookup(model)
	if !ok {
		return 0
	}
	return price.Cost(usage.PromptTokens, usage.CachedTokens, usage.CompletionTokens)
}

// maxOutput is how long an answer of the model may be; 0 is unknown.
func (m *models) maxOutput(name string) int {
	t := m.table.Load()
	if at := t.index(name); at >= 0 {
		return t.list[at].MaxOutput
	}
	return 0
}

func (t *modelTable) index(name string) int {
	return slices.IndexFunc(t.list, func(e generate.Model) bool { return e.Name == name })
}

// cheaper gives the cheapest of a model's fallbacks that costs less than it.
func (m *models) cheaper(name string) (route generate.Route, found bool) {
	t := m.table.Load()
	at := t.index(name)
	if at < 0 {
		return generate.Route{}, false
	}
	typical := schemas.Usage{PromptTokens: 1000, CompletionTokens: 500}
	lowest := m.cost(name, typical)
	for _, fallback := range t.list[at].Fallback {
		cost := m.cost(fallback, typical)
		if cost >= lowest {
			continue
		}
		provider := m.only
		if i := t.index(fallback); i >= 0 {
			provider = t.list[i].Provider
		}
		if to, err := m.to(fallback, provider, "downgraded: the budget for "+name+" is used up"); err == nil {
			route, found, lowest = to, true, cost
		}
	}
	return route, found
}
