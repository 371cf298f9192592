// Package generate calls the models.
package generate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/adpa/processor/stages/selection"
	"github.com/adpa/processor/stages/tune"
)

// Auto is the model name with which an application leaves the choice to the product.
const Auto = "auto"

// Model is an entry of the list models: of the configuration.
type Model struct {
	// Name is what applications ask for and what the provider is sent.
	Name string `yaml:"name"`
	// Provider is the name of the provider that has the model. It may be left
	// out where there is only one.
	Provider string `yaml:"provider"`
	// Group is a name under which applications ask for any model that has it.
	Group string `yaml:"group"`
	// Context is how many tokens the prompt and the answer may have together; 0
	// (the default) means unknown, and unchecked.
	Context int `yaml:"context"`
	// MaxOutput is how many tokens the answer may have; 0 (the default) means unknown.
	MaxOutput int `yaml:"max_output"`
	// Encoding is that by which its tokens are counted, such as o200k_base or
	// cl100k_base; left out it is the built-in table's.
	Encoding string `yaml:"encoding"`
	// TokenFactor is what to multiply that count with, for a model whose own
	// encoding is not known; left out it is the built-in table's.
	TokenFactor float64 `yaml:"token_factor"`
	// Price is what the model costs; what is left out comes from the built-in table.
	Price Price `yaml:"price"`
	// Quality is how good the model is thought to be, 0 to 1, before anything
	// was measured. Default 0: unknown.
	Quality float64 `yaml:"quality"`
	// Fallback are models to take, in this order, when this one fails or its
	// context is too small for the request.
	Fallback []string `yaml:"fallback"`
	// Capabilities are what the model takes beyond text: images, tools,
	// json_schema, logprobs. Left out it is unknown, and all are tried; an empty
	// list means none.
	Capabilities []string `yaml:"capabilities"`
}

// Price is in US dollars for a million tokens.
type Price struct {
	// Input is for the prompt.
	Input float64 `yaml:"input"`
	// CachedInput is for the part of the prompt that the provider had cached.
	CachedInput float64 `yaml:"cached_input"`
	// Output is for the answer, reasoning included.
	Output float64 `yaml:"output"`
}

// ValidateModels reports the first entry that cannot be used: its key, relative
// to the list, and what would be right. providers are the names of the
// configured providers; with none configured there is simulated alone.
func ValidateModels(models []Model, providers []string) error {
	byName := map[string]*Model{}
	for i := range models {
		m := &models[i]
		if err := m.validate(providers); err != nil {
			return fmt.Errorf("[%d].%w", i, err)
		}
		if byName[m.Name] != nil {
			return fmt.Errorf("[%d].name: %s has an entry already; give each model one", i, m.Name)
		}
		byName[m.Name] = m
	}
	for i := range models {
		if byName[models[i].Group] != nil {
			return fmt.Errorf("[%d].group: %s is the name of a model; a group needs one of its own", i, models[i].Group)
		}
		if at := fallbackCycle(&models[i], byName); at != "" {
			return fmt.Errorf("[%d].fallback: leads back to %s; a chain of fallbacks must end", i, at)
		}
	}
	return nil
}

func (m *Model) validate(providers []string) error {
	switch {
	case m.Name == "" || len(m.Name) > 256:
		return errors.New("name: must be 1 to 256 bytes")
	case m.Name == Auto || m.Group == Auto:
		return fmt.Errorf("name: %s stands for the product's own choice; models and groups need other names", Auto)
	case m.Provider == "" && len(providers) > 1:
		return fmt.Errorf("provider: is missing; there are %s", strings.Join(providers, ", "))
	case m.Provider != "" && !slices.Contains(providers, m.Provider):
		return fmt.Errorf("provider: %.80q is not configured; there are %s", m.Provider, strings.Join(providers, ", "))
	case m.Context < 0:
		return fmt.Errorf("context: %d is negative", m.Context)
	case m.MaxOutput < 0:
		return fmt.Errorf("max_output: %d is negative", m.MaxOutput)
	case m.Context > 0 && m.MaxOutput > m.Context:
		return fmt.Errorf("max_output: %d is more than context, which is %d", m.MaxOutput, m.Context)
	case !allKnown(m.Capabilities):
		return fmt.Errorf("capabilities: %.200q: each must be one of %s", m.Capabilities, strings.Join(selection.Capabilities, ", "))
	case !(m.TokenFactor >= 0 && m.TokenFactor <= 100):
		return fmt.Errorf("token_factor: %v is not within 0 and 100", m.TokenFactor)
	case !(m.Quality >= 0 && m.Quality <= 1): // written so that NaN fails
		return fmt.Errorf("quality: %v is not within 0 and 1", m.Quality)
	}
	for _, price := range []struct {
		key   string
		value float64
	}{{"input", m.Price.Input}, {"cached_input", m.Price.CachedInput}, {"output", m.Price.Output}} {
		if !(price.value >= 0 && price.value <= 1e6) {
			return fmt.Errorf("price.%s: %v is not within 0 and 1000000 dollars for a million tokens", price.key, price.value)
		}
	}
	return nil
}

func allKnown(capabilities []string) bool {
	return !slices.ContainsFunc(capabilities, func(c string) bool { return !slices.Contains(selection.Capabilities, c) })
}

// fallbackCycle follows the fallbacks of a model and gives the first name that
// comes back to it, or "".
func fallbackCycle(start *Model, byName map[string]*Model) string {
	seen := map[string]bool{}
	todo := slices.Clone(start.Fallback)
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if name == start.Name {
			return name
		}
		if m := byName[name]; m != nil && !seen[name] {
			seen[name] = true
			todo = append(todo, m.Fallback...)
		}
	}
	return ""
}

// SelectConfig is the section select: of the configuration: how a model is
// chosen for auto or a group.
type SelectConfig struct {
	// Criteria are the weights of quality, speed and cost; only their ratios
	// matter, and one that is left out has none. Default quality 0.6, speed 0.4.
	Criteria map[string]float64 `yaml:"criteria"`
	// MaxCostUSD is what a request may be expected to cost at most; 0 (the
	// default) is no bound. A request that no model is cheap enough for fails.
	MaxCostUSD float64 `yaml:"max_cost_usd"`
	// MinQuality has the cheapest model chosen that surely has this quality, 0
	// to 1, whatever the criteria say. Default 0: off.
	MinQuality float64 `yaml:"min_quality"`
	// Explore is the share of requests that go to the other models in turn, so
	// that one that has become better is noticed. Default 0.05.
	Explore float64 `yaml:"explore"`
	// Deterministic true means that the best by the estimates is always chosen:
	// nothing is explored, and no chance decides. Default false.
	Deterministic bool `yaml:"deterministic"`
}

// criteria are what a model can be chosen by.
var criteria = []string{"quality", "speed", "cost"}

// DefaultSelect gives the defaults of the section select:.
func DefaultSelect() SelectConfig {
	return SelectConfig{Criteria: map[string]float64{"quality": 0.6, "speed": 0.4, "cost": 0}, Explore: 0.05}
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c SelectConfig) Validate() error {
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(c.Criteria)) {
		weight := c.Criteria[name]
		if !slices.Contains(criteria, name) {
			return fmt.Errorf("criteria.%.40s: is none of %s", name, strings.Join(criteria, ", "))
		}
		if !(weight >= 0 && weight <= 1e6) {
			return fmt.Errorf("criteria.%s: %v is not a weight of 0 or more", name, weight)
		}
		sum += weight
	}
	switch {
	case !(c.MaxCostUSD >= 0 && c.MaxCostUSD <= 1e6):
		return fmt.Errorf("max_cost_usd: %v is not within 0 and 1000000", c.MaxCostUSD)
	case !(c.MinQuality >= 0 && c.MinQuality <= 1):
		return fmt.Errorf("min_quality: %v is not within 0 and 1", c.MinQuality)
	case !(c.Explore >= 0 && c.Explore <= 0.5):
		return fmt.Errorf("explore: %v is not within 0 and 0.5", c.Explore)
	case sum == 0:
		return fmt.Errorf("criteria: at least one of %s must weigh more than 0", strings.Join(criteria, ", "))
	}
	return nil
}

// TuneConfig is the section tune: of the configuration: which parameters of a
// request the product may choose where the request leaves them open.
type TuneConfig struct {
	// Enabled true means that parameters are tuned. Default false.
	Enabled bool `yaml:"enabled"`
	// Parameters are those that are tuned, one at a time: temperature, top_p,
	// frequency_penalty, presence_penalty, or another number with an entry in
	// ranges. Default temperature and top_p.
	Parameters []string `yaml:"parameters"`
	// Ranges are where values are taken from. Left out: temperature 0 to 1 in 5
	// steps, top_p 0.6 to 0.9 in 4, the penalties 0.2 to 0.6 in 3.
	Ranges map[string]tune.Range `yaml:"ranges"`
	// Share is the part of the requests, over 0 and up to 1, that settings are
	// tried on while the best is not found; the others are sent as they are.
	// Default 1: it is found sooner, and less is lost on the way.
	Share float64 `yaml:"share"`
	// Objective is what they are tuned for: quality, cost or speed. Default quality.
	Objective string `yaml:"objective"`
}

// DefaultTune gives the defaults of the section tune:.
func DefaultTune() TuneConfig {
	return TuneConfig{Parameters: []string{"temperature", "top_p"}, Objective: "quality", Share: 1}
}

// AllRanges gives the ranges of the configuration and the defaults of the others.
func (c TuneConfig) AllRanges() map[string]tune.Range {
	ranges := tune.DefaultRanges()
	maps.Copy(ranges, c.Ranges)
	return ranges
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c TuneConfig) Validate() error {
	ranges := c.AllRanges()
	for _, name := range slices.Sorted(maps.Keys(c.Ranges)) {
		if !tune.ValidName(name) {
			return fmt.Errorf("ranges.%.40s: is no parameter that can be tuned: it decides what an answer may cost or is asked for, or is not written in a-z, 0-9 and _", name)
		}
		if err := c.Ranges[name].Validate(); err != nil {
			return fmt.Errorf("ranges.%s: %w", name, err)
		}
	}
	for i, name := range c.Parameters {
		if _, ok := ranges[name]; !ok {
			return fmt.Errorf("parameters[%d]: %.40q is none of %s; others need an entry in ranges", i, name, strings.Join(slices.Sorted(maps.Keys(ranges)), ", "))
		}
		if slices.Contains(c.Parameters[:i], name) {
			return fmt.Errorf("parameters[%d]: %s is named twice", i, name)
		}
	}
	if c.Enabled && len(c.Parameters) == 0 {
		return fmt.Errorf("parameters: is empty, and tuning needs at least one of %s", strings.Join(slices.Sorted(maps.Keys(ranges)), ", "))
	}
	if !(c.Share > 0 && c.Share <= 1) {
		return fmt.Errorf("share: %v is not over 0 and up to 1", c.Share)
	}
	if !slices.Contains(criteria, c.Objective) {
		return fmt.Errorf("objective: %.40q is none of %s", c.Objective, strings.Join(criteria, ", "))
	}
	return nil
}
