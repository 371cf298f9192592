// Package kv is the state that all replicas share, in NATS KV buckets.
package kv

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/adpa/processor/internal/units"
)

// The eviction strategies of the cache.
const (
	LRU      = "lru"
	ARC      = "arc"
	GDSF     = "gdsf"
	Adaptive = "adaptive"
)

// How two requests are found equal.
const (
	MatchExact      = "exact"
	MatchNormalized = "normalized"
)

// Who shares answers.
const (
	ScopeTenant = "tenant"
	ScopeShared = "shared"
)

var (
	strategies   = []string{LRU, ARC, GDSF, Adaptive}
	cacheMetrics = []string{"hit_rate", "cost", "latency", "memory"}
	matches      = []string{MatchExact, MatchNormalized}
	scopes       = []string{ScopeTenant, ScopeShared}
)

// CacheConfig is the section cache: of the configuration.
type CacheConfig struct {
	// Enabled false means that no answer is looked up or kept. Default true.
	Enabled bool `yaml:"enabled"`
	// Strategy is what leaves the local memory first: lru (the least recently
	// used), arc (balanced between recent and frequent), gdsf (the cheapest to
	// get again, by size), or adaptive, which measures which of them is best.
	// Default adaptive.
	Strategy string `yaml:"strategy"`
	// Metrics are what adaptive goes by: hit_rate, cost, latency, memory.
	// Default hit_rate and memory.
	Metrics []string `yaml:"metrics"`
	// MaxSize is what the shared bucket may hold. Default 1GB.
	MaxSize units.Bytes `yaml:"max_size"`
	// LocalSize is what a process may hold in memory, at most max_size. Default 256MB.
	LocalSize units.Bytes `yaml:"local_size"`
	// TTL is how long an answer is used, in whole seconds. Default 1h.
	TTL units.Duration `yaml:"ttl"`
	// SyncInterval is how often a process compares its memory with the bucket,
	// beside the changes that are pushed to it. Default 5m.
	SyncInterval units.Duration `yaml:"sync_interval"`
	// Match is when two requests are equal: exact, or normalized, which ignores
	// case, articles, politeness and plurals in the last message where that is
	// prose. Requests may say otherwise (processor.cache.match). Default exact.
	Match string `yaml:"match"`
	// Scope is who may share answers: tenant (each tenant for itself), or shared,
	// which lets requests that ask for it (processor.cache.scope) share over all
	// tenants. Default tenant.
	Scope string `yaml:"scope"`
	// MaxTemperature is the highest temperature at which an answer is cached, 0
	// to 2. Default 2: every answer is.
	MaxTemperature float64 `yaml:"max_temperature"`
	// Providers are those whose answers are cached; empty (the default) means all.
	Providers []string `yaml:"providers"`
}

// DefaultCache gives the defaults of the section cache:.
func DefaultCache() CacheConfig {
	return CacheConfig{
		Enabled: true, Strategy: Adaptive, Metrics: []string{"hit_rate", "memory"},
		MaxSize: units.GB, LocalSize: 256 * units.MB,
		TTL: units.Duration(time.Hour), SyncInterval: units.Duration(5 * time.Minute),
		Match: MatchExact, Scope: ScopeTenant, MaxTemperature: 2, Providers: []string{},
	}
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c CacheConfig) Validate() error {
	if !slices.Contains(strategies, c.Strategy) {
		return fmt.Errorf("strategy: %.40q is none of %s", c.Strategy, strings.Join(strategies, ", "))
	}
	for i, m := range c.Metrics {
		if !slices.Contains(cacheMetrics, m) {
			return fmt.Errorf("metrics[%d]: %.40q is none of %s", i, m, strings.Join(cacheMetrics, ", "))
		}
	}
	switch {
	case c.Strategy == Adaptive && len(c.Metrics) == 0:
		return fmt.Errorf("metrics: is empty, and adaptive needs at least one of %s", strings.Join(cacheMetrics, ", "))
	case c.MaxSize < units.MB:
		return fmt.Errorf("max_size: %v is less than 1MB; set enabled to false for no cache", c.MaxSize)
	case c.LocalSize < 0 || c.LocalSize > c.MaxSize:
		return fmt.Errorf("local_size: %v is more than max_size, which is %v", c.LocalSize, c.MaxSize)
	case c.TTL.Std() < time.Second || c.TTL.Std()%time.Second != 0:
		return fmt.Errorf("ttl: %v is not a number of whole seconds, at least 1s", c.TTL)
	case c.SyncInterval.Std() < time.Second:
		return fmt.Errorf("sync_interval: %v is less than 1s", c.SyncInterval)
	case !slices.Contains(matches, c.Match):
		return fmt.Errorf("match: %.40q is none of %s", c.Match, strings.Join(matches, ", "))
	case !slices.Contains(scopes, c.Scope):
		return fmt.Errorf("scope: %.40q is none of %s", c.Scope, strings.Join(scopes, ", "))
	case !(c.MaxTemperature >= 0 && c.MaxTemperature <= 2): // written so that NaN fails
		return fmt.Errorf("max_temperature: %v is not within 0 and 2", c.MaxTemperature)
	}
	return nil
}
