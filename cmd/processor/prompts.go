package main

import (
	"context"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/structure"
	"github.com/adpa/processor/stages/template"
	"github.com/adpa/processor/streams"
)

// openPrompts opens what makes prompts: templates, and the forms of answers.
func (d *deps) openPrompts(ctx context.Context) error {
	templates, err := kv.NewTemplates(ctx, d.nc, bucketLayout(d.cfg))
	if err != nil {
		return err
	}
	d.closers = append(d.closers, templates.Close)
	d.templates = template.NewRenderer(templates, streams.MaxRequest(int(d.nc.MaxPayload())))
	kinds := make(map[string]string)
	for _, p := range d.cfg.ProviderList() {
		kinds[p.Name] = p.Kind
	}
	d.forms = structure.New(structure.Config{
		MaxAttempts: d.cfg.Score.MaxAttempts, Rejected: d.forget,
		Native: func(r *stages.Request) bool { return d.models.takeSchemas(r.Model, kinds) },
	})
	return nil
}

// takeSchemas reports whether every model that a request for the named one may
// go to, fallbacks included, takes a JSON Schema as it is. Anthropic and Gemini
// take a part of JSON Schema each, and refuse the rest.
func (m *models) takeSchemas(name string, kinds map[string]string) bool {
	seen := map[string]bool{}
	var take func(name string) bool
	take = func(name string) bool {
		if seen[name] {
			return true
		}
		seen[name] = true
		known := false
		for _, e := range m.table.Load().list {
			if name != e.Name && name != e.Group && name != generate.Auto {
				continue
			}
			known = true
			provider := e.Provider
			if provider == "" {
				provider = m.only
			}
			if !takesSchemas(kinds[provider]) {
				return false
			}
			for _, fallback := range e.Fallback {
				if !take(fallback) {
					return false
				}
			}
		}
		return known || takesSchemas(kinds[m.only])
	}
	return take(name)
}

func takesSchemas(kind string) bool {
	return kind == providers.KindOpenAI || kind == providers.KindSimulated
}
