package providers_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/providers"
)

func TestSecretIsNeverShown(t *testing.T) {
	type holder struct {
		Key providers.Secret            `json:"key" yaml:"key"`
		Map map[string]providers.Secret `json:"map" yaml:"map"`
	}
	h := holder{"sk-hidden", map[string]providers.Secret{"a": "sk-hidden"}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", &h)
		fmt.Fprintf(&out, verb+"\n", h.Key)
	}
	text, err := json.Marshal(h)
	require.NoError(t, err)
	out.Write(text)
	text, err = yaml.Marshal(h)
	require.NoError(t, err)
	out.Write(text)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", h.Key, "holder", h)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", h.Key, "holder", h)
	require.NotContains(t, out.String(), "hidden")
	require.NotContains(t, out.String(), fmt.Sprintf("%x", "sk-hidden"))
	require.Contains(t, out.String(), "<secret>")
	require.Empty(t, fmt.Sprint(providers.Secret("")), "one that is not set shows as such")
	require.Equal(t, "sk-hidden", string(h.Key))
}

func TestConfigFromYAML(t *testing.T) {
	const text = `
name: fast
kind: openai
base_url: http://127.0.0.1:8000/v1
api_key: sk-1
api_version: 2024-10-21
headers: {X-Title: mine}
max_connections: 7
idle_timeout: 5s
timeout: 2m
max_response: 5000
requests_per_minute: 60
tokens_per_minute: 1000
simulated: {first_token: 300ms, tokens_per_second: 50, token_factor: 1.5, failures: {429: 0.1, 0: 0.05}}
`
	var cfg providers.Config
	require.NoError(t, yaml.UnmarshalWithOptions([]byte(text), &cfg, yaml.Strict()))
	require.Equal(t, providers.Config{
		Name: "fast", Kind: "openai", BaseURL: "http://127.0.0.1:8000/v1", APIKey: "sk-1", APIVersion: "2024-10-21",
		Headers:        map[string]providers.Secret{"X-Title": "mine"},
		MaxConnections: 7, IdleTimeout: 5 * time.Second, Timeout: 2 * time.Minute, MaxResponse: 5000,
		RequestsPerMinute: 60, TokensPerMinute: 1000,
		Simulated: providers.Simulated{FirstToken: 300 * time.Millisecond, TokensPerSecond: 50, TokenFactor: 1.5, Failures: map[int]float64{429: 0.1, 0: 0.05}},
	}, cfg)
	require.NoError(t, cfg.WithDefaults().Validate())
}

func TestDefaults(t *testing.T) {
	cfg := providers.Config{Kind: "openai"}.WithDefaults()
	require.Equal(t, "openai", cfg.Name)
	require.Equal(t, "https://api.openai.com/v1", cfg.BaseURL)
	require.Equal(t, 100, cfg.MaxConnections)
	require.Equal(t, 30*time.Second, cfg.IdleTimeout)
	require.Equal(t, time.Minute, cfg.Timeout)
	require.NoError(t, cfg.Validate())
	require.Equal(t, []string{"anthropic", "gemini", "openai", "simulated"}, providers.Kinds())
}

func TestWrongConfigurations(t *testing.T) {
	for key, change := range map[string]func(*providers.Config){
		"kind":                        func(c *providers.Config) { c.Kind = "openal" },
		"name":                        func(c *providers.Config) { c.Name = strings.Repeat("x", 65) },
		"base_url: is not":            func(c *providers.Config) { c.BaseURL = "http://[" },
		"base_url: must begin":        func(c *providers.Config) { c.BaseURL = "api.openai.com/v1" },
		"base_url: must not hold":     func(c *providers.Config) { c.BaseURL = "https://me:secret@host/v1" },
		"base_url: must not have":     func(c *providers.Config) { c.BaseURL = "https://host/v1?key=secret" },
		"api_key":                     func(c *providers.Config) { c.APIKey = "secret\n" },
		"headers":                     func(c *providers.Config) { c.Headers = map[string]providers.Secret{"a b": "secret"} },
		"max_connections":             func(c *providers.Config) { c.MaxConnections = -1 },
		"idle_timeout":                func(c *providers.Config) { c.IdleTimeout = -1 },
		"timeout":                     func(c *providers.Config) { c.Timeout = -1 },
		"max_response":                func(c *providers.Config) { c.MaxResponse = 1 },
		"requests_per_minute":         func(c *providers.Config) { c.RequestsPerMinute = -1 },
		"tokens_per_minute":           func(c *providers.Config) { c.TokensPerMinute = -1 },
		"simulated.first_token":       func(c *providers.Config) { c.Kind, c.Simulated.FirstToken = "simulated", -1 },
		"simulated.tokens_per_second": func(c *providers.Config) { c.Kind, c.Simulated.TokensPerSecond = "simulated", -1 },
		"simulated.token_factor":      func(c *providers.Config) { c.Kind, c.Simulated.TokenFactor = "simulated", -1 },
		"simulated.failures: 200":     func(c *providers.Config) { c.Kind, c.Simulated.Failures = "simulated", map[int]float64{200: 1} },
		"simulated.failures: 2":       func(c *providers.Config) { c.Kind, c.Simulated.Failures = "simulated", map[int]float64{500: 2} },
		"simulated.failures: the":     func(c *providers.Config) { c.Kind, c.Simulated.Failures = "simulated", map[int]float64{500: 1, 429: 1} },
	} {
		cfg := providers.Config{Kind: "openai"}
		change(&cfg)
		_, err := providers.New(cfg)
		require.ErrorContains(t, err, key)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestShorthand(t *testing.T) {
	env := map[string]string{"OPENAI_API_KEY": "sk-o", "GOOGLE_API_KEY": "sk-g", "OLLAMA_HOST": "10.0.0.1"}
	getenv := func(name string) string { return env[name] }
	for name, want := range map[string]providers.Config{
		"openai": {Name: "openai", Kind: "openai", BaseURL: "https://api.openai.com/v1", APIKey: "sk-o"},
		"gemini": {Name: "gemini", Kind: "gemini", BaseURL: "https://generativelanguage.googleapis.com/v1beta", APIKey: "sk-g"},
		"ollama": {Name: "ollama", Kind: "openai", BaseURL: "http://10.0.0.1:11434/v1"},
	} {
		cfg, err := providers.Shorthand(name, getenv)
		require.NoError(t, err)
		require.Equal(t, want.WithDefaults(), cfg)
		require.NoError(t, cfg.Validate())
	}
	_, err := providers.Shorthand("anthropic", getenv)
	require.ErrorContains(t, err, "ANTHROPIC_API_KEY")
	_, err = providers.Shorthand("openal", getenv)
	require.ErrorContains(t, err, "anthropic, gemini, ollama")
	env["OLLAMA_HOST"], env["OPENAI_BASE_URL"] = "https://host:99/", "http://localhost:1/v1"
	cfg, err := providers.Shorthand("ollama", getenv)
	require.NoError(t, err)
	require.Equal(t, "https://host:99/v1", cfg.BaseURL)
	cfg, err = providers.Shorthand("openai", getenv)
	require.NoError(t, err)
	require.Equal(t, "http://localhost:1/v1", cfg.BaseURL)
}
