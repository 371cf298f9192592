package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/stages/generate"
)

// Change is a setting in which a new configuration differs from the one that a
// process runs with.
type Change struct {
	Key     string // such as models or score.threshold
	Applied bool   // else it holds only once the process is started again
}

// reloadable are the settings that a running process takes over: sections with a
// dot at their end, and single keys. Everything else opens files, connections or
// streams, or sizes what has begun.
var reloadable = []string{
	"models", "budgets", "tenants", "select.", "compress.",
	"cache.enabled", "cache.ttl", "cache.match", "cache.scope", "cache.max_temperature", "cache.providers",
	"batch.max_batch_size", "batch.timeout",
	"score.metrics", "score.threshold", "score.min_gain", "score.min_gain_per_usd", "score.judge", "score.judge_sample", "score.judge_limit",
}

func isReloadable(key string) bool {
	return slices.ContainsFunc(reloadable, func(r string) bool {
		return key == r || strings.HasSuffix(r, ".") && strings.HasPrefix(key, r)
	})
}

// Reload gives the configuration that a process goes on with which runs with
// one and has read another: the new one's settings where a running process can
// take them over, else its own. It lists every setting that differs, by key. Of
// providers, limits a minute are taken over; of models, all but what tokens are
// counted by. The error is for settings that cannot be used together then, as a
// model of a provider that is new.
func Reload(running, next Config) (merged Config, changes []Change, err error) {
	merged = running
	merged.Models, merged.Providers = nil, slices.Clone(running.Providers)
	note := func(key string, applied bool) { changes = append(changes, Change{key, applied}) }
	reload(reflect.ValueOf(&merged).Elem(), reflect.ValueOf(running), reflect.ValueOf(next), "", note)
	merged.reloadModels(running.Models, next.Models, note)
	merged.reloadProviders(next.Providers, note)
	if err := merged.Validate(); err != nil {
		return running, changes, fmt.Errorf("%w; this needs settings that hold only after a restart", err)
	}
	return merged, changes, nil
}

// reload compares a section and takes over what can be.
func reload(merged, running, next reflect.Value, path string, note func(string, bool)) {
	for i, field := range slices.Collect(running.Type().Fields()) {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		key := strings.TrimPrefix(path+"."+name, ".")
		switch {
		case !field.IsExported() || name == "-" || key == "models" || key == "providers":
			continue
		case options == "inline":
			key = path
		}
		if field.Type.Kind() == reflect.Struct && describe(field.Type).Kind == Section {
			reload(merged.Field(i), running.Field(i), next.Field(i), key, note)
			continue
		}
		if same(running.Field(i), next.Field(i)) {
			continue
		}
		if isReloadable(key) {
			merged.Field(i).Set(next.Field(i))
		}
		note(key, isReloadable(key))
	}
}

// same is reflect.DeepEqual, but an empty list is as good as none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// reloadModels takes over the list of models. Tokens go on being counted as
// they were.
func (c *Config) reloadModels(running, next []generate.Model, note func(string, bool)) {
	c.Models = slices.Clone(next)
	for i := range c.Models {
		m := &c.Models[i]
		var was generate.Model
		if at := slices.IndexFunc(running, func(o generate.Model) bool { return o.Name == m.Name }); at >= 0 {
			was = running[at]
		}
		if m.Encoding != was.Encoding || m.TokenFactor != was.TokenFactor {
			note(fmt.Sprintf("models[%d].encoding", i), false)
			m.Encoding, m.TokenFactor = was.Encoding, was.TokenFactor
		}
	}
	if !same(reflect.ValueOf(running), reflect.ValueOf(c.Models)) {
		note("models", true)
	}
}

// reloadProviders takes over limits a minute of the providers that run.
func (c *Config) reloadProviders(next []providers.Config, note func(string, bool)) {
	found := 0
	for i := range c.Providers {
		p := &c.Providers[i]
		at := slices.IndexFunc(next, func(o providers.Config) bool { return o.Name == p.Name })
		key := "providers[" + p.Name + "]"
		if at < 0 {
			note(key, false)
			continue
		}
		found++
		n := next[at]
		if p.RequestsPerMinute != n.RequestsPerMinute {
			note(key+".requests_per_minute", true)
		}
		if p.TokensPerMinute != n.TokensPerMinute {
			note(key+".tokens_per_minute", true)
		}
		p.RequestsPerMinute, p.TokensPerMinute = n.RequestsPerMinute, n.TokensPerMinute
		reload(reflect.ValueOf(&providers.Config{}).Elem(), reflect.ValueOf(*p), reflect.ValueOf(n), key, note)
	}
	if found < len(next) {
		note("providers", false) // there are new ones
	}
}
