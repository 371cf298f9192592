package tokens

import "strings"

// Price is what a model costs, in US dollars for a million tokens.
type Price struct {
	Model       string
	Input       float64
	CachedInput float64 // input that the provider had in its prompt cache; Input where no discount is known
	Output      float64
}

// Cost is the price in US dollars of a call with that many tokens. Cached is
// the part of the prompt that was read from the provider's prompt cache.
func (p Price) Cost(prompt, cached, answer int) float64 {
	cached = min(cached, prompt)
	return (float64(prompt-cached)*p.Input + float64(cached)*p.CachedInput + float64(answer)*p.Output) / 1e6
}

// Prices is a price list. Of two prices of a model the later one counts, so
// append(DefaultPrices(), own...) is the default list with own changes.
type Prices []Price

// Lookup returns the price of a model, if the list has one. The name may have
// a path before it, as in Table.Lookup, and a version behind it: a date or
// number of three digits or more ("-2024-08-06", "-001") or "-latest". Other
// names that merely start alike are other models, at other prices.
func (p Prices) Lookup(model string) (Price, bool) {
	for _, name := range [...]string{model, baseName(model)} {
		best := -1
		for i, price := range p {
			if isVersionOf(name, price.Model) && (best < 0 || len(price.Model) >= len(p[best].Model)) {
				best = i
			}
		}
		if best >= 0 {
			return p[best], true
		}
	}
	return Price{}, false
}

func isVersionOf(name, model string) bool {
	if !hasPrefixFold(name, model) {
		return false
	}
	version := name[len(model):]
	if version == "" || strings.EqualFold(version, "-latest") {
		return true
	}
	if len(version) < 4 || version[0] != '-' {
		return false
	}
	for _, c := range version[1:4] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// DefaultPrices returns list prices for standard processing as of TableDate,
// gathered from the vendors' price pages and public copies of them. They
// leave out surcharges for long contexts, for writing to the prompt cache and
// for regions. Prices change: those of the configuration come first.
func DefaultPrices() Prices {
	return Prices{
		{"gpt-3.5-turbo", 0.5, 0.5, 1.5},
		{"gpt-4", 30, 30, 60},
		{"gpt-4-turbo", 10, 10, 30},
		{"gpt-4o", 2.5, 1.25, 10},
		{"gpt-4o-2024-05-13", 5, 5, 15},
		{"gpt-4o-mini", 0.15, 0.075, 0.6},
		{"gpt-4.1", 2, 0.5, 8},
		{"gpt-4.1-mini", 0.4, 0.1, 1.6},
		{"gpt-4.1-nano", 0.1, 0.025, 0.4},
		{"gpt-5", 1.25, 0.125, 10},
		{"gpt-5-mini", 0.25, 0.025, 2},
		{"gpt-5-nano", 0.05, 0.005, 0.4},
		{"gpt-5.1", 1.25, 0.125, 10},
		{"gpt-5.2", 1.75, 0.175, 14},
		{"gpt-5.3-codex", 1.75, 0.175, 14},
		{"gpt-5.4", 2.5, 0.25, 15},
		{"gpt-5.4-mini", 0.75, 0.075, 4.5},
		{"gpt-5.4-nano", 0.2, 0.02, 1.25},
		{"gpt-5.5", 5, 0.5, 30},
		{"gpt-5.6-luna", 0.2, 0.02, 1.2},
		{"gpt-5.6-terra", 2, 0.2, 12},
		{"o1", 15, 7.5, 60},
		{"o3", 2, 0.5, 8},
		{"o3-mini", 1.1, 0.55, 4.4},
		{"o4-mini", 1.1, 0.275, 4.4},
		{"text-embedding-3-small", 0.02, 0.02, 0},
		{"text-embedding-3-large", 0.13, 0.13, 0},

		{"claude-3-5-haiku", 0.8, 0.08, 4},
		{"claude-haiku-4-5", 1, 0.1, 5},
		{"claude-sonnet-4", 3, 0.3, 15},
		{"claude-sonnet-4-5", 3, 0.3, 15},
		{"claude-sonnet-4-6", 3, 0.3, 15},
		{"claude-sonnet-5", 2, 0.2, 10},
		{"claude-opus-4", 15, 1.5, 75},
		{"claude-opus-4-1", 15, 1.5, 75},
		{"claude-opus-4-5", 5, 0.5, 25},
		{"claude-opus-4-6", 5, 0.5, 25},
		{"claude-opus-4-7", 5, 0.5, 25},
		{"claude-opus-4-8", 5, 0.5, 25},
		{"claude-opus-5", 5, 0.5, 25},
		{"claude-fable-5", 10, 1, 50},

		{"gemini-2.5-pro", 1.25, 1.25, 10}, // its discount for cached input could not be checked
		{"gemini-3.1-pro-preview", 2, 0.2, 12},
		{"gemini-3.5-flash", 1.5, 0.15, 9},
	}
}
