// Package config reads the product's configuration: one YAML file, strictly.
// Each section is the Config type of the package that it configures, which
// holds its defaults and its rules.
package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/httpserver"
	"github.com/adpa/processor/internal/logs"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/resources"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/stages/batch"
	"github.com/adpa/processor/stages/compress"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/stages/score"
	"github.com/adpa/processor/streams"
)

// Config is the whole configuration. Make one with Default or Load.
type Config struct {
	// NATS is the server that the product works on.
	NATS streams.ServerConfig `yaml:"nats"`
	// Streams is what the streams may hold.
	Streams streams.StreamsConfig `yaml:"streams"`
	// HTTP is where metrics and health are served.
	HTTP httpserver.Config `yaml:"http"`
	// Log is what a serving process says of its own work, on standard error.
	Log logs.Config `yaml:"log"`
	// Tenants sets what differs for some tenants; the others are served too.
	Tenants []streams.TenantConfig `yaml:"tenants"`
	// Pipeline is how the stages are run.
	Pipeline streams.PipelineConfig `yaml:"pipeline"`
	// Providers are who is called. With none there is one that simulates
	// answers, takes any model and costs nothing.
	Providers []providers.Config `yaml:"providers"`
	// Models are what is known of the providers' models. A model without an
	// entry goes to the only provider.
	Models []generate.Model `yaml:"models"`
	// Budgets are what tenants may use up; a tenant without one has no limit.
	Budgets []budget.Config `yaml:"budgets"`
	// Compress is how prompts are compressed.
	Compress compress.Config `yaml:"compress"`
	// Cache is how answers are kept for equal requests.
	Cache kv.CacheConfig `yaml:"cache"`
	// Batch is how requests are grouped before they are generated.
	Batch batch.Config `yaml:"batch"`
	// Score is how answers are judged.
	Score score.Config `yaml:"score"`
	// Select is how a model is chosen for auto or a group.
	Select generate.SelectConfig `yaml:"select"`
	// Tune is which parameters the product may choose.
	Tune generate.TuneConfig `yaml:"tune"`
	// Resources is what the process may use of the machine.
	Resources resources.Config `yaml:"resources"`
	// Evaluation is how recorded traffic leaves the deployment.
	Evaluation evaluate.Config `yaml:"evaluation"`

	secrets []string // the paths of values that came from the environment
}

// Default is the configuration of a deployment that says nothing: an embedded
// server and a simulated model.
func Default() Config {
	return Config{
		NATS: streams.DefaultServer(), Streams: streams.DefaultStreams(), HTTP: httpserver.DefaultConfig(), Log: logs.DefaultConfig(),
		Pipeline: streams.DefaultPipeline(), Compress: compress.Defaults(), Cache: kv.DefaultCache(),
		Batch: batch.DefaultConfig(), Score: score.DefaultConfig(),
		Select: generate.DefaultSelect(), Tune: generate.DefaultTune(), Resources: resources.DefaultConfig(),
	}
}

// complete fills in the defaults of list entries, which Default cannot know of.
func (c *Config) complete() {
	for i := range c.Providers {
		c.Providers[i] = c.Providers[i].WithDefaults()
	}
}

// ProviderList gives the providers to use: those configured, else the simulated one alone.
func (c *Config) ProviderList() []providers.Config {
	if len(c.Providers) > 0 {
		return c.Providers
	}
	return []providers.Config{providers.Config{Name: providers.KindSimulated, Kind: providers.KindSimulated}.WithDefaults()}
}

// Validate reports the first setting that cannot be used. The error begins
// with the key, as in cache.ttl or models[2].price.input, and says what is allowed.
func (c *Config) Validate() error {
	for _, section := range []struct {
		name  string
		check func() error
	}{
		{"nats.", c.NATS.Validate},
		{"streams.", c.Streams.Validate},
		{"http.", c.HTTP.Validate},
		{"log.", c.Log.Validate},
		{"tenants", func() error { return streams.ValidateTenants(c.Tenants, c.Streams.Requests.MaxWaiting) }},
		{"pipeline.", c.Pipeline.Validate},
		{"providers", c.validateProviders},
		{"models", func() error { return generate.ValidateModels(c.Models, c.providerNames()) }},
		{"", func() error { return budget.Validate(c.Budgets) }},
		{"models", c.validateEncodings},
		{"compress.", c.Compress.Validate},
		{"cache.", c.Cache.Validate},
		{"cache.", c.validateCacheProviders},
		{"batch.", c.Batch.Validate},
		{"score.", c.Score.Validate},
		{"select.", c.Select.Validate},
		{"tune.", c.Tune.Validate},
		{"resources.", c.Resources.Validate},
		{"evaluation.", c.Evaluation.Validate},
		{"cache.", c.validateMemory},
	} {
		if err := section.check(); err != nil {
			return fmt.Errorf("%s%w", section.name, err)
		}
	}
	return nil
}

func (c *Config) validateProviders() error {
	seen := map[string]bool{}
	for i, p := range c.Providers {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("[%d].%w", i, err)
		}
		if seen[p.Name] {
			return fmt.Errorf("[%d].name: %.80s has an entry already; give each provider a name of its own", i, p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

func (c *Config) validateEncodings() error {
	for i, m := range c.Models {
		if m.Encoding != "" && !slices.Contains(tokens.Names(), m.Encoding) {
			return fmt.Errorf("[%d].encoding: %.40q is none of %s", i, m.Encoding, strings.Join(tokens.Names(), ", "))
		}
	}
	return nil
}

func (c *Config) providerNames() []string {
	var names []string
	for _, p := range c.ProviderList() {
		names = append(names, p.Name)
	}
	return names
}

func (c *Config) validateCacheProviders() error {
	known := map[string]bool{}
	for _, name := range c.providerNames() {
		known[name] = true
	}
	for i, name := range c.Cache.Providers {
		if !known[name] {
			return fmt.Errorf("providers[%d]: %.80q is not configured; there are %v", i, name, c.providerNames())
		}
	}
	return nil
}

func (c *Config) validateMemory() error {
	if c.Cache.Enabled && c.Cache.LocalSize > c.Resources.MaxMemory {
		return fmt.Errorf("local_size: %v is more than resources.max_memory, which is %v", c.Cache.LocalSize, c.Resources.MaxMemory)
	}
	return nil
}
