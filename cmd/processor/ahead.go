package main

import (
	"slices"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/stages/generate/prefix"
)

// prefixes has requests wait for those that bring the beginning of their prompts
// into a provider's cache; nil where nobody is to wait, or no provider has one.
func (d *deps) prefixes() *prefix.Gate {
	wait := d.cfg.Batch.PrefixWait.Std()
	if wait == 0 || !slices.ContainsFunc(d.cfg.ProviderList(), func(p providers.Config) bool { return p.Kind != providers.KindSimulated }) {
		return nil
	}
	return prefix.NewGate(wait)
}
