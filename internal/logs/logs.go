// Package logs configures what a process says of its own work.
package logs

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// The levels, from the least that is said to the most, and the formats.
const (
	Error = "error"
	Warn  = "warn"
	Info  = "info"
	Debug = "debug"

	Text = "text"
	JSON = "json"
)

var (
	levels  = map[string]slog.Level{Error: slog.LevelError, Warn: slog.LevelWarn, Info: slog.LevelInfo, Debug: slog.LevelDebug}
	formats = []string{Text, JSON}
)

// Config is the section log: of the configuration.
type Config struct {
	// Level is the least that is written to standard error: error, warn, info or
	// debug. Default info. Whatever it is, nothing is written for each request.
	Level string `yaml:"level"`
	// Format is text, a line of key=value pairs, or json, an object a line.
	// Default text.
	Format string `yaml:"format"`
}

// DefaultConfig gives the defaults.
func DefaultConfig() Config { return Config{Level: Info, Format: Text} }

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c Config) Validate() error {
	if _, ok := levels[c.Level]; !ok {
		return fmt.Errorf("level: %.40q is none of error, warn, info, debug", c.Level)
	}
	if !slices.Contains(formats, c.Format) {
		return fmt.Errorf("format: %.40q is none of %s", c.Format, strings.Join(formats, ", "))
	}
	return nil
}

// New makes a logger that writes to w. The configuration must be valid.
func (c Config) New(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: levels[c.Level]}
	if c.Format == JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
