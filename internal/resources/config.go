// Package resources keeps a process within the memory and the processors that
// it may use.
package resources

import (
	"fmt"
	"slices"
	"strings"

	"github.com/adpa/processor/internal/units"
)

// The priorities of a process.
const (
	Low    = "low"
	Normal = "normal"
	High   = "high"
)

var priorities = []string{Low, Normal, High}

// Config is the section resources: of the configuration.
type Config struct {
	// MaxMemory is what the process may use. A server that runs in the process
	// (nats.url is empty) has up to 256MB beside it, for blocks of the streams
	// that it keeps in memory for ten seconds. Default 4GB.
	MaxMemory units.Bytes `yaml:"max_memory"`
	// GCThreshold is the share of max_memory past which the process pulls less
	// and collects garbage harder, 0 to 1. Default 0.8.
	GCThreshold float64 `yaml:"gc_threshold"`
	// MaxThreads is how many processors are used at a time; 0 (the default)
	// means as many as there are.
	MaxThreads int `yaml:"max_threads"`
	// Priority is that of the process among others: low, normal or high, which
	// may need a right of the system. Default normal.
	Priority string `yaml:"priority"`
	// BufferSize is that of the buffers for reading and writing files and
	// connections. Default 1MB.
	BufferSize units.Bytes `yaml:"buffer_size"`
	// AsyncIO true means that what is published is sent before the answers to
	// what was published earlier have come. Default true.
	AsyncIO bool `yaml:"async_io"`
}

// DefaultConfig gives the defaults.
func DefaultConfig() Config {
	return Config{MaxMemory: 4 * units.GB, GCThreshold: 0.8, Priority: Normal, BufferSize: units.MB, AsyncIO: true}
}

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c Config) Validate() error {
	switch {
	case c.MaxMemory < 64*units.MB:
		return fmt.Errorf("max_memory: %v is less than 64MB, with which the process cannot work", c.MaxMemory)
	case !(c.GCThreshold > 0 && c.GCThreshold <= 1): // written so that NaN fails
		return fmt.Errorf("gc_threshold: %v is not above 0 and at most 1", c.GCThreshold)
	case c.MaxThreads < 0 || c.MaxThreads > 4096:
		return fmt.Errorf("max_threads: %d is not within 0 and 4096", c.MaxThreads)
	case !slices.Contains(priorities, c.Priority):
		return fmt.Errorf("priority: %.40q is none of %s", c.Priority, strings.Join(priorities, ", "))
	case c.BufferSize < 4*units.KB || c.BufferSize > 64*units.MB:
		return fmt.Errorf("buffer_size: %v is not within 4KB and 64MB", c.BufferSize)
	}
	return nil
}

// ConnectionBuffer is what a connection's buffer takes: a 64th of buffer_size,
// from 4 to 64 KB, since there are many of them.
func (c Config) ConnectionBuffer() int {
	return int(min(max(c.BufferSize/64, 4*units.KB), 64*units.KB))
}
