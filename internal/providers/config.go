package providers

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Config is one entry of providers: in the configuration.
type Config struct {
	Name    string `yaml:"name"`     // what models refer to it by, default its kind
	Kind    string `yaml:"kind"`     // openai, anthropic, gemini or simulated
	BaseURL string `yaml:"base_url"` // default: the vendor's own address
	APIKey  Secret `yaml:"api_key"`  // of the vendor, best as ${NAME}

	// APIVersion, for kind openai, selects Azure's classic paths and header:
	// base_url is then https://NAME.openai.azure.com and the model is the
	// deployment. For anthropic it is the version header, 2023-06-01 by default.
	APIVersion string            `yaml:"api_version"`
	Headers    map[string]Secret `yaml:"headers"` // sent with every call, such as OpenAI-Organization

	MaxConnections int           `yaml:"max_connections"` // 1 to 10000, default 100
	IdleTimeout    time.Duration `yaml:"idle_timeout"`    // of a connection, default 30s
	Timeout        time.Duration `yaml:"timeout"`         // of a whole call, from its start to the last byte, default 60s; a request that failed goes to no fallback after it
	AttemptTimeout time.Duration `yaml:"attempt_timeout"` // of one call, at most timeout, which is the default
	MaxResponse    int           `yaml:"max_response"`    // bytes of an answer, default 900000; what is longer is cut off with an error

	EmbeddingInputs int `yaml:"embedding_inputs"` // texts that a call for embeddings may have, those of many requests together; default 2048, for gemini 100; 1: every request is a call of its own
	EmbeddingTokens int `yaml:"embedding_tokens"` // tokens of these texts together, default 300000

	RequestsPerMinute int `yaml:"requests_per_minute"` // 0: no limit; kept by the generate stage, over all replicas
	TokensPerMinute   int `yaml:"tokens_per_minute"`   // 0: no limit

	Simulated Simulated `yaml:"simulated"` // for kind simulated

	// BufferSize is what a connection's buffer for what is sent takes, in bytes;
	// that for what comes is half of it. It is no key of its own: it follows
	// resources.buffer_size. Default 16 KB, into which a usual request fits.
	BufferSize int `yaml:"-"`
}

// Simulated sets how the simulated provider behaves.
type Simulated struct {
	FirstToken      time.Duration   `yaml:"first_token"`       // time until the answer begins, default 0
	TokensPerSecond float64         `yaml:"tokens_per_second"` // speed from there, 0 (the default) is at once
	TokenFactor     float64         `yaml:"token_factor"`      // tokens counted for each real one, default 1
	Failures        map[int]float64 `yaml:"failures"`          // share of calls that fail, by HTTP status; 0 stands for a cut connection
}

// The defaults of Config.
const (
	DefaultMaxConnections = 100
	DefaultIdleTimeout    = 30 * time.Second
	DefaultTimeout        = 60 * time.Second
	DefaultMaxResponse    = 900_000
	DefaultBufferSize     = 16 << 10

	// What OpenAI and Google say of their embeddings APIs, 2026-11: the texts of a
	// call, and OpenAI's tokens of a call.
	DefaultEmbeddingInputs = 2048
	GeminiEmbeddingInputs  = 100
	DefaultEmbeddingTokens = 300_000
)

// WithDefaults gives the configuration with what was left out filled in.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		c.Name = c.Kind
	}
	if s, ok := shorthands[c.Kind]; ok && c.BaseURL == "" {
		c.BaseURL = s.url
	}
	if c.Kind == KindAnthropic && c.APIVersion == "" {
		c.APIVersion = "2023-06-01"
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.AttemptTimeout == 0 {
		c.AttemptTimeout = c.Timeout
	}
	if c.MaxResponse == 0 {
		c.MaxResponse = DefaultMaxResponse
	}
	if c.EmbeddingInputs == 0 {
		c.EmbeddingInputs = DefaultEmbeddingInputs
		if c.Kind == KindGemini {
			c.EmbeddingInputs = GeminiEmbeddingInputs
		}
	}
	if c.EmbeddingTokens == 0 {
		c.EmbeddingTokens = DefaultEmbeddingTokens
	}
	if c.Simulated.TokenFactor == 0 {
		c.Simulated.TokenFactor = 1
	}
	return c
}

// Validate reports the first setting that cannot be used, and what would be
// right. It expects the defaults to be filled in.
func (c Config) Validate() error {
	if c.Name == "" || len(c.Name) > 64 {
		return fmt.Errorf("name: %.64q must have 1 to 64 characters", c.Name)
	}
	if _, ok := kinds[c.Kind]; !ok {
		return fmt.Errorf("kind: %.64q is none of %s", c.Kind, strings.Join(Kinds(), ", "))
	}
	switch {
	case c.MaxConnections < 1 || c.MaxConnections > 10_000:
		return fmt.Errorf("max_connections: %d is not within 1 and 10000", c.MaxConnections)
	case c.IdleTimeout < 0:
		return fmt.Errorf("idle_timeout: %v is negative; give a duration like 30s", c.IdleTimeout)
	case c.Timeout < 0:
		return fmt.Errorf("timeout: %v is negative; give a duration like 60s", c.Timeout)
	case c.AttemptTimeout < 0 || c.AttemptTimeout > c.Timeout:
		return fmt.Errorf("attempt_timeout: %v is not within 0 and timeout, which is %v", c.AttemptTimeout, c.Timeout)
	case c.MaxResponse < 1000 || c.MaxResponse > 64<<20:
		return fmt.Errorf("max_response: %d is not within 1000 and %d bytes", c.MaxResponse, 64<<20)
	case c.EmbeddingInputs < 1 || c.EmbeddingInputs > DefaultEmbeddingInputs:
		return fmt.Errorf("embedding_inputs: %d is not within 1 and %d", c.EmbeddingInputs, DefaultEmbeddingInputs)
	case c.EmbeddingTokens < 1 || c.EmbeddingTokens > 10_000_000:
		return fmt.Errorf("embedding_tokens: %d is not within 1 and 10000000", c.EmbeddingTokens)
	case c.RequestsPerMinute < 0:
		return fmt.Errorf("requests_per_minute: %d is negative; 0 means no limit", c.RequestsPerMinute)
	case c.TokensPerMinute < 0:
		return fmt.Errorf("tokens_per_minute: %d is negative; 0 means no limit", c.TokensPerMinute)
	}
	if c.Kind == KindSimulated {
		return c.Simulated.validate()
	}
	if err := c.validateHeaders(); err != nil {
		return err
	}
	_, err := parseBase(c.BaseURL)
	return err
}

func (c Config) validateHeaders() error {
	if !headerValue(string(c.APIKey)) {
		return fmt.Errorf("api_key: holds a line break or another character that a header cannot carry")
	}
	for name, value := range c.Headers {
		if !headerName(name) || !headerValue(string(value)) {
			return fmt.Errorf("headers: %.64q is no valid HTTP header", name)
		}
	}
	return nil
}

// headerName tells whether a text may be the name of an HTTP header (RFC 9110, 5.6.2).
func headerName(name string) bool {
	for _, r := range name {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r) {
			return false
		}
	}
	return name != ""
}

// headerValue tells whether a text may be the value of an HTTP header.
func headerValue(value string) bool {
	for _, b := range []byte(value) {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}

func (s Simulated) validate() error {
	switch {
	case s.FirstToken < 0:
		return fmt.Errorf("simulated.first_token: %v is negative", s.FirstToken)
	case !(s.TokensPerSecond >= 0): // written so that NaN fails
		return fmt.Errorf("simulated.tokens_per_second: %v is negative; 0 means at once", s.TokensPerSecond)
	case !(s.TokenFactor > 0 && s.TokenFactor <= 100):
		return fmt.Errorf("simulated.token_factor: %v is not within 0 and 100", s.TokenFactor)
	}
	total := 0.0
	for status, share := range s.Failures {
		if status != 0 && (status < 400 || status > 599) {
			return fmt.Errorf("simulated.failures: %d is no status of an error: give 400 to 599, or 0 for a cut connection", status)
		}
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("simulated.failures: %v for %d is not within 0 and 1", share, status)
		}
		total += share
	}
	if total > 1 {
		return fmt.Errorf("simulated.failures: the shares add up to %v, which is more than 1", total)
	}
	return nil
}

// parseBase reads a base_url. An address with a password in it is refused,
// since it would show up in errors.
func parseBase(base string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	switch {
	case base == "":
		return nil, fmt.Errorf("base_url: is missing; give an address like https://api.openai.com/v1")
	case err != nil:
		return nil, fmt.Errorf("base_url: is not a URL; give an address like https://api.openai.com/v1")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("base_url: must begin with http:// or https:// and name a host")
	case u.User != nil:
		return nil, fmt.Errorf("base_url: must not hold a user or password; use api_key")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("base_url: must not have a query or fragment; Azure's version goes into api_version")
	}
	if u.Path == "" {
		u.Path = "/" // JoinPath would else make a relative path
	}
	return u, nil
}
