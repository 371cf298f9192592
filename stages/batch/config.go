// Package batch groups requests that may be generated together.
package batch

import (
	"fmt"
	"time"

	"github.com/adpa/processor/internal/units"
)

// Config is the section batch: of the configuration.
type Config struct {
	// MaxBatchSize is how many requests a batch holds at most. Default 10.
	MaxBatchSize int `yaml:"max_batch_size"`
	// Timeout is how long a request waits at most for others of its kind; 0 is
	// not at all. Interactive chats never wait; embeddings and class batch wait
	// 2 to 50 ms, by the rate of their arrival, and never longer than this.
	// Default 1s.
	Timeout units.Duration `yaml:"timeout"`
	// PrefixWait is how long a request waits at most for the first token of
	// another of its tenant and model whose prompt begins with the same 1,024 or
	// more tokens, so that the provider has them in its cache. It holds no worker
	// meanwhile, and waits for no longer than half the time until its deadline. 0
	// has nobody wait. Default 5s.
	PrefixWait units.Duration `yaml:"prefix_wait"`
}

// DefaultConfig gives the defaults.
func DefaultConfig() Config {
	return Config{MaxBatchSize: 10, Timeout: units.Duration(time.Second), PrefixWait: units.Duration(5 * time.Second)}
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c Config) Validate() error {
	if c.MaxBatchSize < 1 || c.MaxBatchSize > 1000 {
		return fmt.Errorf("max_batch_size: %d is not within 1 and 1000", c.MaxBatchSize)
	}
	if c.Timeout.Std() > 10*time.Minute {
		return fmt.Errorf("timeout: %v is more than 10m", c.Timeout)
	}
	if c.PrefixWait.Std() > time.Minute {
		return fmt.Errorf("prefix_wait: %v is more than 1m", c.PrefixWait)
	}
	return nil
}
