package kv

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
)

// A choice is kept in the metadata of the bucket's stream: there nothing evicts
// it, it outlives restarts, and every process reads it each second anyway, with
// the bucket's first sequence.
const (
	metaStrategy  = "processor.strategy"
	metaLocalSize = "processor.local_size"
)

// CacheChoice is a strategy and a size of the memory that was chosen at run time:
// all processes follow it in the place of what their configuration says.
type CacheChoice struct {
	Strategy  string `json:"strategy"`
	LocalSize int64  `json:"local_size"` // bytes
}

func (c CacheChoice) validate() error {
	switch {
	case !slices.Contains(strategies, c.Strategy):
		return fmt.Errorf("strategy %.40q is none of %v", c.Strategy, strategies)
	case c.LocalSize < 0:
		return fmt.Errorf("local size %d is negative", c.LocalSize)
	}
	return nil
}

// readChoice reads a choice; chosen is false where there is none, or none that can be used.
func readChoice(metadata map[string]string) (choice CacheChoice, chosen bool) {
	size, err := strconv.ParseInt(metadata[metaLocalSize], 10, 64)
	choice = CacheChoice{Strategy: metadata[metaStrategy], LocalSize: size}
	return choice, err == nil && choice.validate() == nil
}

// adopt follows what was chosen, or the configuration where nothing is.
func (c *Cache) adopt(metadata map[string]string) {
	choice, chosen := readChoice(metadata)
	c.mu.Lock()
	if !chosen {
		choice = c.local.configuredChoice()
	}
	changed := choice != c.local.choice
	if changed {
		c.local.follow(choice)
	}
	c.mu.Unlock()
	if changed {
		slog.Info("the cache follows another strategy or size", "strategy", choice.Strategy, "local_size", choice.LocalSize)
	}
}

// Choice gives what is followed now.
func (c *Cache) Choice() CacheChoice {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.local.choice
}

// Choice gives what was chosen for all processes.
func (s *CacheStore) Choice(ctx context.Context) (choice CacheChoice, chosen bool, err error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return choice, false, fmt.Errorf("looking at bucket %s: %w", s.bucket, err)
	}
	choice, chosen = readChoice(info.Config.Metadata)
	return choice, chosen, nil
}

// Choose has all processes follow a strategy and a size, within about a second,
// until something else is chosen; nil returns to what their configuration says.
func (s *CacheStore) Choose(ctx context.Context, choice *CacheChoice) error {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("looking at bucket %s: %w", s.bucket, err)
	}
	cfg := info.Config
	cfg.Metadata = maps.Clone(cfg.Metadata)
	delete(cfg.Metadata, metaStrategy)
	delete(cfg.Metadata, metaLocalSize)
	if choice != nil {
		if err := choice.validate(); err != nil {
			return err
		}
		if cfg.Metadata == nil {
			cfg.Metadata = map[string]string{}
		}
		cfg.Metadata[metaStrategy] = choice.Strategy
		cfg.Metadata[metaLocalSize] = strconv.FormatInt(choice.LocalSize, 10)
	}
	if s.stream, err = s.js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("storing the choice in bucket %s: %w", s.bucket, err)
	}
	return nil
}
