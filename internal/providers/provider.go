// Package providers calls language models. Every provider takes an OpenAI body
// and gives back an OpenAI body, whatever the API behind it speaks.
package providers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/adpa/processor/schemas"
)

// Provider calls the models of one upstream.
//
// Generate makes exactly one call: it never retries by itself, except where
// certainly nothing was sent. Chat completions, streamed
// or not, and embeddings all go through it, as the Call says. It may be used by
// any number of goroutines; past max_connections they wait, in the order of their arrival.
// A failure is a *schemas.CallError, found with errors.As. A zero Usage in an
// Answer means that the provider did not say what it billed.
//
// Close drops idle connections. Calls that run are not ended.
type Provider interface {
	Name() string
	Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error)
	Close() error
}

// Pooled is a provider with a pool of connections.
type Pooled interface {
	// Stats gives the state of the pool now.
	Stats() Stats
}

// Checker is a provider that can be asked whether it is there.
type Checker interface {
	// Check asks for something that costs nothing (the list of models), with the
	// configured key. Its error is a *schemas.CallError.
	Check(ctx context.Context) error
	// Warm opens up to n connections ahead of the first calls.
	Warm(ctx context.Context, n int) error
}

// Limited is a provider that tells how much of its rate limits is left.
type Limited interface {
	// Limits gives what the provider last said of its limits for a model; false
	// if it said nothing so far.
	Limits(model string) (Limits, bool)
}

// Stats is the state of a pool of connections.
type Stats struct {
	Open    int   // connections that are open now, or being opened
	Idle    int   // open connections that no call uses
	Active  int   // calls that run now, at most max_connections
	Waiting int   // calls that wait until one of them is done
	Opened  int64 // connections that were opened since the start
}

// The kinds of providers.
const (
	KindOpenAI    = "openai"
	KindAnthropic = "anthropic"
	KindGemini    = "gemini"
	KindSimulated = "simulated"
)

var kinds = map[string]func(Config) (Provider, error){
	KindOpenAI:    newOpenAI,
	KindAnthropic: newAnthropic,
	KindGemini:    newGemini,
	KindSimulated: newSimulated,
}

// Kinds lists the kinds that New knows, sorted.
func Kinds() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// New makes the provider that cfg describes. Missing settings get their defaults.
func New(cfg Config) (Provider, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("making the provider %q: %w", cfg.Name, err)
	}
	return kinds[cfg.Kind](cfg)
}

// shorthands are the providers that a command line can name alone: where each
// is reached and which environment variables hold its key, by custom.
var shorthands = map[string]struct {
	kind, url string
	keys      []string
	needsKey  bool
}{
	"openai":    {KindOpenAI, "https://api.openai.com/v1", []string{"OPENAI_API_KEY"}, true},
	"anthropic": {KindAnthropic, "https://api.anthropic.com", []string{"ANTHROPIC_API_KEY"}, true},
	"gemini":    {KindGemini, "https://generativelanguage.googleapis.com/v1beta", []string{"GEMINI_API_KEY", "GOOGLE_API_KEY"}, true},
	"ollama":    {KindOpenAI, "http://127.0.0.1:11434/v1", nil, false},
	"simulated": {KindSimulated, "", nil, false},
}

// Shorthand gives the configuration for a name alone, as of --provider openai:
// the usual address, and the key from the usual environment variable, read with
// getenv. OPENAI_BASE_URL, ANTHROPIC_BASE_URL, GEMINI_BASE_URL and OLLAMA_HOST
// replace the address, as they do for the vendors' own tools.
func Shorthand(name string, getenv func(string) string) (Config, error) {
	s, ok := shorthands[name]
	if !ok {
		return Config{}, fmt.Errorf("provider %q is not known: it is openai, anthropic, gemini, ollama or simulated", name)
	}
	cfg := Config{Name: name, Kind: s.kind, BaseURL: s.url}
	for _, key := range s.keys {
		if cfg.APIKey == "" {
			cfg.APIKey = Secret(getenv(key))
		}
	}
	if s.needsKey && cfg.APIKey == "" {
		return Config{}, fmt.Errorf("provider %s needs its key in the environment variable %s", name, strings.Join(s.keys, " or "))
	}
	if address := getenv(strings.ToUpper(name) + "_BASE_URL"); address != "" {
		cfg.BaseURL = address
	}
	if host := getenv("OLLAMA_HOST"); name == "ollama" && host != "" {
		cfg.BaseURL = ollamaURL(host)
	}
	return cfg.WithDefaults(), nil
}

// ollamaURL makes the address of Ollama's OpenAI API from its own variable,
// which holds a host, a host with a port, or a URL.
func ollamaURL(host string) string {
	if !strings.Contains(host, "://") {
		host = "http://" + host
	}
	if strings.Count(host, ":") < 2 {
		host += ":11434"
	}
	return strings.TrimRight(host, "/") + "/v1"
}

// Limits is what a provider said of its rate limits in the headers of an
// answer. A field is -1 where it said nothing.
type Limits struct {
	At                time.Time // when it said so
	LimitRequests     int
	RemainingRequests int
	ResetRequests     time.Duration // from At, until all requests are available again
	LimitTokens       int
	RemainingTokens   int
	ResetTokens       time.Duration
}
