package tokens

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLookupTakesTheLongestPrefix(t *testing.T) {
	table := DefaultTable()
	for model, want := range map[string]string{
		"gpt-4":                              "gpt-4",
		"gpt-4-0613":                         "gpt-4",
		"gpt-4o-2024-08-06":                  "gpt-4o",
		"gpt-4o-mini":                        "gpt-4o-mini",
		"gpt-3.5-turbo-0301":                 "gpt-3.5-turbo-0301",
		"gpt-3.5-turbo":                      "gpt-3.5",
		"gpt-35-turbo":                       "gpt-35",
		"gpt-5.1":                            "gpt-5",
		"gpt-5.4-mini":                       "gpt-5.4",
		"o3-mini":                            "o3",
		"openai/gpt-4o":                      "gpt-4o",
		"ft:gpt-4o-mini:acme::x1":            "gpt-4o-mini",
		"models/gemini-2.5-pro":              "gemini",
		"meta-llama/Llama-3.3-70B-Instruct":  "meta-llama",
		"Qwen/Qwen3-32B":                     "qwen",
		"accounts/x/models/deepseek-v3":      "deepseek",
		"claude-sonnet-4-5-20250929":         "claude",
		"text-embedding-3-large":             "text-embedding-3",
		"something-else":                     "",
		"":                                   "",
		"some/path/":                         "",
		"anthropic/claude-opus-4-7":          "claude-opus-4-7",
		"mistralai/Mixtral-8x7B-Instruct-v1": "mistral",
	} {
		rule, ok := table.Lookup(model)
		require.True(t, ok, model)
		require.Equal(t, want, rule.Prefix, model)
	}
}

func TestTableIsExtended(t *testing.T) {
	own := Rule{Prefix: "acme/gpt-4o", Encoding: CL100kBase, PerMessage: 10}
	again := Rule{Prefix: "gpt-4o", Encoding: O200kBase, PerMessage: 7}
	table := append(DefaultTable(), own, again)
	rule, _ := table.Lookup("acme/gpt-4o")
	require.Equal(t, own, rule)
	rule, _ = table.Lookup("gpt-4o-2024-08-06")
	require.Equal(t, again, rule, "of equal prefixes the later one counts")

	c, err := NewCounter(Table{own})
	require.NoError(t, err)
	count, err := c.Chat("acme/gpt-4o", []byte(`{"messages":[{}]}`))
	require.NoError(t, err)
	require.Equal(t, 10, count.Total())
	count, err = c.Chat("unknown", []byte(`{"messages":[{}]}`))
	require.NoError(t, err)
	require.Equal(t, 7, count.Total(), "six, and a tenth, rounded up")

	_, err = NewCounter(Table{{Prefix: "x", Encoding: "y"}})
	require.ErrorContains(t, err, `reading the rule for models "x": unknown encoding "y": use one of`)
	_, err = NewCounter(Table{{Prefix: "x", Encoding: O200kBase, Factor: -1}})
	require.EqualError(t, err, `reading the rule for models "x": factor -1: want a positive number`)
	require.Empty(t, Table{})
	_, ok := Table{}.Lookup("x")
	require.False(t, ok)
}

func TestDefaultTableIsSound(t *testing.T) {
	seen := map[string]bool{}
	for _, rule := range DefaultTable() {
		require.False(t, seen[rule.Prefix], rule.Prefix)
		seen[rule.Prefix] = true
		require.Contains(t, Names(), rule.Encoding)
		require.GreaterOrEqual(t, rule.Factor, 1.0, rule.Prefix)
	}
	DefaultTable()[0].Factor = 9
	require.NotEqual(t, 9.0, DefaultTable()[0].Factor, "each caller has a table of its own")
}

func TestPrices(t *testing.T) {
	prices := DefaultPrices()
	for model, want := range map[string]string{
		"gpt-4o":                     "gpt-4o",
		"gpt-4o-2024-08-06":          "gpt-4o",
		"gpt-4o-2024-05-13":          "gpt-4o-2024-05-13",
		"openai/gpt-4o-mini":         "gpt-4o-mini",
		"GPT-4.1-Nano":               "gpt-4.1-nano",
		"gpt-4-0613":                 "gpt-4",
		"claude-sonnet-4-5-20250929": "claude-sonnet-4-5",
		"claude-sonnet-4-20250514":   "claude-sonnet-4",
		"claude-3-5-haiku-latest":    "claude-3-5-haiku",
	} {
		price, ok := prices.Lookup(model)
		require.True(t, ok, model)
		require.Equal(t, want, price.Model, model)
	}
	// Names that start like one that has a price are other models.
	for _, model := range []string{"gpt-5.6-sol", "gpt-4o-audio-preview", "claude-opus-4-9", "gpt-5-pro", "gpt-4-32k", "", "my-model", "o3-pro", "gpt-4o-1x"} {
		_, ok := prices.Lookup(model)
		require.False(t, ok, model)
	}
	seen := map[string]bool{}
	for _, price := range prices {
		require.False(t, seen[price.Model], price.Model)
		seen[price.Model] = true
		require.LessOrEqual(t, price.CachedInput, price.Input, price.Model)
		require.Positive(t, price.Input, price.Model)
	}
	own := append(prices, Price{Model: "gpt-4o", Input: 1, CachedInput: 0.5, Output: 2})
	price, _ := own.Lookup("gpt-4o")
	require.Equal(t, 1.0, price.Input)
	require.InDelta(t, 0.0006*1+0.0004*0.5+0.0001*2, price.Cost(1000, 400, 100), 1e-12)
	require.InDelta(t, 0.0005, price.Cost(1000, 2000, 0), 1e-12)
}
